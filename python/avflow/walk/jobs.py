"""The units that get rows in a walk: knockouts and evictions of one prompt, and from which row on they matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from avflow_ext import Cut, table_of
from avflow_ext.reference import edge_hash


@dataclass(frozen=True)
class Columns:
    """One prompt's tokens, its appended answer tokens included."""

    group: np.ndarray  # int32 [n]
    item: np.ndarray  # int32 [n]
    n_prompt: int  # tokens of the prompt itself; row n_prompt - 1 predicts the answer's first token

    def __len__(self) -> int:
        return len(self.group)


def members(word: int, group: np.ndarray) -> np.ndarray:
    """Which tokens a set of groups holds: bool [n]."""
    return table_of(word).take(group)


def _rows_with_edges(cut: Cut, group: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Rows of which the cut takes at least one causal edge, leaving its random share out of account: bool [n]."""
    source, target = members(cut.source, group), members(cut.target, group)
    if cut.scope == "all":
        before = np.zeros(len(group), bool)  # whether a source token stands before the row
        before[source.argmax() + 1 :] = source.any()
        return target & (before | (source & cut.cut_self))
    # Another item stands before the row if the smallest or the largest item before it is not the row's own.
    held = source & (item >= 0)
    low = np.minimum.accumulate(np.where(held, item, np.iinfo(np.int32).max))
    high = np.maximum.accumulate(np.where(held, item, -1))
    low, high = np.roll(low, 1), np.roll(high, 1)
    low[0], high[0] = np.iinfo(np.int32).max, -1
    return target & (item >= 0) & (high >= 0) & ((low != item) | (high != item))


def _row_is_hit(cut: Cut, row: int, group: np.ndarray, item: np.ndarray) -> bool:
    """Whether the random share of the cut holds an edge of this row."""
    keys = np.arange(row + 1)
    edge = members(cut.source, group[: row + 1])
    if cut.scope == "other_items":
        edge &= (item[: row + 1] >= 0) & (item[: row + 1] != item[row])
    if not cut.cut_self:
        edge[row] = False
    hashes = edge_hash(cut.seed, torch.tensor([row]), torch.from_numpy(keys[edge]))
    return bool((hashes < cut.threshold).any())


def first_cut_row(cuts: Sequence[Cut], columns: Columns) -> int | None:
    """Order of the first row that loses an edge, None where no causal edge is cut."""
    first: int | None = None
    for cut in cuts:
        rows = np.flatnonzero(_rows_with_edges(cut, columns.group, columns.item))
        share = cut.random_share is not None
        hit = (int(r) for r in rows if not share or _row_is_hit(cut, int(r), columns.group, columns.item))
        row = next(hit, None)
        if row is not None:
            first = row if first is None else min(first, row)
    return first


@lru_cache(4096)  # a sweep asks for the same windows of every knockout and prompt
def _bits(layers: frozenset[int]) -> int:
    return sum(1 << layer for layer in layers)


@dataclass(frozen=True)
class Job:
    """One knockout in one set of layers on one prompt: the unit that gets rows."""

    prompt: int
    knockout: int
    start: int  # first_cut_row of the knockout in this prompt
    layers: int  # bit set
    # (last layer with them, word of groups) whose rows it has no longer after that: an estimate of the run. None: all.
    shed: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, prompt: int, knockout: int, start: int, layers: frozenset[int], shed: tuple[int, int] | None = None
    ) -> Job:
        return cls(prompt, knockout, start, _bits(layers), shed)

    @property
    def begins_shed(self) -> bool:
        """Whether it has no row of those groups in any layer: its window begins behind the last layer with them."""
        return self.shed is not None and self.layers & ((2 << self.shed[0]) - 1) == 0


def kept_orders(gone: int, group: np.ndarray, first: int) -> tuple[int, np.ndarray]:
    """The rows of a stream without the groups in the word `gone`: where it starts, and its tokens, int64 [kept].

    It starts with the first of those groups' tokens, or before it, with the token `first` that is no longer as in the
    clean run. Its rows see the clean rows before its start, none of which is gone, and each other: so it needs no cut.
    """
    left = members(gone, group)
    start = min(first, int(left.argmax())) if left.any() else first
    return start, start + np.flatnonzero(~left[start:])


@dataclass(frozen=True)
class Eviction:
    """Groups leave one prompt, in one step or in several; some come back, as they were when they left."""

    prompt: int
    # (last layer that sees them, -1 for none; word of all groups that are not there from the next on), increasing
    steps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, prompt: int, leave: Mapping[int, int], rest: Sequence[tuple[int, int, int]] = ()) -> Eviction:
        """
        Args:
            leave: {last layer that sees them: word of the groups that leave after it}.
            rest: (last layer that sees them, last layer that does not, word) of groups that come back.
        """
        steps, gone = [], 0
        back: dict[int, int] = {}
        for end in sorted({*leave, *(after for after, _, _ in rest), *(until for _, until, _ in rest)}):
            gone &= ~back.get(end, 0)
            for after, until, word in rest:
                if after == end:
                    back[until] = back.get(until, 0) | (word & ~gone)  # what has left stays away
                    gone |= word
            gone |= leave.get(end, 0)
            steps.append((end, gone))
        return cls(prompt, tuple(steps))


def job_rows(job: Job | Eviction, lengths: Sequence[int], groups: Sequence[np.ndarray] = ()) -> int:
    """Rows that a job needs beside the clean ones when it shares none of them.

    What rests needs no more memory than this: its hidden states are held until it has rows, and are less than these.
    """
    if isinstance(job, Job):
        if job.shed is not None and job.begins_shed:
            return len(kept_orders(job.shed[1], groups[job.prompt], job.start)[1])
        return lengths[job.prompt] - job.start
    count, first = 0, lengths[job.prompt]
    for _, gone in job.steps:
        first, orders = kept_orders(gone, groups[job.prompt], first)
        count += len(orders)
    return count
