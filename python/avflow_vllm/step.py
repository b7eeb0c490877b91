"""What one step's batch looks like in every segment of layers, and the attention metadata made from that."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .plan import Plan


@dataclass
class Part:
    """The rows of a batch that are there in one segment.

    Attributes:
        rows: int64 [m], of the batch; None for all. relative: the same, among the previous segment's rows.
        starts: int32 [requests + 1]. lengths: int32 [requests], keys of each request, the new ones included.
        order: int64 [m], a row's number among its request's tokens that are there: the slot that it takes.
        owner: int64 [m], its request.
    """

    rows: torch.Tensor | None
    relative: torch.Tensor | None
    starts: np.ndarray
    lengths: np.ndarray
    order: np.ndarray
    owner: np.ndarray


@dataclass
class BatchPlan:
    """Of one step. parts: by segment. slots: by KV cache group, int64 [m]. group_of: by layer name."""

    parts: dict[int, Part]
    slots: dict[int, torch.Tensor] = field(default_factory=dict)
    group_of: dict[str, int] = field(default_factory=dict)


def plan_batch(
    plans: Sequence[Plan], computed: np.ndarray, scheduled: np.ndarray, segments: Sequence[int], device: Any
) -> BatchPlan:
    """computed, scheduled: int [requests], tokens before this step and in it. segments: ascending, without 0."""
    before = np.concatenate([[0], np.cumsum(scheduled)])
    total = int(before[-1])
    parts: dict[int, Part] = {}
    previous = np.arange(total)
    for segment in segments:
        rows, order, owner, lengths = [], [], [], []
        for number, plan in enumerate(plans):
            start, new = int(computed[number]), int(scheduled[number])
            there = plan.there(segment, start, start + new)
            first = plan.count(segment, start)
            rows.append(there - start + before[number])
            order.append(np.arange(first, first + len(there)))
            owner.append(np.full(len(there), number))
            lengths.append(first + len(there))
        index = np.concatenate(rows).astype(np.int64)
        relative = np.searchsorted(previous, index)
        parts[segment] = Part(
            rows=None if len(index) == total else torch.from_numpy(index).to(device),
            relative=None if len(index) == len(previous) else torch.from_numpy(relative).to(device),
            starts=np.cumsum([0, *map(len, rows)], dtype=np.int32),
            lengths=np.array(lengths, np.int32),
            order=np.concatenate(order).astype(np.int64),
            owner=np.concatenate(owner).astype(np.int64),
        )
        previous = index
    return BatchPlan(parts)


def narrow(common: Any, part: Part, slots: torch.Tensor, lengths: torch.Tensor) -> Any:
    """The batch's CommonAttentionMetadata for the rows of a segment. Its own slot mapping is written over.

    lengths: int32 [requests at most], a buffer of the metadata builder's.
    """
    requests, m, device = common.num_reqs, len(part.order), common.query_start_loc.device
    common.slot_mapping[:m] = slots
    common.slot_mapping[m:] = -1
    host = np.zeros(requests, np.int32)  # a batch may be padded with requests that have no rows
    host[: len(part.lengths)] = part.lengths
    out = copy(common)
    out.seq_lens_cpu_upper_bound = torch.from_numpy(host)
    out.seq_lens = lengths[:requests].copy_(out.seq_lens_cpu_upper_bound)
    out.max_seq_len = max(1, int(host.max()))
    if part.rows is not None:
        starts = np.full(requests + 1, part.starts[-1], np.int32)
        starts[: len(part.starts)] = part.starts
        out.query_start_loc_cpu = torch.from_numpy(starts)
        out.query_start_loc = out.query_start_loc_cpu.to(device)
        out.max_query_len = int(np.diff(starts).max())
        out.num_actual_tokens = m
        out.slot_mapping = common.slot_mapping[:m]
        out.positions = None if common.positions is None else common.positions[part.rows]
    out._num_computed_tokens_cache = out._token_to_req_indices_cache = None
    return out
