"""What a sweep will cost, before it is paid: rows, floating-point operations, walks; and what an eviction saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..models.base import Model
from ..models.experts import experts_per_token, working_weights
from .layout import Early, Layout


def layer_flops(model: Model) -> list[int]:
    """Of each layer, multiply-adds of its matrices per row, times 2; of experts those that run a row."""
    per_token = experts_per_token(model.config)
    return [2 * working_weights(layer, per_token) for layer in model.layers]


def layout_flops(model: Model, layout: Layout, predicting: int) -> int:
    """Operations of one walk: matrices and causal attention of every packed row, cut tiles not deducted.

    In the last layer only `predicting` rows go beyond keys and values.
    """
    row = layer_flops(model)
    width = model.config.hidden_size
    keys_only = 2 * width * 2 * model.n_kv_heads * model.head_dim
    head = 2 * width * model.vocab
    early = layout.early
    late, below = _seen(layout), None if early is None else (early.layers, _seen(early))
    attention = []
    for index, r in enumerate(layout.rows):
        seen = below[1] if below is not None and index < below[0] else late
        attention.append(4 * model.n_heads * model.head_dim * int(seen[r - 1]))
    total = sum(r * own for r, own in zip(layout.rows[:-1], row, strict=False)) + sum(attention[:-1])
    last = layout.rows[-1] * keys_only + predicting * (row[-1] - keys_only + head)
    return total + last + 4 * model.n_heads * model.head_dim * int(layout.order.max() + 1) * predicting


def _seen(rows: Layout | Early) -> np.ndarray:
    """Keys seen by the first r + 1 rows together, int64 [rows].

    A row sees the clean rows before its stream's start, and its stream's rows up to itself.
    """
    own = np.arange(len(rows.order)) - rows.first_row[rows.stream]
    return np.cumsum(rows.start[rows.stream] + own + 1)


def walks_size(layouts: Sequence[Layout]) -> dict[str, Any]:
    """How large these walks over the same prompts are.

    Returns:
        tokens; rows (over all layers and walks); ratio of them to the rows of one clean pass; walks; peak_rows (of the
        largest walk).
    """
    tokens, rows = layouts[0].clean_rows, sum(sum(layout.rows) for layout in layouts)
    return {
        "tokens": tokens,
        "rows": rows,
        "ratio": rows / (tokens * len(layouts[0].rows)),
        "walks": len(layouts),
        "peak_rows": max(max(layout.rows) for layout in layouts),
    }


def walks_cost(model: Model, layouts: Sequence[Layout], n_predict: int) -> dict[str, Any]:
    """What these walks over the same prompts cost: `walks_size`, and their flops and clean_flops."""
    clean = layouts[0].clean_only()
    return walks_size(layouts) | {
        "flops": sum(layout_flops(model, layout, n_predict * len(layout.parent)) for layout in layouts),
        "clean_flops": layout_flops(model, clean, n_predict * len(clean.parent)),
    }
