"""Forwards that read nothing but answer tokens: every layer takes all rows, and one problem serves a whole generation.

The problem has room for keys to come (its capacity), and the rows' orders travel with each call. So a step builds
nothing, and torch.compile sees fixed shapes: its graph takes the orders from the cache's own counter on the device.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from avflow_ext import AttentionProblem

from ..errors import InputError
from ..knockouts.knockout import Semantics
from ..models.attention import attention
from ..models.compat import cache_in
from ..models.windows import layer_windows
from .cache import is_static
from .conversation import Conversation, conversation_of, remember
from .state import Interventions

if TYPE_CHECKING:
    from ..models.compat import AttentionModule

SPARE = 256  # keys more than there are now, at least; a cache that outgrows them gets a new problem

Layers = list[tuple[AttentionProblem, Semantics]]  # per layer its problem and the semantics of its cuts


class Step:
    """The attention of one forward."""

    def __init__(self, layers: Layers, order: torch.Tensor) -> None:
        self.layers, self.order = layers, order  # order: int32 [batch * rows]

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        batch, heads, rows, d = q.shape
        problem, semantics = self.layers[module.layer_idx]
        q = q.transpose(1, 2).reshape(batch * rows, heads, d)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # [batch, slots, kv_heads, d]; a cache's own memory
        out = attention(q, k, v, problem, scale=scale, semantics=semantics, row_order=self.order).out
        return out.view(batch, rows, heads, d)


def prepare(interventions: Interventions, state: Conversation, rows: int, slots: int | None = None) -> Layers:
    """Per layer the problem for `rows` answer tokens per sequence, and the semantics of its cuts.

    slots: keys per sequence that every layer's cache has memory for; None where it grows.
    """
    found = state.prepared.get(rows)
    if found is not None and found[0] == interventions.version and state.tail + rows <= found[1]:
        return found[2]
    made: dict[Any, AttentionProblem] = {}
    layers: Layers = []
    windows = layer_windows(interventions.model.text_model)
    room = state.tail + rows + SPARE if slots is None else slots
    for layer in range(interventions.model.n_layers):
        cuts, semantics = interventions.cuts(layer)
        key = (state.segment(layer), cuts, windows[layer])
        if key not in made:
            held = state.physical(layer) - state.tail
            capacity = slots if slots is not None else -(-(held + room) // SPARE) * SPARE
            made[key] = state.growing_problem(key[0], rows, cuts, key[2], capacity)
        # Packed here, since a compiled forward cannot.
        ratio, device = interventions.model.n_heads // interventions.model.n_kv_heads, interventions.model.device
        if device.type == "cuda":
            made[key].packed_on(device, ratio, semantics)
        else:
            made[key].packed(ratio, semantics)
        layers.append((made[key], semantics))
    state.prepared[rows] = (interventions.version, room, layers)
    return layers


class Decoding:
    """A forward of answer tokens, run by Python. It stands where a `Prefill` does."""

    def __init__(
        self, interventions: Interventions, cache: Any, state: Conversation, new: int, ids: torch.Tensor | None
    ) -> None:
        self.interventions, self.cache, self.state, self.new, self.ids = interventions, cache, state, new, ids
        self.step: Step  # of `begin`
        self.asked: Counter[int] = Counter()  # by layer, the calls of its attention

    def begin(self, mask: Any) -> None:
        past = len(self.state)
        order = torch.arange(past, past + self.new, dtype=torch.int32, device=self.interventions.model.device)
        slots = self.cache.layers[0].get_max_length()
        layers = prepare(self.interventions, self.state, self.new, slots if slots > 0 else None)
        self.step = Step(layers, order.repeat(self.state.batch))

    def enter_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        return None

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        self.asked[module.layer_idx] += 1
        held = self.state.physical(module.layer_idx) + self.new
        if q.shape[2] != self.new or k.shape[2] < held or (k.shape[2] > held and not is_static(self.cache)):
            raise InputError(
                f"layer {module.layer_idx} runs {q.shape[2]} rows on {k.shape[2]} keys, expected are {self.new} and "
                f"{held}: call model.hf (forward or generate), not a part of it; a decoder whose layers share keys "
                "cannot lose tokens between them"
            )
        return self.step(module, q, k, v, mask, scale)

    def finish(self, cache: Any, rope_deltas: list[Any]) -> None:
        self.state.count_answers(self.new, self.ids)
        self.state.rope_deltas = rope_deltas
        remember(cache, self.state)


def compiled_step(interventions: Interventions, kwargs: dict[str, Any]) -> Step:
    """The same within torch.compile: nothing but tensors may change from step to step.

    Raises:
        InputError: no uncompiled forward has prepared the cache; compiled are only steps of one token.
    """
    cache, ids = cache_in(kwargs), kwargs.get("input_ids")
    batch, rows = (kwargs["inputs_embeds"] if ids is None else ids).shape[:2]
    state = conversation_of(cache)
    found = None if state is None else state.prepared.get(rows)
    if state is None or found is None or found[0] != interventions.version:
        raise InputError(
            f"a compiled forward of {rows} tokens: within avflow.evict and avflow.knockout read the prompt uncompiled, "
            "into a static cache; steps of one token may then be compiled (as generate does)"
        )
    state.unseen = True
    # The first layer holds every token, so its counter is the order of the next.
    first = cache.layers[0].cumulative_length
    order = (first + torch.arange(rows, device=first.device)).to(torch.int32)
    return Step(found[2], order.repeat(batch))
