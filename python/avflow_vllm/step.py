"""What one step's batch looks like in every segment of layers, and the attention metadata made from that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Of one step.

    Attributes:
        parts: by segment. slots: by KV cache group, int64 [m]. group_of: by layer name.
        whole: every layer runs all rows, those that left with slot -1. So with one row of each request, which a full
            CUDA graph may replay: its number of rows is fixed. Nobody reads what such a row becomes.
    """

    parts: dict[int, Part]
    slots: dict[int, torch.Tensor] = field(default_factory=dict)
    group_of: dict[str, int] = field(default_factory=dict)
    whole: bool = False


def on_device(array: np.ndarray, device: Any) -> torch.Tensor:
    """A copy that no GPU is waited for: vLLM prepares a step while the one before is running."""
    host = torch.from_numpy(array)
    if torch.device(device).type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)


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
            rows=None if len(index) == total else on_device(index, device),
            relative=None if len(index) == len(previous) else on_device(relative, device),
            starts=np.cumsum([0, *map(len, rows)], dtype=np.int32),
            lengths=np.array(lengths, np.int32),
            order=np.concatenate(order).astype(np.int64),
            owner=np.concatenate(owner).astype(np.int64),
        )
        previous = index
    return BatchPlan(parts, whole=len(scheduled) > 0 and int(scheduled.max()) == 1)


def place(now: BatchPlan, groups: Sequence[Any], blocks_of: Callable[[int], tuple[torch.Tensor, int]]) -> None:
    """Gives every row that is there its slot, in the KV cache groups of later segments.

    Args:
        groups: vLLM's KVCacheGroupSpecs. blocks_of: group's number -> int [requests, blocks] and tokens of a block.
    """
    places: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for number, group in enumerate(groups):
        segment = getattr(group.kv_cache_spec, "segment", 0)
        if not segment:
            continue
        blocks, size = blocks_of(number)
        part = now.parts[segment]
        if segment not in places:
            places[segment] = on_device(part.owner, blocks.device), on_device(part.order, blocks.device)
        owner, order = places[segment]
        now.slots[number] = blocks[owner, order // size].long() * size + order % size
        now.group_of.update(dict.fromkeys(group.layer_names, number))


def later_segments(groups: Sequence[Any]) -> list[int]:
    """Of vLLM's KVCacheGroupSpecs: the segments from 1 on, ascending."""
    return sorted({getattr(group.kv_cache_spec, "segment", 0) for group in groups} - {0})


def narrow(common: Any, part: Part, slots: torch.Tensor, lengths: torch.Tensor, whole: bool = False) -> Any:
    """The batch's CommonAttentionMetadata for the rows of a segment. Its own slot mapping is written over.

    Requests of which no row is there are left out: not every backend has queries of length zero.

    Args:
        slots: int64 [m]. lengths: int32 [requests at most], a buffer of the metadata builder's, which a CUDA graph may
            have captured. whole: see BatchPlan.
    """
    requests, m, device = common.num_reqs, len(part.order), common.query_start_loc.device
    host = np.zeros(requests, np.int32)  # a batch may be padded with requests that have no rows
    host[: len(part.lengths)] = part.lengths
    out = copy(common)
    out._num_computed_tokens_cache = out._token_to_req_indices_cache = None
    if part.rows is None or whole:
        common.slot_mapping.fill_(-1)
        common.slot_mapping[slice(0, m) if part.rows is None else part.rows] = slots
    else:
        common.slot_mapping[:m] = slots
        common.slot_mapping[m:] = -1
        there = np.flatnonzero(np.diff(part.starts))
        starts = np.append(part.starts[there], part.starts[-1]).astype(np.int32)
        host = host[there]
        out.num_reqs, out.num_actual_tokens = len(there), m
        out.query_start_loc_cpu = torch.from_numpy(starts)
        out.query_start_loc = on_device(starts, device)
        out.max_query_len = int(np.diff(starts).max(initial=0))
        out.slot_mapping = common.slot_mapping[:m]
        out.block_table_tensor = common.block_table_tensor[on_device(there, device)]
        out.positions = None if common.positions is None else common.positions[part.rows]
        out.is_prefilling = None if common.is_prefilling is None else common.is_prefilling[torch.from_numpy(there)]
        out.req_idx = None if common.req_idx is None else common.req_idx[there]
    out.seq_lens_cpu_upper_bound = torch.from_numpy(host)
    out.seq_lens = lengths[: len(host)].copy_(on_device(host, device))
    out.max_seq_len = max(1, int(host.max(initial=0)))
    return out
