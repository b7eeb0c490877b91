"""Walks in which streams join with states of another run: which rows they need, and what every stream answers.

Stream 0 is the run that is patched; stream 1 the other run, where the states come from one. Where the two begin with
the same tokens, those rows are shared. Every cell (a site in a set of layers) is a stream of its own, from the site's
first token on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError, NumericError
from ..models.base import Model
from ..models.deepstack import first_unlike
from .answers import Answer
from .capture import Captured
from .edits import Edit, Part, RowEdits
from .layout import Layout
from .memory import available_bytes, fixed_bytes, max_rows, row_bytes
from .walk import Prediction, run_walk


@dataclass(frozen=True, eq=False)
class SiteRows:
    """Tokens of one prompt whose states are replaced, and by what.

    Attributes:
        part: of a layer. orders: int64 [n], increasing, tokens of the run that is patched.
        source: int64 [n], tokens of the other run; None: a value is put there.
        value: layer -> [D] or [heads, d]. add: it is added to what is there. heads: of attention; None: all.
    """

    part: Part
    orders: np.ndarray
    source: np.ndarray | None = None
    value: Callable[[int], torch.Tensor] | None = None
    add: bool = False
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PatchJob:
    """One site in one set of layers: the unit that gets rows."""

    site: int
    layers: frozenset[int]

    def join(self, part: Part, n_layers: int) -> int:
        """The layer before which its rows join: the first whose input is no longer the other rows'."""
        first = min(self.layers)
        return min(first + 1, n_layers - 1) if part == "residual" else first


def alike(a: Captured, b: Captured) -> int:
    """With how many tokens two runs begin that are one and the same to the decoder; waits for the device.

    The last token of neither counts: it predicts, and each run has its own.
    """
    n = min(a.columns.n_prompt, b.columns.n_prompt) - 1
    deep = first_unlike(a.deep, b.deep)
    n = n if deep is None else min(n, deep)
    pairs = ((a.hidden, b.hidden), (a.cos, b.cos), (a.sin, b.sin))
    unlike = [(x[0, :n] != y[0, :n]).any(-1) for x, y in pairs]
    differs = torch.stack(unlike).any(0)  # [n]
    return int(differs.int().argmax()) if bool(differs.any()) else n


