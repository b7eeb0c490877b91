"""In-media cells at a fraction of their price: which of them a sample runs, which are estimates, which are checked.

A cell is *in-media* on a prompt where its knockout changes rows of the media: its stream holds the media's rows anew.
Two ways to pay less for these, both by name; neither is the default:

- `media_until=E`: above layer E, from its window on, a knocked-out stream has no media, neither rows nor keys; what it
  changes is read off against the clean run whose media leave there too. An estimate: what the knockout still changes
  in the media, and passes to the text there, is missing. `media_check` runs a random share of the cells exactly, too.
- `spread=k`: a sample runs every k-th in-media cell. Exact; each cell has about a k-th of the samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from .. import checks
from ..errors import InputError
from ..eviction.schedule import EvictionSchedule
from ..knockouts.sides import Parts
from ..prompts.groups import ALIASES
from ..prompts.prompt import Prompt
from ..prompts.relabel import LEFT

MEDIA = (*ALIASES["media"], *ALIASES["candidates"], "reference")
MOST_SPREAD = 10_000


def last_media_layer(value: Any) -> int | None:
    """`media_until`: a layer, or a schedule's file, of which it is the last layer that its media see; None of None.

    Raises:
        InputError: another type, a file that is no schedule, one in which no media leave.
    """
    if value is None:
        return None
    if not isinstance(value, (str, Path)):
        mend = "give the last layer with media, or the file of a schedule that avflow plan has written"
        return checks.integer("media_until =", value, high=checks.MOST_LAYERS, mend=mend)
    schedule = EvictionSchedule.load(value)
    named = set(MEDIA) | {"media", "candidates"}
    ends = [step.after for step in schedule.steps if step.until is None and named & set(step.group.split("+"))]
    if not ends:
        raise InputError(f"media_until = {checks.shown(str(value))}: in this schedule no media leave for good")
    return max(0, *ends)


def media_word(parts: Parts, prompt: Prompt) -> int:
    """The 64-bit word of the media's groups, with groups of one's own that hold media tokens alone."""
    word = parts.expand("+".join(MEDIA))
    left: Mapping[str, Mapping[str, int]] = prompt.media.get(LEFT, {})
    for name in {own for group in MEDIA for own in left.get(group, {})}:
        if not any(name in gone for group, gone in left.items() if group not in MEDIA):
            word |= parts.expand(name)
    return word


def in_media(start: int | None, media: np.ndarray) -> bool:
    """Whether a stream from row `start` on holds a row of the media. media: bool [n]."""
    return start is not None and bool(media[start:].any())


def turn_of(prompt: str, spread: int) -> int:
    """Which of the `spread` turns a sample has, by its id alone: the same in every run and worker."""
    return _number(prompt) % spread


def is_checked(prompt: str, knockout: str, centre: int, width: int, share: float) -> bool:
    """Whether a cell is among the random share that is run exactly too."""
    return _number("\0".join((prompt, knockout, str(centre), str(width)))) < share * 2**64


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def check_summary(checked: Iterable[Sequence[Any]]) -> dict[str, Any] | None:
    """Of cells that were run both ways, as (knockout, layer, width, change estimated, change exact), in percent: how
    many, mean difference (estimate - exact), mean and largest size of it in points, and the same by path."""
    found = list(checked)
    if not found:
        return None
    by_path: dict[str, list[float]] = {}
    for path, _, _, estimate, exact in found:
        by_path.setdefault(path, []).append(estimate - exact)
    paths = {path: _of(values) for path, values in by_path.items()}
    return {**_of([value for values in by_path.values() for value in values]), "paths": paths}


def described(until: int, found: Mapping[str, Any] | None) -> str:
    """`check_summary` in words; until: `media_until`."""
    text = f"the paths within the media are estimates: without media above layer {until}"
    if not found:
        return f"{text}; none was run exactly (--media-check)"
    worst = max(found["paths"], key=lambda path: found["paths"][path]["largest"])
    return (
        f"{text}; in {found['cells']} cells that were run exactly too they are off by {found['mean']:.2f} points of "
        f"change on average (bias {found['bias']:+.2f}), {found['largest']:.2f} at most ({worst})"
    )


def _of(values: list[float]) -> dict[str, Any]:
    sizes = [abs(value) for value in values]
    return {"cells": len(values), "bias": fmean(values), "mean": fmean(sizes), "largest": max(sizes)}
