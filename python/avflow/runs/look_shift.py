"""`avflow look shift`: the second model of a lens shift, and what it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..data.prepare import PromptSource
from ..errors import InputError
from ..experiments.lens_shift import lens_shift as shift
from ..models.base import Model
from ..prompts.prompt import Prompt
from ..prompts.sample import Sample
from ..results.results import Results


def lens_shift(
    model: Model,
    prompts: PromptSource,
    other: Any,
    tokens: str = "last+answer",
    layers: int | Sequence[int] | None = None,
    without_sound: bool = False,
    prepare: Callable[[Model, Sample], Prompt] | None = None,
    check: str | int | None = None,
) -> Results:
    """`avflow.lens_shift` with its options as a run's config.yaml holds them.

    Args:
        other: the model that a job has loaded by this name. prepare: makes a prompt of a sample as the job does.
        without_sound: the other model reads each sample without its sound; else what `model` reads.
    """
    if not without_sound or prepare is None:
        return shift(model, other, prompts, tokens, layers, check=check)
    return shift(model, other, prompts, tokens, layers, lambda prompt: prepare(other, silent(prompt)), check)


def silent(prompt: Prompt) -> Sample:
    """The prompt's sample without its sound. Raises InputError: there is no sample, or no picture in it."""
    sample = prompt.sample
    if sample is None:
        raise InputError(f"prompt {prompt.id!r} was made of no sample: its sound cannot be left out")
    if sample.video is None and sample.image is None:
        raise InputError(f"sample {sample.id!r} has neither a video nor an image: without sound it has no media")
    own = None if sample.video is None else False  # None: there is no video whose sound could be read
    return dataclasses.replace(sample, audio=None, dub=None, use_audio_in_video=own)
