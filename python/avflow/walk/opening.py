"""The first layer of a walk, launched before the host does what the others need: the device does not wait for that.

Laying out 36 layers, their patches and the lists for the device take a host twice as long as one layer's share and what
one layer needs; on a GPU the first layer of a long prompt runs meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..knockouts.knockout import Knockout, Semantics
from ..models.base import Model
from ..models.compat import attributes
from ..models.evaluating import in_eval_mode
from ..models.fused import fused_layers
from ..uploads import upload_lists
from .capture import Captured
from .deep_rows import DeepRows
from .layers import run_layers
from .layout import Layout
from .places import joined_places, with_places
from .row_wise import chunked_mlps
from .walk import LayerCall, Problems, clean_rows


@torch.no_grad()
def open_walk(
    model: Model, batch: Sequence[Captured], first: Layout, knockouts: Sequence[Knockout], semantics: Semantics
) -> torch.Tensor:
    """Runs layer 0 of a walk: its rows' hidden states behind it, [1, rows, D], for `run_walk(begun=[...])`.

    Args:
        first: the layout of this layer alone (`Walks.opening`); of it all rows are there, and none rests.
    """
    token, joins = upload_lists([first.token, first.joins[0]], model.device)
    cos, sin = (torch.cat(tables, -2).index_select(-2, token) for tables in _tables(batch))  # [1, rows, d]
    problems = Problems(model, batch, first, knockouts)
    features = DeepRows([c.deep for c in batch], [len(c) for c in batch], [first.token])
    problem = problems.at(0, None)
    with in_eval_mode(model):
        where = joined_places(batch, model.device).index_select(-1, token)
        parts = chunked_mlps(model, fused_layers(model, 1), 1)
        with attributes([*parts, *with_places(model, lambda layer: where)]):
            return run_layers(
                model,
                clean_rows(batch, first, token),
                (cos, sin),
                lambda layer: LayerCall(problem, semantics, None, layer, None, None, problems.loud),
                count=1,
                joins=[joins],
                deep=lambda layer, hidden: features.add(layer, hidden, 0),
            )


def _tables(batch: Sequence[Captured]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [c.cos for c in batch], [c.sin for c in batch]
