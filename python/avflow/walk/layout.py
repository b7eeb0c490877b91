"""Which rows a walk needs: integers only.

A job is one knockout in one set of layers, or one eviction, on one prompt. Jobs walk the layers together, and share
rows for as long as they do not differ: two knockouts are one *stream* while the same layers were active in both;
where they first differ, one keeps the rows and the other starts from a copy of them. Two evictions are one stream while
the same tokens have left, and come back, after the same layers. A job that has not begun is the clean stream.

A knockout that sheds groups goes on, above the last layer with them, without their rows and without a key of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .jobs import Eviction, Job, job_rows, kept_orders, members


@dataclass
class Early:
    """The rows of a walk before some were shed: below layer `layers`. Fields as of Layout."""

    layers: int
    kept: np.ndarray  # int64: before layer `layers`, the rows that go on, in the order in which they do
    order: np.ndarray
    token: np.ndarray
    stream: np.ndarray
    start: np.ndarray
    first_row: np.ndarray


@dataclass
class Layout:
    """The rows of one walk. Rows are only ever appended, so layer l works on the first `rows[l]` of the columns. Only
    where jobs shed groups rows go too, once: the columns of the layers below are `early`.

    Tokens that rest have no row meanwhile. Their hidden states are saved as they leave; those saved before a layer or
    in it are numbered through, and a join copies them by their number, counted on from the rows that are there.
    """

    order: np.ndarray  # int32 [rows at the end]
    token: np.ndarray  # int64 [rows at the end], index into the prompts' tokens laid end to end
    stream: np.ndarray  # int32 [rows at the end]
    parent: np.ndarray  # int32 [streams]
    start: np.ndarray  # int32 [streams]
    first_row: np.ndarray  # int64 [streams]
    rows: list[int]  # rows at each layer
    joins: list[np.ndarray]  # per layer: rows, or what was saved, to copy to the end before it, int64
    saves: list[np.ndarray]  # per layer: rows to save before it, int64
    reads: frozenset[int]  # layers whose joins copy what was saved
    active: list[dict[int, tuple[int, ...]]]  # per layer: knockout -> streams in which it is in force
    stream_of: dict[Job | Eviction, int]
    early: Early | None = None

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


class _Rows:
    """Rows under construction: the clean streams of all prompts first, then streams as they join."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.total = int(self.offsets[-1])
        self.parent, self.start = [-1] * len(lengths), [0] * len(lengths)
        self.first_row = self.offsets[:-1].tolist()
        self.orders = [np.arange(n) for n in lengths]  # by stream
        self.before, self.saved = self.total, 0  # rows of the layer before; what was saved up to now
        # Before the layer at hand: rows that are copied to the end, -1 - number for what was saved; rows to save.
        self.here: list[np.ndarray] = []
        self.saving: list[np.ndarray] = []

    def find(self, prompt: int, orders: np.ndarray, source: int) -> np.ndarray:
        """Rows of tokens in the stream `source`, or in the clean one before its start: int64."""
        old, clean = self.orders[source], orders < self.start[source]
        return np.where(clean, self.offsets[prompt] + orders, self.first_row[source] + np.searchsorted(old, orders))

    def save(self, prompt: int, orders: np.ndarray, source: int) -> np.ndarray:
        """Saves what these tokens are in the stream `source`: the numbers, int64."""
        self.saving.append(self.find(prompt, orders, source))
        self.saved += len(orders)
        return np.arange(self.saved - len(orders), self.saved)

    def join(self, prompt: int, start: int, orders: np.ndarray, source: int, saved: np.ndarray | None = None) -> int:
        """A new stream of these rows, copied from the stream `source`, or from the clean one before its start.

        saved: int64 [orders], the number under which a token was saved, which is taken then; -1 for others.
        """
        rows = self.find(prompt, orders, source)
        return self._append(prompt, start, orders, rows if saved is None else np.where(saved >= 0, -1 - saved, rows))

    def join_end(self, prompt: int, start: int, source: int) -> int:
        """A new stream of all tokens from `start` on, copied from the stream `source`, which has them all: its end."""
        end = self.first_row[source] + len(self.orders[source])
        orders = np.arange(start, len(self.orders[prompt]))
        return self._append(prompt, start, orders, np.arange(end - len(orders), end))

    def _append(self, prompt: int, start: int, orders: np.ndarray, rows: np.ndarray) -> int:
        self.here.append(rows)
        self.parent.append(prompt)
        self.start.append(start)
        self.first_row.append(self.total)
        self.orders.append(orders)
        self.total += len(orders)
        return len(self.parent) - 1

    def shed(self, streams: Mapping[int, tuple[int, np.ndarray, np.ndarray]]) -> np.ndarray:
        """These streams go on without some groups' rows: which rows go on, int64.

        streams: stream -> (its start, its tokens from now on, the rows where these are now).
        """
        kept = []
        for stream, old in enumerate(self.orders):
            if stream in streams:
                self.start[stream], self.orders[stream], rows = streams[stream]
                kept.append(rows)
            else:
                kept.append(np.arange(self.first_row[stream], self.first_row[stream] + len(old)))
        counts = [len(rows) for rows in kept]
        self.first_row = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64).tolist()
        self.total = self.before = sum(counts)
        return np.concatenate(kept)

    def columns(self) -> dict[str, np.ndarray]:
        """Order, token and stream of every row, start and first row of every stream, as of Layout."""
        prompt = [s if p < 0 else p for s, p in enumerate(self.parent)]
        counts = [len(orders) for orders in self.orders]
        order = np.concatenate(self.orders)
        return {
            "order": order.astype(np.int32),
            "token": self.offsets[np.repeat(prompt, counts)] + order,
            "stream": np.repeat(np.arange(len(prompt)), counts).astype(np.int32),
            "start": np.array(self.start, np.int32),
            "first_row": np.array(self.first_row, np.int64),
        }

    def next_layer(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """What joined and what was saved since the last call, int64, as `Layout` has them; if saved states joined."""
        joins, saves = (np.concatenate(part) if part else np.empty(0, np.int64) for part in (self.here, self.saving))
        reads = bool((joins < 0).any())
        joins = np.where(joins < 0, self.before - 1 - joins, joins)
        self.here, self.saving, self.before = [], [], self.total
        return joins, saves, reads


class _Knockouts:
    """Streams of knockouts: one for the jobs whose active layers have been the same so far."""

    def __init__(self, jobs: Sequence[Job], rows: _Rows, groups: Sequence[np.ndarray]) -> None:
        self.rows, self.groups = rows, groups
        self.sheds_after = {job.shed[0] for job in jobs if job.shed is not None}
        self.begin: dict[int, list[Job]] = {}  # by the first layer of its window; until then a job is the clean stream
        for job in jobs:
            self.begin.setdefault((job.layers & -job.layers).bit_length() - 1, []).append(job)
        self.sharing: list[tuple[int, list[Job]]] = []  # (stream, the jobs that share its rows)
        self.last: list[int] = []  # of each, the last layer of any of its windows
        self.going: list[int] = []  # which of these have such a layer still to come, increasing

    def _join(self, members: list[Job], source: int, layer: int) -> None:
        job = members[0]
        if job.shed is not None and layer > job.shed[0]:
            start, orders = kept_orders(job.shed[1], self.groups[job.prompt], job.start)
            stream = self.rows.join(job.prompt, start, orders, source)
        else:
            stream = self.rows.join_end(job.prompt, job.start, source)
        self.going.append(len(self.sharing))
        self.sharing.append((stream, members))
        self.last.append(max(job.layers for job in members).bit_length() - 1)

    def sheds_before(self, layer: int) -> bool:
        """Whether a stream loses rows between this layer and the one below."""
        if layer - 1 not in self.sheds_after:
            return False
        return any(job.shed is not None and job.shed[0] == layer - 1 for _, (job, *_) in self.sharing)

    def shed(self, layer: int) -> np.ndarray:
        """Takes out the rows that no job has from this layer on: the rows that go on, int64."""
        leaving = {}
        for at, (job, *_) in self.sharing:
            if job.shed is not None and job.shed[0] == layer - 1:
                start, orders = kept_orders(job.shed[1], self.groups[job.prompt], job.start)
                leaving[at] = (start, orders, self.rows.find(job.prompt, orders, at))
        return self.rows.shed(leaving)

    def enter(self, layer: int) -> dict[int, tuple[int, ...]]:
        """Lets streams join before the layer. Returns knockout -> streams in which it is in force."""
        self.going = [index for index in self.going if self.last[index] >= layer]
        for index in list(self.going):
            at, members = self.sharing[index]
            if len(members) == 1:
                continue
            inside = [j for j in members if j.layers >> layer & 1]
            if inside and len(inside) < len(members):  # they part here: those still inside keep the rows
                self.sharing[index] = (at, inside)
                self._join([j for j in members if not j.layers >> layer & 1], at, layer)
        begin: dict[tuple, list[Job]] = {}
        for job in self.begin.pop(layer, ()):
            begin.setdefault((job.prompt, job.knockout, job.shed), []).append(job)
        for members in begin.values():
            self._join(members, members[0].prompt, layer)
        in_force: dict[int, list[int]] = {}
        for index in self.going:
            at, (job, *_) = self.sharing[index]
            if job.layers >> layer & 1:
                in_force.setdefault(job.knockout, []).append(at)
        return {k: tuple(v) for k, v in in_force.items()}

    @property
    def stream_of(self) -> dict[Job, int]:
        return {job: at for at, members in self.sharing for job in members}


class _Evictions:
    """Streams of evictions: one for every distinct run of steps."""

    def __init__(self, jobs: Sequence[Eviction], rows: _Rows, groups: Sequence[np.ndarray]) -> None:
        self.jobs, self.rows, self.groups = jobs, rows, groups
        self.streams: dict[Eviction, int] = {}
        # Of each stream with tokens that rest: under which number each was saved, -1 for other tokens.
        self.saved: dict[Eviction, np.ndarray] = {}
        self.stays_gone: dict[Eviction, int] = {}  # of each stream, the groups that no later step of a job brings back
        for job in jobs:
            for count in range(1, len(job.steps)):
                done = Eviction(job.prompt, job.steps[:count])
                for _, gone in job.steps[count:]:
                    self.stays_gone[done] = self.stays_gone.get(done, -1) & gone

    def enter(self, layer: int) -> None:
        for job in self.jobs:
            for count, (after, gone) in enumerate(job.steps):
                if after != layer - 1:
                    continue
                done = Eviction(job.prompt, job.steps[: count + 1])
                if done not in self.streams:
                    self._join(Eviction(job.prompt, job.steps[:count]), done, gone)

    def _join(self, before: Eviction, done: Eviction, gone: int) -> None:
        """The stream of `done`, whose last step makes it differ from that of `before`."""
        prompt, group = done.prompt, self.groups[done.prompt]
        source = self.streams.get(before, prompt)
        start, orders = kept_orders(gone, group, self.rows.start[source] if before in self.streams else len(group))
        already = before.steps[-1][1] if before.steps else 0
        coming_back = gone & ~already & ~self.stays_gone.get(done, -1)  # leaves now, and is back in some job
        if before not in self.saved and not coming_back:
            self.streams[done] = self.rows.join(prompt, start, orders, source)
            return
        saved = self.saved[before].copy() if before in self.saved else np.full(len(group), -1, np.int64)
        leaving = np.flatnonzero(members(coming_back, group))
        if len(leaving):
            saved[leaving] = self.rows.save(prompt, leaving, source)
        self.streams[done] = self.rows.join(prompt, start, orders, source, saved[orders])
        saved[orders] = -1
        self.saved[done] = saved

    @property
    def stream_of(self) -> dict[Eviction, int]:
        return {job: self.streams[job] for job in self.jobs}


def build_layout(
    lengths: Sequence[int],
    jobs: Sequence[Job | Eviction],
    n_layers: int,
    groups: Sequence[np.ndarray] = (),
) -> Layout:
    """Plans one walk.

    Args:
        lengths: tokens of each prompt; its clean stream has the prompt's number.
        jobs: distinct jobs. A knockout has at least one active layer; an eviction's groups have a token, its layers lie
            in -1 (before layer 0) .. n_layers - 2.
        groups: group of every token, int32 [n] for each prompt; evictions and jobs that shed need it. Of the latter all
            shed after the same layer, and none is beside an eviction whose groups come back.
    """
    made = _Rows(lengths)
    knockouts = _Knockouts([j for j in jobs if isinstance(j, Job)], made, groups)
    evictions = _Evictions([j for j in jobs if isinstance(j, Eviction)], made, groups)
    rows, joins, saves, active = [], [], [], []
    reads = set()
    early: Early | None = None
    for layer in range(n_layers):
        if knockouts.sheds_before(layer):
            there = made.columns()
            early = Early(layer, knockouts.shed(layer), **there)
        active.append(knockouts.enter(layer))
        evictions.enter(layer)
        joined, saved, read = made.next_layer()
        joins.append(joined)
        saves.append(saved)
        if read:
            reads.add(layer)
        rows.append(made.total)
    return Layout(
        **made.columns(),
        parent=np.array(made.parent, np.int32),
        rows=rows,
        joins=joins,
        saves=saves,
        reads=frozenset(reads),
        active=active,
        stream_of=knockouts.stream_of | evictions.stream_of,
        early=early,
    )


AnyJob = TypeVar("AnyJob", bound=Job | Eviction)


def _together(job: Job | Eviction) -> tuple:
    """Sorts jobs that share rows next to each other."""
    if isinstance(job, Job):
        return job.prompt, 0, job.knockout, job.shed or (), job.layers
    return job.prompt, 1, job.steps


def split_jobs(
    lengths: Sequence[int],
    jobs: Sequence[AnyJob],
    max_rows: int,
    groups: Sequence[np.ndarray] = (),
) -> list[list[AnyJob]]:
    """Groups jobs into as few walks as keep each within `max_rows` rows at its end; at least one job in each.

    Every walk carries the clean rows of all prompts. Jobs of one knockout stay together: they share rows at the bottom.
    """
    walks: list[list[AnyJob]] = [[]]
    used = sum(lengths)
    for job in sorted(jobs, key=_together):
        count = job_rows(job, lengths, groups)
        if walks[-1] and used + count > max_rows:
            walks.append([])
            used = sum(lengths)
        walks[-1].append(job)
        used += count
    return walks
