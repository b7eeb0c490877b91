"""What the decoder is given: embeddings and rotary tables, taken from the model's own forward, labels beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import InputError, NumericError
from ..models.attention import register
from ..models.base import Model
from ..models.compat import (
    attention_name,
    attributes,
    check_layers,
    kept_state,
    open_block,
    position_after,
    rope_owners,
)
from ..models.decoder_inputs import check_decoder_arguments
from ..models.deepstack import Deepstack, deepstack_of
from ..models.evaluating import in_eval_mode
from ..models.every_module import every_module
from ..models.head import is_plain
from ..models.inputs import forward_inputs
from ..models.ownership import check_owner
from ..models.proof import turn
from ..models.uncompiled import check_uncompiled, is_wrapped, layers_of, whole
from ..prompts.prompt import Prompt
from .jobs import Columns
from .layers import arguments_of, layer_input
from .row_wise import check_row_wise


@dataclass
class Captured:
    """One prompt, ready for the first decoder layer; its answer's tokens but the last are appended."""

    prompt: Prompt
    columns: Columns
    hidden: torch.Tensor  # [1, n, D]
    cos: torch.Tensor  # [1, n, d]
    sin: torch.Tensor  # [1, n, d]
    positions: torch.Tensor | None  # [3, 1, n] or [1, n] as the decoder was given them; None: it counts itself
    after: float  # the position of the first token that generate would append
    nth: bool = False  # of `Model.check_every`: its clean run is compared with the model's own forward
    altered: bool = False  # its embeddings are no longer those that the model's own forward makes
    deep: Deepstack | None = None  # what the decoder adds to the rows of pictures behind its first layers
    finite: torch.Tensor | None = None  # whether the embeddings are, bool []; asked by `check_embeddings`
    compared: set[str] = field(default_factory=set)  # the ways to run it that were

    def __len__(self) -> int:
        return len(self.columns)


def columns_of(model: Model, prompt: Prompt) -> Columns:
    """Labels of the prompt and of the answer tokens that the walk appends.

    Raises:
        InputError: a prompt without an answer.
    """
    prompt.check_answered()
    extra = len(prompt.answer_ids) - 1
    group = model.groups.ids([*prompt.groups, *["answer"] * extra])
    item = np.array([*prompt.items, *[-1] * extra], np.int32)
    return Columns(group, item, len(prompt))


def _embed(model: Model, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor | None, float, Deepstack | None]:
    """Embeddings [1, N, D], position ids ([3, 1, N], [1, N] or None) of the prompt, the position after it, deepstack.

    Media are encoded here, once.
    """
    after: float | None = None
    deep: Deepstack | None = None
    if prompt.inputs_embeds is not None:
        embeds = prompt.inputs_embeds[None].to(model.device, model.dtype)
        if embeds.shape[-1] != model.config.hidden_size:
            raise InputError(
                f"prompt {prompt.id!r}: inputs_embeds is {embeds.shape[-1]} wide, the model {model.config.hidden_size}"
            )
        positions: torch.Tensor | None = None
    else:
        inputs = forward_inputs(model, prompt)
        # Masks are made by the mask function of the name in force: avflow's makes none, and looks at what is asked for.
        named = attention_name(model.text_model, register())
        with kept_state(model.hf), attributes(model.family.patches(model)), named:
            for owner in rope_owners(every_module(model.hf)):
                owner.__dict__["rope_deltas"] = None  # of an earlier prompt
            args, kwargs = arguments_of(model.text_model, lambda: model.hf(**inputs, use_cache=False))
            after = position_after(every_module(model.hf), len(prompt))
        seen = check_decoder_arguments(model.text_model, args, kwargs)
        given, positions = seen.get("inputs_embeds"), seen.get("position_ids")
        embeds = model.text_model.embed_tokens(seen["input_ids"]) if given is None else given
        deep = deepstack_of(seen, embeds.dtype)
        if embeds.shape[1] != len(prompt):
            raise InputError(f"prompt {prompt.id!r}: the model reads {embeds.shape[1]}, groups name {len(prompt)}")
        if positions is not None and positions.dim() == 3 and positions.shape[0] == 4:
            positions = positions[1:]  # row 0 holds text positions, for packed masks only
    if prompt.position_ids is not None:
        positions, after = prompt.position_ids.to(model.device).unsqueeze(-2), None  # [3, 1, N] or [1, N]
    if after is None:
        after = len(prompt) if positions is None else positions.max().item() + 1
    return embeds, positions, after, deep


@torch.no_grad()
def capture(model: Model, prompt: Prompt) -> Captured:
    """Embeds the prompt and stops before the first decoder layer.

    Raises:
        InputError: a prompt that does not fit the model; the message names the value. An open block of
            avflow.knockout or avflow.evict.
        UnsupportedModelError: a decoder that is not plain causal attention, or is given more than a walk carries; a
            model that was compiled as a whole.
        NumericError: the model's encoders gave NaN or infinity.
    """
    captured = begin_capture(model, prompt)
    check_embeddings(captured)
    return captured


@torch.no_grad()
def begin_capture(model: Model, prompt: Prompt) -> Captured:
    """As `capture`, without waiting for the device at the end: what the host can do meanwhile, it may.

    `check_embeddings` is due before the prompt is used. Raises as `capture`, but for the NumericError.
    """
    check_owner(model.text_model)
    block = open_block(model.text_model)
    if block is not None:
        raise InputError(
            f"within a block of {block.interventions.block} the model runs with what it cuts: leave the block "
            "before a sweep or another experiment"
        )
    check_layers(model.text_model)
    check_row_wise(model)
    wrapped = [(name, layer) for name, layer in layers_of(model.text_model) if is_wrapped(layer)]
    check_uncompiled(whole(model.hf), "avflow stops its forward before the first decoder layer")
    check_uncompiled(wrapped, "avflow looks at what the decoder gives a layer")
    with in_eval_mode(model):
        if model.plain_head is None:
            model.plain_head = is_plain(model)  # here, where the device may be waited for
        return _capture(model, prompt)


def _capture(model: Model, prompt: Prompt) -> Captured:
    prompt.check_vocab(model.vocab)
    columns = columns_of(model, prompt)
    hidden, positions, after, deep = _embed(model, prompt)
    extra = len(prompt.answer_ids) - 1
    if extra:
        ids = torch.tensor([prompt.answer_ids[:-1]], device=model.device)
        hidden = torch.cat([hidden, model.text_model.embed_tokens(ids).to(hidden.dtype)], 1)
        if positions is not None:
            # The model's own positions go on from the last one, as in its generate; that need not be the largest.
            end = positions[..., -1:] if prompt.position_ids is None else positions.max()
            more = (end + 1 + torch.arange(extra, device=positions.device)).expand(*positions.shape[:-1], -1)
            positions = torch.cat([positions, more], -1)
    hidden, (cos, sin) = layer_input(model, hidden, positions)
    finite = torch.isfinite(hidden).all()
    return Captured(prompt, columns, hidden, cos, sin, positions, after, turn(model), deep=deep, finite=finite)


def check_embeddings(captured: Captured) -> None:
    """Raises NumericError where the embeddings hold NaN or infinity. Waits for the device, the first time."""
    if captured.finite is not None and not bool(captured.finite):
        name = captured.prompt.id
        raise NumericError(f"prompt {name!r}: its embeddings hold NaN or infinity: look at media and weights")
    captured.finite = None
