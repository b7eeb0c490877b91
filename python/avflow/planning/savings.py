"""What an eviction schedule saves, in closed form: tokens of each layer, operations, keys and values."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ..eviction.policies import ScoredBy
from ..eviction.schedule import BEFORE, EvictionSchedule
from ..eviction.views import Labels, views
from ..models.base import Model
from ..prompts.prompt import Prompt
from ..walk.cost import layer_flops
from ..walk.jobs import members


def kept_counts(
    model: Model,
    schedule: EvictionSchedule,
    group: np.ndarray,
    item: np.ndarray,
    time: np.ndarray | None = None,
) -> np.ndarray:
    """Tokens that each layer works on, int64 [layers], for a prompt's labels, int32 [n] each, and seconds, float64 [n].

    A policy that chooses by scores or embeddings is asked with scores of 0 and embeddings [n, 1] of 1: its count is
    right if it does not depend on them.
    """
    kept = np.arange(len(group), dtype=np.int32)
    labels = Labels(model.groups, group, item, time, model.family.frames_apart)
    back: dict[int, list[np.ndarray]] = {}  # by the last layer of a rest: who comes back
    counts = np.empty(model.n_layers, np.int64)
    for layer in range(BEFORE, model.n_layers):
        if layer > BEFORE:
            counts[layer] = len(kept)
        kept = np.sort(np.concatenate([kept, *back.pop(layer, [])]))
        for step in schedule.steps:
            if step.after == layer:
                inside = members(model.groups.expand(step.group), group)
                own = np.flatnonzero(inside[kept])
                if not len(own):
                    continue
                scores, embeddings = partial(_no_scores, len(own)), partial(torch.ones, len(own), 1)
                leave = [
                    own[part[~step.keep.select(view)]]
                    for part, view in views(step, labels, kept[own], np.flatnonzero(inside), scores, embeddings)
                ]
                taken = np.concatenate(leave)
                if step.until is not None:
                    back.setdefault(step.until, []).append(kept[taken])
                kept = np.delete(kept, taken)
    return counts


def _no_scores(n: int, by: ScoredBy) -> np.ndarray:
    """float32 [n] of 0, whatever they are asked by."""
    return np.zeros(n, np.float32)


def eviction_cost(model: Model, schedule: EvictionSchedule, prompt: Prompt) -> dict[str, Any]:
    """What the prefill of one prompt costs with and without a schedule, in closed form.

    Returns:
        flops, clean_flops: matrices and causal attention of all layers, and the output matrix for one row, media
        encoders not counted; kv_bytes, clean_kv_bytes: keys and values cached by it, in the model's dtype;
        flops_saved, kv_saved: shares, 0..1.
    """
    group, item = model.groups.ids(prompt.groups), np.array(prompt.items, np.int32)
    time = None if prompt.times is None else np.array(prompt.times, np.float64)
    counts = kept_counts(model, schedule, group, item, time)
    clean = np.full_like(counts, len(group))
    row, edge = np.array(layer_flops(model)), 4 * model.n_heads * model.head_dim
    head = 2 * model.config.hidden_size * model.vocab
    token = 2 * model.n_kv_heads * model.head_dim * torch.finfo(model.dtype).bits // 8  # bytes in one layer's cache

    def flops(m: np.ndarray) -> int:
        return int((m * row + edge * m * (m + 1) // 2).sum()) + head

    found: dict[str, float] = {"flops": flops(counts), "clean_flops": flops(clean)}
    found |= {"kv_bytes": int(counts.sum()) * token, "clean_kv_bytes": int(clean.sum()) * token}
    found["flops_saved"] = 1 - found["flops"] / found["clean_flops"]
    found["kv_saved"] = 1 - found["kv_bytes"] / found["clean_kv_bytes"]
    return found
