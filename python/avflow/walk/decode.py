"""Greedy decoding of all streams of a walk together: every step is one pass of one row per stream.

A stream that has not joined in a layer is the clean run there: its tokens see the clean rows. In later layers they see
its own rows, and the clean ones before its start. Tokens that it generates are its own in every layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens

from ..knockouts.knockout import Semantics
from ..models.attention import attention
from ..models.base import Model
from ..models.compat import attributes
from ..models.end_tokens import end_tokens
from ..models.evaluating import in_eval_mode
from ..models.fused import fused_layers
from ..models.windows import layer_windows
from ..uploads import upload
from .capture import Captured
from .layers import layer_input, run_layers
from .layout import Layout
from .places import in_all_layers, places_of, with_places

if TYPE_CHECKING:
    from ..models.compat import AttentionModule


class StreamKeys:
    """Keys and values of a walk's rows in every layer, with room for the tokens that are generated.

    One prompt, and no two of its jobs share a stream (`sweep_text.separate`).
    """

    def __init__(
        self,
        model: Model,
        captured: Captured,
        group: np.ndarray,
        layout: Layout,
        cuts: Sequence[Sequence[Cut]],
        room: int,
    ) -> None:
        """group: int32 [n], of every token, by the numbers that the cuts have."""
        self.streams, self.room, self.layout = len(layout.parent), room, layout
        self.n = len(captured)
        group = group[layout.token]
        item = captured.columns.item[layout.token]
        answer = np.full(self.streams * room, model.groups["answer"])
        made = np.repeat(np.arange(room), self.streams)  # token by token: the first of every stream, then the second
        self.stream = np.tile(np.arange(self.streams), room)
        self.problems: list[AttentionProblem] = []
        windows = layer_windows(model.text_model)
        for layer, rows in enumerate(layout.rows):
            columns = (
                np.concatenate([layout.order[:rows], self.n + made]),
                np.concatenate([group[:rows], answer]),
                np.concatenate([item[:rows], np.full(len(answer), -1)]),
                np.concatenate([layout.stream[:rows], self.stream]),
            )
            there = layout.first_row < rows  # joined by now
            tokens = Tokens(*(torch.from_numpy(c) for c in columns))
            problem = AttentionProblem(
                rows=tokens.select(torch.arange(rows, rows + self.streams)),
                keys=tokens,
                streams=Streams(
                    torch.from_numpy(layout.parent), torch.from_numpy(np.where(there, layout.start, self.n))
                ),
                cuts=cuts[layer],
                latest_order=self.n + room - 1,
                window=windows[layer],
            )
            self.problems.append(problem)
        self.keys: list[torch.Tensor] = [torch.empty(0)] * len(layout.rows)
        self.values: list[torch.Tensor] = [torch.empty(0)] * len(layout.rows)

    def hold(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Takes a layer's rows from the walk, [rows, kv_heads, d] each."""
        extra = self.streams * self.room
        self.keys[layer] = k.new_zeros(k.shape[0] + extra, *k.shape[1:])
        self.values[layer] = v.new_zeros(v.shape[0] + extra, *v.shape[1:])
        self.keys[layer][: k.shape[0]] = k
        self.values[layer][: v.shape[0]] = v


class _Step:
    """One layer's attention of a step: one row per stream, whose key and value are kept before it attends."""

    def __init__(self, held: StreamKeys, step: int, order: torch.Tensor, semantics: Semantics, layer: int) -> None:
        self.held, self.step, self.order, self.semantics, self.layer = held, step, order, semantics, layer

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        held, layer = self.held, self.layer
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))  # [streams, heads or kv_heads, d]
        at = held.layout.rows[layer] + self.step * held.streams
        held.keys[layer][at : at + held.streams] = k
        held.values[layer][at : at + held.streams] = v
        keys, values, problem = held.keys[layer], held.values[layer], held.problems[layer]
        out = attention(q, keys, values, problem, scale=scale, semantics=self.semantics, row_order=self.order).out
        return out[None]


@torch.no_grad()
def decode(
    model: Model,
    captured: Captured,
    held: StreamKeys,
    first: Sequence[int],
    count: int,
    semantics: Semantics,
    see: Callable[[torch.Tensor], None] | None = None,
) -> list[list[int]]:
    """Up to `count` tokens of every stream, the given first one included; an end token is the last of its answer.

    see: called in every step with its logits [streams, vocab].
    """
    ends = end_tokens(model)
    made = [[int(token)] for token in first]
    where = captured.positions
    shape = (1,) if where is None else where.shape[:-1]
    with in_eval_mode(model):
        fused = fused_layers(model)
        for step in range(count - 1):
            if all(tokens[-1] in ends for tokens in made):
                break
            ids = upload(torch.tensor([[tokens[-1] for tokens in made]]), model.device)  # [1, streams]
            # All streams stand at one position, whatever their tokens are.
            positions = torch.full((*shape, held.streams), captured.after + step, device=model.device)
            hidden, tables = layer_input(model, model.text_model.embed_tokens(ids), positions, held.n + step + 1)
            order = torch.full((held.streams,), held.n + step, dtype=torch.int32, device=model.device)
            step_call = functools.partial(_Step, held, step, order, semantics)
            here = places_of(positions, held.streams, model.device)
            with attributes([*fused, *with_places(model, in_all_layers(here))]):
                hidden = run_layers(model, hidden, tables, step_call)
            logits = model.logits(hidden)[0]  # [streams, vocab]
            if see:
                see(logits)
            top = logits.argmax(-1).tolist()
            for tokens, token in zip(made, top, strict=True):
                if tokens[-1] not in ends:
                    tokens.append(token)
                # A stream that has ended is fed its end token again: a step keeps one row per stream.
    return made
