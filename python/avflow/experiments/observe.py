"""Looks into a run: the model's own layers over one prompt, with an eye on attention and on hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avflow_ext import AttentionProblem, Cut, Tokens

from ..models.attention import attention
from ..models.base import Model
from ..models.compat import attributes
from ..models.evaluating import in_eval_mode
from ..models.fused import fused_layers
from ..models.windows import layer_windows
from ..prompts.prompt import Prompt
from ..walk.capture import Captured, capture
from ..walk.deep_rows import DeepRows
from ..walk.layers import check_finite, run_layers
from ..walk.places import in_all_layers, places_of, with_places
from ..walk.proof import is_due, prove
from ..walk.row_wise import chunked_mlps

if TYPE_CHECKING:
    from ..models.compat import AttentionModule

OnAttention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], None]
OnHidden = Callable[[int, torch.Tensor], None]


def tokens_of(captured: Captured, group: torch.Tensor | None = None) -> Tokens:
    """The columns of a captured prompt; `group` int [n] takes the place of its groups."""
    columns = captured.columns
    return Tokens(
        order=torch.arange(len(columns)),
        group=torch.from_numpy(columns.group) if group is None else group,
        item=torch.from_numpy(columns.item),
    )


def group_mass(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, problem: AttentionProblem, scale: float
) -> torch.Tensor:
    """What an `OnAttention` sees, summed up by the op: the attention to each group, float32 [rows, heads, groups]."""
    found = attention(q, k, v, problem, scale=scale, return_group_mass=True).group_mass
    assert found is not None  # it was asked for
    return found


class _Call:
    """One layer's attention over all rows, shown to the observer before it runs."""

    def __init__(self, problem: AttentionProblem, layer: int, see: OnAttention | None) -> None:
        self.problem, self.layer, self.see = problem, layer, see

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))  # [rows, heads or kv_heads, d]
        if self.see:
            self.see(self.layer, q, k, v, scale)
        return attention(q, k, v, self.problem, scale=scale).out[None]


@torch.no_grad()
def observe(
    model: Model,
    prompt: Prompt | Captured,
    on_attention: OnAttention | None = None,
    on_hidden: OnHidden | None = None,
    layers: Sequence[int] | None = None,
    cuts: Callable[[int], Sequence[Cut]] = lambda layer: (),
) -> Captured:
    """Runs the decoder layers once on a prompt, up to the last of `layers`.

    Args:
        on_attention: called in every layer as (layer, q [n, heads, d], k, v [n, kv_heads, d], scale).
        on_hidden: called after every layer as (layer, hidden [n, D]), before the final norm; with what the decoder adds
            to the rows of pictures behind it (deepstack).
        layers: those that the observers are called for; None for all.
        cuts: what is cut in a layer; default: nothing, the clean run.

    Raises:
        NumericError: NaN or infinity after a layer; the message names prompt and layer.
        UnsupportedModelError: the clean run is not the model's own (`walk.proof`).
    """
    captured = prompt if isinstance(prompt, Captured) else capture(model, prompt)
    wanted = set(range(model.n_layers)) if layers is None else set(layers)
    columns = tokens_of(captured)
    windows = layer_windows(model.text_model)
    problem: AttentionProblem | None = None

    def call(layer: int) -> _Call:
        nonlocal problem
        here = tuple(cuts(layer))
        if problem is None or here != problem.cuts or windows[layer] != problem.window:
            problem = AttentionProblem(rows=columns, cuts=here, window=windows[layer])
        return _Call(problem, layer, on_attention if layer in wanted else None)

    last = max(wanted)
    proving = is_due(model, captured, "observe") and not any(cuts(layer) for layer in range(model.n_layers))

    def after(layer: int, hidden: torch.Tensor) -> None:
        if layer > last:
            return  # it runs for the comparison at the end
        check_finite(hidden, [(captured.prompt.id, len(captured))], f"after decoder layer {layer}")
        if on_hidden and layer in wanted:
            on_hidden(layer, hidden[0])

    where = places_of(captured.positions, len(captured), model.device)
    parts = chunked_mlps(model, fused_layers(model))
    with in_eval_mode(model), attributes([*parts, *with_places(model, in_all_layers(where))]):
        tables = captured.cos, captured.sin
        count = None if proving else last + 1
        deep = DeepRows([captured.deep], [len(captured)], [np.arange(len(captured))]).add
        hidden = run_layers(model, captured.hidden, tables, call, count=count, after=after, deep=deep)
        if proving:
            rows = predicting_rows(captured).to(hidden.device)
            prove(model, captured, "observe", model.logits(hidden.index_select(1, rows))[0])
    return captured


def predicting_rows(captured: Captured) -> torch.Tensor:
    """The last token and the answer tokens behind it, int64 [answer tokens]: row i predicts answer token i."""
    return torch.arange(captured.columns.n_prompt - 1, len(captured))
