"""A prompt as the arguments of its model's own forward and generate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..prompts.prompt import Prompt
    from .base import Model


def forward_inputs(model: Model, prompt: Prompt) -> dict[str, Any]:
    """Keyword arguments for `model.hf` and `model.hf.generate`: the prompt alone in its batch, on the model's device.

    Beside the ids [1, N] (or embeddings [1, N, D]) and the media there is always an attention_mask [1, N].
    position_ids are int64 [4, 1, N] (text positions, then the prompt's own three), [1, N] for one-dimensional ones, and
    absent where the model counts them itself.
    """
    n, device = len(prompt), model.device
    if prompt.inputs_embeds is not None:
        inputs: dict[str, Any] = {"inputs_embeds": prompt.inputs_embeds[None].to(device, model.dtype)}
        if prompt.position_ids is None:
            inputs["position_ids"] = torch.arange(n, device=device)[None]  # or Omni adds the last prompt's rope_deltas
    else:
        inputs = dict(prompt.model_inputs or {"input_ids": prompt.input_ids[None]})
    if prompt.position_ids is not None:
        inputs["position_ids"] = _positions(prompt.position_ids)
    # Without a mask forward takes position ids with gaps for several packed sequences.
    inputs.setdefault("attention_mask", torch.ones(1, n, dtype=torch.long))
    return {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in inputs.items()}


def _positions(own: torch.Tensor) -> torch.Tensor:
    """int64 [3, N] -> [4, 1, N]; [N] -> [1, N].

    Both calls take three rows too, but only four are safe in both: generate drops a mask of ones, and where it then
    runs without a cache, the row that transformers looks for gaps is the first. Of four rows that is the text's, which
    has none; forward leaves it out of the rotary tables.
    """
    if own.dim() == 1:
        return own[None]
    text = torch.arange(own.shape[-1], dtype=own.dtype, device=own.device)
    return torch.cat([text[None], own])[:, None]
