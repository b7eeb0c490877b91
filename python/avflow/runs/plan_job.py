"""The measuring part of `avflow plan`: what dropping each group after each layer does, for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..checks import shown
from ..errors import InputError
from ..models.base import Model
from ..planning.plan_eviction import PlanRequest
from ..planning.trials import Answered, try_schedules
from ..prompts.prompt import Prompt
from ..results.schemas import PLAN
from ..walk.memory import check_budget, fixed_bytes, parse_bytes, row_bytes
from .job import Record, RunJob, Tick


@dataclass
class PlanJob(RunJob):
    """What to plan. `request` holds groups and layers, which decide the rows, and the tolerance, which does not."""

    request: PlanRequest

    def __post_init__(self) -> None:
        if not isinstance(self.request, PlanRequest):
            raise InputError(f"request = {shown(self.request)}: pass a PlanRequest")
        if self.request.metric is not None:
            raise InputError("a metric is a function: avflow.plan_eviction takes it, a run folder keeps none")
        self.check_counts()

    @property
    def experiment(self) -> str:
        return "plan"

    @property
    def needs_answers(self) -> bool:
        return self.request.max_kl is None

    @property
    def schema(self) -> pa.Schema:
        return PLAN

    @property
    def doing(self) -> str:
        return "measure"

    def own_config(self) -> dict[str, Any]:
        """What decides the rows. Another tolerance chooses from the same rows."""
        return {
            "evict": list(self.request.groups),
            "joint": self.request.joint is not False,
            "layers": "all" if self.request.layers is None else list(self.request.layers),
            **({} if self.request.until is None else {"until": self.request.until}),
            **({"measure": "kl"} if self.request.max_kl is not None else {}),
        }

    @property
    def named_groups(self) -> list[str]:
        return list(self.request.groups)

    def check(self, model: Model) -> None:
        self.request.walks(model)
        memory = self.request.memory
        check_budget(model, None if memory is None else parse_bytes(memory))

    def limit_memory(self, bytes_free: int) -> None:
        self.request.memory = bytes_free if self.request.memory is None else self.request.memory

    def record(self, model: Model, prompt: Prompt, tick: Tick | None = None) -> Record:
        found = try_schedules(model, [prompt], self.request.walks(model), tick)[0]
        rows = rows_of(found, self.request.grid(model))
        p_clean = float(np.exp(found.logp_clean))
        return {"rows": rows, "status": "ok", "correct": found.correct_clean, "p_clean": p_clean}

    def cost(self, model: Model, prompt: Prompt) -> dict[str, Any]:
        plan = self.request.walks(model).plan(model, [prompt])
        peak = fixed_bytes(model, plan.lengths[0]) + plan.cost["peak_rows"] * row_bytes(model)
        return plan.cost | {"peak_bytes": peak}


def rows_of(found: Answered, grid: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Rows in PLAN of one prompt. grid: (group, layer) of every measurement."""
    same = {
        "prompt": found.prompt,
        "task": found.task,
        "tokens": found.tokens,
        "logp_clean": found.logp_clean,
        "correct_clean": found.correct_clean,
    }
    values = zip(grid, found.logp.tolist(), found.correct.tolist(), strict=True)
    return [{**same, "group": g, "layer": x, "logp": logp, "correct": right} for (g, x), logp, right in values]


def answered_of(table: pa.Table, grid: Sequence[tuple[str, int]], ids: Sequence[str]) -> list[Answered]:
    """What `rows_of` wrote, of these prompts, in this order."""
    rows: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["prompt"], {})[row["group"], row["layer"]] = row
    out = []
    for name in ids:
        own = [rows[name][key] for key in grid]
        shared = {key: own[0][key] for key in ("prompt", "task", "tokens", "logp_clean", "correct_clean")}
        logp, correct = np.array([r["logp"] for r in own]), np.array([r["correct"] for r in own], bool)
        out.append(Answered(**shared, logp=logp, correct=correct))
    return out
