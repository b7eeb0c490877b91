"""What the decoder is given: embeddings and rotary tables, taken from the model's own forward, labels beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InputError, NumericError
from ..models.attention import register
from ..models.base import Model
from ..models.compat import attention_name, attributes, kept_state
from ..prompts.prompt import Prompt
from .jobs import Columns


@dataclass
class Captured:
    """One prompt, ready for the first decoder layer; its answer's tokens but the last are appended."""

    prompt: Prompt
    columns: Columns
    hidden: torch.Tensor  # [1, n, D]
    cos: torch.Tensor  # [1, n, d]
    sin: torch.Tensor  # [1, n, d]
    positions: torch.Tensor | None  # int64 [3, 1, n] or [1, n] as the decoder was given them; None: it counts itself

    def __len__(self) -> int:
        return len(self.columns)


class _Stop(Exception):
    """Leaves the model's forward once what we came for is in hand."""

    def __init__(self, kwargs: dict[str, Any], args: tuple[Any, ...]) -> None:
        self.kwargs, self.args = kwargs, args


def _stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _Stop(kwargs, args)


def until(module: torch.nn.Module, call: Any) -> _Stop:
    """Runs `call` until `module` is about to run, and gives that module's arguments."""
    handle = module.register_forward_pre_hook(_stop, with_kwargs=True)
    try:
        call()
    except _Stop as stopped:
        return stopped
    finally:
        handle.remove()
    raise InputError(f"the model's forward never reached {type(module).__name__}: is it of another family?")


def columns_of(model: Model, prompt: Prompt) -> Columns:
    """Labels of the prompt and of the answer tokens that the walk appends."""
    extra = len(prompt.answer_ids) - 1
    group = model.groups.ids([*prompt.groups, *["answer"] * extra])
    item = np.array([*prompt.items, *[-1] * extra], np.int32)
    return Columns(group, item, len(prompt))


def _to_device(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _embed(model: Model, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings [1, N, D] and position ids ([3, 1, N], [1, N] or None) of the prompt; media are encoded here, once."""
    if prompt.inputs_embeds is not None:
        embeds = prompt.inputs_embeds[None].to(model.device, model.dtype)
        if embeds.shape[-1] != model.config.hidden_size:
            raise InputError(
                f"prompt {prompt.id!r}: inputs_embeds is {embeds.shape[-1]} wide, the model {model.config.hidden_size}"
            )
        positions = None
    else:
        inputs = dict(prompt.model_inputs or {"input_ids": prompt.input_ids[None]})
        inputs = {name: _to_device(value, model.device) for name, value in inputs.items()}
        with kept_state(model.hf), attributes(model.family.quicker(model)):
            seen = until(model.text_model, lambda: model.hf(**inputs, use_cache=False)).kwargs
        embeds, positions = seen.get("inputs_embeds"), seen.get("position_ids")
        if embeds is None:
            embeds = model.text_model.embed_tokens(seen["input_ids"])
        if embeds.shape[1] != len(prompt):
            raise InputError(f"prompt {prompt.id!r}: the model reads {embeds.shape[1]}, groups name {len(prompt)}")
        if positions is not None and positions.dim() == 3 and positions.shape[0] == 4:
            positions = positions[1:]  # row 0 holds text positions, for packed masks only
    if prompt.position_ids is not None:
        positions = prompt.position_ids.to(model.device).unsqueeze(-2)  # [3, 1, N] or [1, N]
    return embeds, positions


@torch.no_grad()
def capture(model: Model, prompt: Prompt) -> Captured:
    """Embeds the prompt and stops before the first decoder layer.

    Raises:
        InputError: a prompt that does not fit the model; the message names the value.
        NumericError: the model's encoders gave NaN or infinity.
    """
    prompt.check_vocab(model.vocab)
    columns = columns_of(model, prompt)
    hidden, positions = _embed(model, prompt)
    extra = len(prompt.answer_ids) - 1
    if extra:
        ids = torch.tensor([prompt.answer_ids[:-1]], device=model.device)
        hidden = torch.cat([hidden, model.text_model.embed_tokens(ids).to(hidden.dtype)], 1)
        if positions is not None:
            # The model's own positions go on from the last one, as in its generate; that need not be the largest.
            end = positions[..., -1:] if prompt.position_ids is None else positions.max()
            more = (end + 1 + torch.arange(extra, device=positions.device)).expand(*positions.shape[:-1], -1)
            positions = torch.cat([positions, more], -1)
    # The decoder's own forward makes the rotary tables, up to its first layer.
    with attention_name(model.text_model, register()):
        first = until(
            model.layers[0],
            lambda: model.text_model(inputs_embeds=hidden, position_ids=positions, use_cache=False),
        )
    hidden = first.args[0] if first.args else first.kwargs["hidden_states"]
    cos, sin = first.kwargs["position_embeddings"]
    if not bool(torch.isfinite(hidden).all()):
        raise NumericError(f"prompt {prompt.id!r}: its embeddings hold NaN or infinity: look at media and weights")
    return Captured(prompt, columns, hidden, cos, sin, positions)