class PatchWalks:
    """The walks of one prompt's cells.

    Args:
        source: the other run; None where no site takes states of one.
        sites: what is patched; `jobs` name them by number.
        memory: bytes for the packed rows; None: from what is free.

    Raises:
        InputError: too little memory for one cell.
    """

    def __init__(
        self,
        model: Model,
        base: Captured,
        source: Captured | None,
        sites: Sequence[SiteRows],
        jobs: Sequence[PatchJob],
        memory: int | None = None,
    ) -> None:
        self.model, self.base, self.source, self.sites = model, base, source, sites
        self.batch = [base] if source is None else [base, source]
        self.shared = 0 if source is None else alike(base, source)
        self.n_base = len(base)
        self.first_rows = self.n_base + (0 if source is None else len(source) - self.shared)
        self.walks = self._split([j for j in jobs if self._reaches(j)], memory)
        self.clean: list[Answer] = []  # of the run that is patched, and of the other one
        self.patched: dict[PatchJob, Answer] = {}  # of cells that can change anything

    def _reaches(self, job: PatchJob) -> bool:
        """Whether a cell can change the answer: what the last layer does to tokens that predict nothing, cannot."""
        return min(job.layers) < self.model.n_layers - 1 or self._predicts(self.sites[job.site].orders)

    def _predicts(self, orders: np.ndarray) -> bool:
        return bool(orders[-1] >= self.base.columns.n_prompt - 1)

    def _split(self, jobs: list[PatchJob], memory: int | None) -> list[list[PatchJob]]:
        model, tokens = self.model, sum(map(len, self.batch))
        budget = available_bytes(model.device) if memory is None else memory
        counts = {job: self.n_base - int(self.sites[job.site].orders[0]) for job in jobs}
        least = self.first_rows + max(counts.values(), default=0)
        need = fixed_bytes(model, tokens) + least * row_bytes(model)
        if memory is not None and need > memory:
            raise InputError(
                f"memory = {memory} bytes is too little for prompt {self.base.prompt.id!r} ({tokens} tokens with the "
                f"other run's): one cell takes about {need} bytes; pass memory={math.ceil(need / 1e6)}MB or more"
            )
        most, used = max_rows(model, tokens, budget), self.first_rows
        walks: list[list[PatchJob]] = [[]]
        for job in sorted(jobs, key=lambda j: (j.site, min(j.layers))):
            if walks[-1] and used + counts[job] > most:
                walks.append([])
                used = self.first_rows
            walks[-1].append(job)
            used += counts[job]
        return walks

    @property
    def ratio(self) -> float:
        """Packed rows of all walks over those of one plain run of the prompt: the cost in plain forwards."""
        rows = sum(sum(self._layout(jobs)[0].rows) for jobs in self.walks)
        return rows / (self.n_base * self.model.n_layers)

    def _layout(self, jobs: Sequence[PatchJob]) -> tuple[Layout, dict[PatchJob, int]]:
        """The rows of one walk, and the stream of every job."""
        n, layers = self.n_base, self.model.n_layers
        parent, start, first_row = [-1], [0], [0]
        orders, tokens = [np.arange(n)], [np.arange(n)]
        if self.source is not None:
            own = np.arange(self.shared, len(self.source))
            parent.append(0 if self.shared else -1)
            start.append(self.shared)
            first_row.append(n)
            orders.append(own)
            tokens.append(n + own)
        total, rows, joins = self.first_rows, [], []
        stream_of: dict[PatchJob, int] = {}
        entering: dict[int, list[PatchJob]] = {}
        for job in jobs:
            entering.setdefault(job.join(self.sites[job.site].part, layers), []).append(job)
        for layer in range(layers):
            copied = [np.empty(0, np.int64)]
            for job in entering.get(layer, ()):
                first = int(self.sites[job.site].orders[0])
                own = np.arange(first, n)
                stream_of[job] = len(parent)
                parent.append(0)
                start.append(first)
                first_row.append(total)
                orders.append(own)
                tokens.append(own)
                copied.append(own)  # row of the run that is patched = its token's order
                total += len(own)
            joins.append(np.concatenate(copied))
            rows.append(total)
        counts = [len(o) for o in orders]
        nothing = [np.empty(0, np.int64)] * layers
        layout = Layout(
            order=np.concatenate(orders).astype(np.int32),
            token=np.concatenate(tokens),
            stream=np.repeat(np.arange(len(parent)), counts).astype(np.int32),
            parent=np.array(parent, np.int32),
            start=np.array(start, np.int32),
            first_row=np.array(first_row, np.int64),
            rows=rows,
            joins=joins,
            saves=nothing,
            reads=frozenset(),
            active=[{} for _ in range(layers)],
            stream_of={},
        )
        return layout, stream_of

    def _edits(self, layout: Layout, stream_of: dict[PatchJob, int]) -> RowEdits | None:
        edits: dict[tuple[Part, int], list[Edit]] = {}
        last = self.model.n_layers - 1
        for job, stream in stream_of.items():
            site = self.sites[job.site]
            start, first = int(layout.start[stream]), int(layout.first_row[stream])
            for layer in sorted(job.layers):
                kept = np.ones(len(site.orders), bool)
                if layer == last:  # where only the rows that predict are computed
                    kept = site.orders >= self.base.columns.n_prompt - 1
                if not kept.any():
                    continue
                source = None if site.source is None else self._source_rows(site.source[kept], layer == last)
                value = None if site.value is None else site.value(layer)
                edit = Edit(first + site.orders[kept] - start, source, value, site.add, site.heads)
                edits.setdefault((site.part, layer), []).append(edit)
        return RowEdits(edits, self.model.device) if edits else None

    def _source_rows(self, orders: np.ndarray, predicting: bool) -> np.ndarray:
        """Rows of the other run's tokens; those that it shares are the patched run's."""
        assert self.source is not None
        if predicting and (orders < self.source.columns.n_prompt - 1).any():
            raise InputError(
                f"prompt {self.source.prompt.id!r}: a token that predicts nothing would take the place of one of "
                f"{self.base.prompt.id!r} that does: give both the same groups at their end"
            )
        return np.where(orders < self.shared, orders, self.n_base + orders - self.shared)

    def run(self, tick: Callable[[float], None] | None = None) -> None:
        """Runs all walks. Raises NumericError, UnsupportedModelError as `run_walk`."""
        for jobs in self.walks:
            self._run(jobs)
            if tick:
                tick(1 / len(self.walks))

    def run_clean(self) -> None:
        """The run that is patched and the other one, without any cell."""
        self._run([])

    def _run(self, jobs: Sequence[PatchJob]) -> None:
        layout, stream_of = self._layout(jobs)
        n_answer = len(self.base.prompt.answer_ids)
        ends = np.array([self.base.columns.n_prompt - 1] * len(layout.parent))
        if self.source is not None:
            ends[1] = self.source.columns.n_prompt - 1
        answer_token = layout.order - ends[layout.stream]
        rows = np.flatnonzero(answer_token >= 0)
        which = answer_token[rows]
        targets = np.array(self.base.prompt.answer_ids, np.int64)[which]
        edits = self._edits(layout, stream_of)
        walk = functools.partial(run_walk, self.model, self.batch, layout, (), rows, targets, "renormalize")
        try:
            found = walk(edits=edits)
        except NumericError:
            walk(edits=edits, find_nonfinite=True)  # the same walk once more: the error names the layer
            raise
        if edits is not None:
            edits.check_done()
        answers = _answers(layout, rows, which, found, n_answer)
        self.clean = answers[: len(self.batch)]
        self.patched |= {job: answers[stream] for job, stream in stream_of.items()}


def _answers(layout: Layout, rows: np.ndarray, which: np.ndarray, found: Prediction, count: int) -> list[Answer]:
    """Of every stream; tokens predicted before a stream's first row are predicted as in the run that is patched."""
    answers: list[Answer] = []
    values = zip(*(t.tolist() for t in (found.logp, found.top, found.option)), strict=True)
    for stream, token, (logp, top, option) in zip(layout.stream[rows].tolist(), which.tolist(), values, strict=True):
        if stream == len(answers):  # by stream, the patched run's first
            before = answers[0] if answers else Answer([0.0] * count, [0] * count, False)
            answers.append(Answer(list(before.logp), list(before.top), before.option))
        answer = answers[stream]
        answer.logp[token], answer.top[token] = logp, top
        if token == 0:
            answer.option = option
    return answers
