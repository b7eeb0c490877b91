"""Which rows a sweep needs: integers only.

A job is one knockout in one set of layers, on one prompt. Jobs walk the layers together, and share rows for as long as
nothing tells them apart: two jobs of one knockout are one *stream* while the same layers were active in both; where
they first differ, one keeps the rows and the other starts from a copy of them. A job that has not begun is the clean
stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from avflow_ext import Cut
from avflow_ext.reference import edge_hash


@dataclass(frozen=True)
class Columns:
    """One prompt's tokens, its appended answer tokens included."""

    group: np.ndarray  # int32 [n]
    item: np.ndarray  # int32 [n]
    n_prompt: int  # tokens of the prompt itself; row n_prompt - 1 predicts the answer's first token

    def __len__(self) -> int:
        return len(self.group)


def _members(word: int, group: np.ndarray) -> np.ndarray:
    return np.array([bool(word >> bit & 1) for bit in range(64)])[group]  # bool [n]


def _rows_with_edges(cut: Cut, group: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Rows of which the cut takes at least one causal edge, leaving its random share out of account: bool [n]."""
    source, target = _members(cut.source, group), _members(cut.target, group)
    if cut.scope == "all":
        before = np.cumsum(source) - source > 0  # a source token stands before the row
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
    edge = _members(cut.source, group[: row + 1])
    if cut.scope == "other_items":
        edge &= (item[: row + 1] >= 0) & (item[: row + 1] != item[row])
    if not cut.cut_self:
        edge[row] = False
    keys = torch.from_numpy(keys[edge])
    hashes = edge_hash(cut.seed, torch.tensor([row]), keys)
    return bool((hashes < cut.threshold).any())


def first_cut_row(cuts: Sequence[Cut], columns: Columns) -> int | None:
    """Order of the first row that loses an edge, None where no causal edge is cut."""
    first: int | None = None
    for cut in cuts:
        rows = np.flatnonzero(_rows_with_edges(cut, columns.group, columns.item))
        if cut.random_share is not None:
            rows = (r for r in rows if _row_is_hit(cut, int(r), columns.group, columns.item))
        row = next(iter(rows), None)
        if row is not None:
            first = int(row) if first is None else min(first, int(row))
    return first


@dataclass(frozen=True)
class Job:
    """One knockout in one set of layers on one prompt: the unit that gets rows."""

    prompt: int
    knockout: int
    start: int  # first_cut_row of the knockout in this prompt
    layers: int  # bit set

    @classmethod
    def of(cls, prompt: int, knockout: int, start: int, layers: frozenset[int]) -> Job:
        return cls(prompt, knockout, start, sum(1 << layer for layer in layers))


@dataclass
class Layout:
    """The rows of one walk. Rows are only ever appended, so layer l works on the first `rows[l]` of the columns."""

    order: np.ndarray  # int32 [rows at the end]
    token: np.ndarray  # int64 [rows at the end], index into the prompts' tokens laid end to end
    stream: np.ndarray  # int32 [rows at the end]
    parent: np.ndarray  # int32 [streams]
    start: np.ndarray  # int32 [streams]
    first_row: np.ndarray  # int64 [streams]
    rows: list[int]  # rows at each layer
    joins: list[np.ndarray]  # per layer: rows to copy to the end before it, int64
    active: list[dict[int, tuple[int, ...]]]  # per layer: knockout -> streams in which it is in force
    stream_of: dict[Job, int]

    @property
    def clean_rows(self) -> int:
        return int((self.parent[self.stream] < 0).sum())

    @property
    def ratio(self) -> float:
        """Packed rows over all layers / clean rows over all layers: what the walk costs in clean forwards."""
        return sum(self.rows) / (len(self.rows) * self.clean_rows)

    def clean_only(self) -> Layout:
        """The same prompts without any job."""
        roots = np.flatnonzero(self.parent < 0)
        return build_layout(np.bincount(self.stream[self.stream < len(roots)]).tolist(), [], len(self.rows))


def build_layout(lengths: Sequence[int], jobs: Sequence[Job], n_layers: int) -> Layout:
    """Plans one walk.

    Args:
        lengths: tokens of each prompt; its clean stream has the prompt's number.
        jobs: distinct jobs with at least one active layer each.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    parent, start, first_row = [-1] * len(lengths), [0] * len(lengths), list(offsets[:-1])
    total = int(offsets[-1])
    order = [np.arange(n) for n in lengths]
    token = [np.arange(total)]
    stream = [np.full(n, p) for p, n in enumerate(lengths)]

    # A class: jobs that share rows so far. The clean class of a prompt holds those whose window has not begun.
    clean = list(jobs)
    classes: list[tuple[int, list[Job]]] = []  # (stream, jobs)
    rows, joins, active = [], [], []

    def join(job: Job, source_row: int, members: list[Job]) -> None:
        nonlocal total
        new, count = len(parent), lengths[job.prompt] - job.start
        parent.append(job.prompt)
        start.append(job.start)
        first_row.append(total)
        order.append(np.arange(job.start, lengths[job.prompt]))
        token.append(offsets[job.prompt] + order[-1])
        stream.append(np.full(count, new))
        here.append(np.arange(source_row, source_row + count))
        classes.append((new, members))
        total += count

    for layer in range(n_layers):
        here: list[np.ndarray] = []
        for index in range(len(classes)):
            at, members = classes[index]
            inside = [j for j in members if j.layers >> layer & 1]
            if inside and len(inside) < len(members):  # they part here: those still inside keep the rows
                classes[index] = (at, inside)
                outside = [j for j in members if not j.layers >> layer & 1]
                join(outside[0], int(first_row[at]), outside)
        begin: dict[tuple[int, int], list[Job]] = {}
        for job in clean:
            if job.layers >> layer & 1:
                begin.setdefault((job.prompt, job.knockout), []).append(job)
        clean = [j for j in clean if not j.layers >> layer & 1]
        for members in begin.values():
            join(members[0], int(offsets[members[0].prompt]) + members[0].start, members)
        in_force: dict[int, list[int]] = {}
        for at, members in classes:
            if members[0].layers >> layer & 1:
                in_force.setdefault(members[0].knockout, []).append(at)
        rows.append(total)
        joins.append(np.concatenate(here) if here else np.empty(0, np.int64))
        active.append({k: tuple(v) for k, v in in_force.items()})

    return Layout(
        order=np.concatenate(order).astype(np.int32),
        token=np.concatenate(token).astype(np.int64),
        stream=np.concatenate(stream).astype(np.int32),
        parent=np.array(parent, np.int32),
        start=np.array(start, np.int32),
        first_row=np.array(first_row, np.int64),
        rows=rows,
        joins=joins,
        active=active,
        stream_of={job: at for at, members in classes for job in members},
    )


def split_jobs(lengths: Sequence[int], jobs: Sequence[Job], max_rows: int) -> list[list[Job]]:
    """Groups jobs into as few walks as keep each within `max_rows` rows at its end; at least one job in each.

    Every walk carries the clean rows of all prompts. Jobs of one knockout stay together: they share rows at the bottom.
    """
    walks: list[list[Job]] = [[]]
    used = sum(lengths)
    for job in sorted(jobs, key=lambda j: (j.prompt, j.knockout, j.layers)):
        count = lengths[job.prompt] - job.start
        if walks[-1] and used + count > max_rows:
            walks.append([])
            used = sum(lengths)
        walks[-1].append(job)
        used += count
    return walks
