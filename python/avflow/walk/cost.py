"""What a sweep will cost, before it is paid: rows, floating-point operations, walks; and what an eviction saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .layout import Layout
from .models.base import Model
from .policies import View
from .prompt import Prompt
from .schedule import EvictionSchedule
from .walk_jobs import members


def _linear_flops(module: nn.Module) -> int:
    """Multiply-adds of the module's matrices per row, times 2."""
    return 2 * sum(p.numel() for p in module.parameters() if p.dim() == 2)


def layout_flops(model: Model, layout: Layout, predicting: int) -> int:
    """Operations of one walk: matrices and causal attention of every packed row, cut tiles not deducted.

    In the last layer only `predicting` rows go beyond keys and values.
    """
    inner = model.layers[0]
    row = _linear_flops(inner)
    width = model.config.hidden_size
    keys_only = 2 * width * 2 * model.n_kv_heads * model.head_dim
    head = 2 * width * model.vocab
    # A row sees the clean rows before its stream's start, and its stream's rows up to itself.
    own = np.arange(len(layout.order)) - layout.first_row[layout.stream]
    seen = np.cumsum(layout.start[layout.stream] + own + 1)  # keys seen by the first r rows, int64
    attention = [4 * model.n_heads * model.head_dim * int(seen[r - 1]) for r in layout.rows]
    total = sum(r * row for r in layout.rows[:-1]) + sum(attention[:-1])
    last = layout.rows[-1] * keys_only + predicting * (row - keys_only + head)
    return total + last + 4 * model.n_heads * model.head_dim * int(layout.order.max() + 1) * predicting


def walks_cost(model: Model, layouts: Sequence[Layout], n_predict: int) -> dict[str, Any]:
    """What these walks over the same prompts cost.

    Returns:
        tokens; rows (over all layers and walks); ratio of them to the rows of one clean pass; flops and clean_flops;
        walks; peak_rows (of the largest walk).
    """
    clean = layouts[0].clean_only()
    rows = sum(sum(layout.rows) for layout in layouts)
    return {
        "tokens": clean.rows[0],
        "rows": rows,
        "ratio": rows / sum(clean.rows),
        "flops": sum(layout_flops(model, layout, n_predict * len(layout.parent)) for layout in layouts),
        "clean_flops": layout_flops(model, clean, n_predict * len(clean.parent)),
        "walks": len(layouts),
        "peak_rows": max(layout.rows[-1] for layout in layouts),
    }


def kept_counts(model: Model, schedule: EvictionSchedule, group: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Tokens that each layer works on, int64 [layers], for a prompt's labels, int32 [n] each.

    A policy that chooses by scores is asked with scores of 0: its count is right if it does not depend on them.
    """
    kept = np.arange(len(group))
    counts = np.empty(model.n_layers, np.int64)
    for layer in range(model.n_layers):
        counts[layer] = len(kept)
        for step in schedule.steps:
            if step.after == layer:
                own = np.flatnonzero(members(model.groups.expand(step.group), group[kept]))
                nothing = np.zeros(len(own), np.float32)
                view = View(item[kept[own]], kept[own].astype(np.int32), lambda by, scores=nothing: scores)
                kept = np.delete(kept, own[~step.keep.select(view)])
    return counts


def eviction_cost(model: Model, schedule: EvictionSchedule, prompt: Prompt) -> dict[str, Any]:
    """What the prefill of one prompt costs with and without a schedule, in closed form.

    Returns:
        flops, clean_flops: matrices and causal attention of all layers, and the output matrix for one row, media
        encoders not counted; kv_bytes, clean_kv_bytes: keys and values cached by it, in the model's dtype;
        flops_saved, kv_saved: shares, 0..1.
    """
    group, item = model.groups.ids(prompt.groups), np.array(prompt.items, np.int32)
    counts = kept_counts(model, schedule, group, item)
    clean = np.full_like(counts, len(group))
    row, edge = _linear_flops(model.layers[0]), 4 * model.n_heads * model.head_dim
    head = 2 * model.config.hidden_size * model.vocab
    token = 2 * model.n_kv_heads * model.head_dim * torch.finfo(model.dtype).bits // 8  # bytes in one layer's cache

    def flops(m: np.ndarray) -> int:
        return int((m * row + edge * m * (m + 1) // 2).sum()) + head

    found = {"flops": flops(counts), "clean_flops": flops(clean)}
    found |= {"kv_bytes": int(counts.sum()) * token, "clean_kv_bytes": int(clean.sum()) * token}
    found["flops_saved"] = 1 - found["flops"] / found["clean_flops"]
    found["kv_saved"] = 1 - found["kv_bytes"] / found["clean_kv_bytes"]
    return found
