"""Which jobs share which walks: prompts that fit one walk together, and jobs under a memory budget. Runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from ..errors import InputError
from ..knockouts.knockout import Knockout, Semantics
from ..knockouts.sides import parts_of
from ..models.base import Model
from ..prompts.prompt import Prompt
from .capture import columns_of
from .cost import walks_cost, walks_size
from .jobs import Columns, Eviction, Job, job_rows
from .layout import Layout, build_layout, split_jobs
from .memory import available_bytes, fixed_bytes, max_rows, row_bytes

PACK_TOKENS = 4096  # prompts shorter than this share a walk: one reading of the weights serves them all


class Walks:
    """Jobs of a batch of prompts, and the walks that run them.

    memory: bytes for the packed rows; None: from what is free. columns: the prompts', where they are at hand.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        knockouts: Sequence[Knockout] = (),
        semantics: Semantics = "renormalize",
        memory: int | None = None,
        columns: Sequence[Columns] | None = None,
    ) -> None:
        self.model, self.prompts, self.knockouts, self.semantics = model, prompts, knockouts, semantics
        # Where knockouts name items, these are the "groups" of the columns: the model's, and parts of them.
        self.parts = parts_of(model.groups, knockouts)
        whole = [columns_of(model, p) for p in prompts] if columns is None else columns
        self.columns = [replace(c, group=self.parts.columns(c.group, c.item)) for c in whole]
        self.groups = [c.group for c in self.columns]
        self.lengths = [len(c) for c in self.columns]
        self.jobs = list(dict.fromkeys(self._make_jobs()))
        budget = available_bytes(model.device) if memory is None else memory
        self.max_rows = max_rows(model, sum(self.lengths), budget)
        if memory is not None:
            self._check_budget(budget)

    def _make_jobs(self) -> Iterator[Job | Eviction]:
        """The jobs, asked for once the columns are there; they may repeat."""
        raise NotImplementedError

    def _job_rows(self) -> list[int]:
        return [job_rows(job, self.lengths, self.groups) for job in self.jobs]

    def _check_budget(self, budget: int) -> None:
        tokens = sum(self.lengths)
        least = tokens + max(self._job_rows(), default=0)
        need = fixed_bytes(self.model, tokens) + least * row_bytes(self.model)
        if need > budget:
            raise InputError(
                f"memory = {budget} bytes is too little for prompt {self.prompts[0].id!r} ({tokens} tokens): its clean "
                f"rows and one job take about {need} bytes; pass memory={math.ceil(need / 1e6)}MB or more"
            )

    @property
    def peak_rows(self) -> int:
        return sum(self.lengths) + sum(self._job_rows())

    @cached_property
    def walks(self) -> list[list[Job | Eviction]]:
        """The jobs of each."""
        return split_jobs(self.lengths, self.jobs, self.max_rows, self.groups)

    @cached_property
    def layouts(self) -> list[Layout]:
        """One per walk."""
        return [build_layout(self.lengths, jobs, self.model.n_layers, self.groups) for jobs in self.walks]

    def opening(self, walk: int) -> Layout | None:
        """The first layer of a walk as its layout has it, made without the others; None: of a walk with evictions."""
        jobs = self.walks[walk]
        if self.model.n_layers < 2 or not all(isinstance(job, Job) for job in jobs):
            return None
        return build_layout(self.lengths, jobs, 1, self.groups)

    def lay_out_beside(self) -> None:
        """Makes the layouts now if the device has media to encode meanwhile; else beside the walk's first layer."""
        if any(prompt.model_inputs for prompt in self.prompts):
            _ = self.layouts

    @cached_property
    def size(self) -> dict[str, Any]:
        """See cost.walks_size."""
        return walks_size(self.layouts)

    def is_dearer_than(self, ratio: float) -> bool:
        """Whether the walks have more than `ratio` times the rows of a clean pass; lays them out only where it must."""
        return self.peak_rows > ratio * sum(self.lengths) and self.size["ratio"] > ratio

    @cached_property
    def cost(self) -> dict[str, Any]:
        """See cost.walks_cost."""
        return walks_cost(self.model, self.layouts, max(len(p.answer_ids) for p in self.prompts))


class Request(Protocol):
    """What is asked of prompts, of a sweep or of evictions."""

    def plan(self, model: Model, prompts: Sequence[Prompt]) -> Walks: ...


def packs(model: Model, prompts: Iterable[Any], request: Request) -> Iterator[list[Prompt]]:
    """Neighbouring short prompts that fit one walk together."""
    pack: list[Prompt] = []
    for prompt in prompts:
        prompt = prompt if isinstance(prompt, Prompt) else model.prepare(prompt)
        if pack:
            together = [*pack, prompt]
            if sum(map(len, together)) > PACK_TOKENS or not _fits(model, together, request):
                yield pack
                pack = []
        pack.append(prompt)
    if pack:
        yield pack


def _fits(model: Model, prompts: Sequence[Prompt], request: Request) -> bool:
    try:
        plan = request.plan(model, prompts)
    except InputError:
        return False  # alone it either fits, or the error names what is wrong
    return plan.peak_rows <= plan.max_rows
