"""A prompt as the arguments of its model's own forward and generate."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..uploads import upload

if TYPE_CHECKING:
    from ..prompts.prompt import Prompt
    from .base import Model


def forward_inputs(model: Model, prompt: Prompt) -> dict[str, Any]:
    """Keyword arguments for `model.hf` and `model.hf.generate`: the prompt alone in its batch, on the model's device.

    Beside the ids [1, N] (or embeddings [1, N, D]) and the media there is always an attention_mask [1, N].
    position_ids are int64 [3, 1, N], or [1, N] where they are one-dimensional, and absent where the model counts them
    itself. generate makes four rows for itself, the first of text positions, only to find packed sequences by the gaps
    in it. Of three rows there is no such search, and so they serve both calls.

    Raises:
        InputError: a prompt of another model, with inputs that this one does not take.
    """
    _check_names(model, prompt)
    n, device = len(prompt), model.device
    inputs: dict[str, Any] = {}
    if prompt.inputs_embeds is not None:
        inputs["inputs_embeds"] = prompt.inputs_embeds[None].to(device, model.dtype)
        if prompt.position_ids is None:
            inputs["position_ids"] = torch.arange(n, device=device)[None]  # or Omni adds the last prompt's rope_deltas
    elif prompt.input_ids is not None:  # as it is where there are no embeddings
        inputs |= prompt.model_inputs or {"input_ids": prompt.input_ids[None]}
    if prompt.position_ids is not None:
        inputs["position_ids"] = prompt.position_ids.unsqueeze(-2)
    # Without a mask transformers takes one-dimensional positions with gaps for several packed sequences.
    inputs.setdefault("attention_mask", torch.ones(1, n, dtype=torch.long))
    return {name: upload(v, device) if isinstance(v, torch.Tensor) else v for name, v in inputs.items()}


def placeholders(model: Model) -> set[int]:
    """Token ids in whose place the model's forward puts media, by its config."""
    names = (f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index"))
    found = (getattr(model.hf.config, name, None) for name in names)
    return {token for token in found if isinstance(token, int)}


def _check_names(model: Model, prompt: Prompt) -> None:
    """A forward that takes any keyword drops what it does not know: media would be left out without a word."""
    known: set[str] = set()
    for module in (model.hf, getattr(model.hf, "model", None)):  # what the first does not name it passes on
        known |= set() if module is None else set(inspect.signature(module.forward).parameters)
    if "input_ids" not in known:
        return  # somebody's wrapper, which does not say what it takes
    others = sorted(set(prompt.model_inputs or ()) - known)
    if others:
        raise InputError(
            f"prompt {prompt.id!r} has {', '.join(others)}, which {type(model.hf).__name__} does not take: is it a "
            "prompt of another model? Prepare the sample with this one"
        )
