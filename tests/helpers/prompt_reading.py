"""What stands in a prepared prompt."""

from __future__ import annotations

import itertools

from demo_folder import model


def runs(groups, items) -> list[tuple[str, int, int]]:
    """(group, item, length) of neighbouring tokens that have both in common."""
    return [(*key, len(list(same))) for key, same in itertools.groupby(zip(groups, items, strict=True))]


def text_of(prompt, group, item=None) -> str:
    picked = [
        i for i, g, k in zip(prompt.input_ids.tolist(), prompt.groups, prompt.items, strict=True)
        if g == group and item in (None, k)
    ]  # fmt: skip
    return model().processor.tokenizer.decode(picked)
