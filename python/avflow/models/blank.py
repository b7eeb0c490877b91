"""A prompt's media as if nothing had been recorded: black frames, and silence; tokens and positions stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..errors import InputError
from ..prompts.prompt import Prompt
from .base import Model

KINDS = ("silence", "black")
_SOUND = ("input_features", "audio_features")
_PICTURES = {"pixel_values_videos": "video_processor", "pixel_values": "image_processor"}
# What a WhisperFeatureExtractor makes of zeros: log10 of its floor 1e-10, then (x + 4) / 4.
_SILENCE = -1.5


def blanked(model: Model, prompt: Prompt, kinds: tuple[str, ...]) -> Prompt:
    """The prompt with silent sound ("silence"), black pictures ("black"), or both.

    Raises:
        InputError: the prompt has no such medium, or the model no processor to say what black is.
    """
    inputs = dict(prompt.model_inputs or {})
    for kind in kinds:
        names = [name for name in (_SOUND if kind == "silence" else _PICTURES) if inputs.get(name) is not None]
        if not names:
            what = "sound" if kind == "silence" else "picture"
            raise InputError(f"prompt {prompt.id!r} has no {what}: {kind} cannot take its place")
        for name in names:
            inputs[name] = torch.full_like(inputs[name], _SILENCE) if kind == "silence" else _black(model, name, inputs)
    return dataclasses.replace(prompt, model_inputs=inputs)


def _black(model: Model, name: str, inputs: dict[str, Any]) -> torch.Tensor:
    """Patches [patches, 3 x values] of black pixels, as the model's own processor makes them."""
    pictures = getattr(model.processor, _PICTURES[name], None)
    # transformers' processors have them in 0 .. 1, avflow's own in 0 .. 255: their quotient is the same.
    mean, std = (getattr(pictures, f"image_{what}", getattr(pictures, what, None)) for what in ("mean", "std"))
    if mean is None or std is None:
        raise InputError(
            "black frames need the model's processor, which says what black is: load the model with avflow.load, or "
            "pass its processor to avflow.wrap"
        )
    given = inputs[name]
    black = -torch.as_tensor(mean).double() / torch.as_tensor(std).double()  # [3]
    each = black.to(given.dtype).repeat_interleave(given.shape[-1] // 3)  # a patch holds its channels one by one
    return each.expand(given.shape).clone()
