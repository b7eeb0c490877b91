"""A sample as the report shows it: its frames and waveforms, what each token is, and the answers with and without a
schedule. report/samples.py writes such samples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..errors import InputError
from ..models.base import Model
from ..prompts.prompt import Prompt
from ..prompts.sample import LETTERS
from ..report.media import media_of
from ..report.tables import tokens_of
from ..runs.told import stretches
from ..runtime.generating import Generated


def sample_view(prompt: Prompt, model: Model) -> dict[str, Any]:
    """The sample of a prompt that `model.prepare` made, as JSON values.

    id, task, question, options [[letter, text]], answer, media (see `report.media.media_of`), tokens: count, groups
    [{group, label, color, hatched, count}] and stretches [[group number, item, first token, tokens, text]]; text is ""
    for media.

    Raises:
        InputError: the prompt was built by hand, from no sample.
    """
    if (sample := prompt.sample) is None:
        raise InputError(
            "this prompt comes from no sample, so there is nothing to show: make it by model.prepare(sample)"
        )
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "options": [[letter, text] for letter, text in zip(LETTERS, sample.options or [], strict=False)],
        "answer": sample.answer,
        "media": media_of(sample),
        "tokens": tokens_of({"count": len(prompt), "stretches": stretches(prompt, model)}),
    }


def answers(clean: Generated, evicted: Generated) -> dict[str, Any]:
    """The answers of one prompt without and with a schedule, and what they took."""
    return {"clean": asdict(clean), "evicted": asdict(evicted), "same": clean.ids == evicted.ids}
