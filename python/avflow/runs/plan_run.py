"""An eviction plan over a file of samples, into a run folder: what `avflow plan` does, as functions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import AvflowError, InputError
from ..models.base import Model
from ..planning.plan_eviction import PlannedSchedule, PlanRequest, choose
from ..planning.trials import Answered, EvictionRequest, try_schedules
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..results.schemas import PLAN as ROWS
from ..results.table import write_table
from ..walk.memory import fixed_bytes, row_bytes
from .folder import RunFolder
from .prefetch import prefetch
from .sweep_job import Source, digest, failure, prepared


@dataclass
class PlanJob(Source):
    """What to plan: `request` holds groups and tolerance."""

    request: PlanRequest

    def __post_init__(self) -> None:
        self.check_counts()

    def config(self) -> dict[str, Any]:
        """The values of config.yaml: what decides the rows. Another tolerance chooses from the same rows."""
        return {
            **self.source_config(),
            "evict": list(self.request.groups),
            "joint": self.request.joint is not False,
            "layers": "all" if self.request.layers is None else list(self.request.layers),
            "dtype": self.dtype,
            **self.media,
        }


@dataclass
class PlanOutcome:
    schedule: PlannedSchedule
    failed: dict[str, str]  # sample id: reason
    samples: int  # asked for


def run_plan(job: PlanJob, out: Path, schedule_file: Path, *, debug: bool = False, quiet: bool = False) -> PlanOutcome:
    """Measures every sample that `out` does not hold yet; then chooses, tests, and writes schedule and tables.

    A sample that fails is recorded and left out. `debug`: its exception ends the run.

    Raises:
        InputError: a folder of another configuration; nothing was answered correctly. RunError: cannot be written.
    """
    job.debug = job.debug or debug
    samples = job.read_samples()
    with RunFolder(out, job.config(), ROWS) as folder:
        model = job.load()
        walks, grid = job.request.walks(model), job.request.grid(model)
        todo = [s for s in samples if not folder.finished(s.id, digest(s))]
        with Progress(len(samples), len(samples) - len(todo), quiet=quiet, doing="measure") as bar:
            for reason, rows in job.left_out.items():
                bar.write(f"{rows} rows are left out: {reason}")
            for sample, record in _measured(model, todo, job, walks, bar):
                folder.add(sample.id, digest=digest(sample), **record)
                if record["status"] == "failed":
                    bar.write(f"sample {sample.id} failed: {record['reason']}")
                bar.finish()
        table, meta = folder.merge([s.id for s in samples])
        asked = {s.id: folder.records[s.id] for s in samples}
        failed = {name: r["reason"] for name, r in asked.items() if r["status"] == "failed"}
        there = [s for s in samples if s.id not in failed]
        answered = _answered(table, grid, [s.id for s in there])
        if not answered:
            raise InputError(f"all {len(samples)} samples failed, the first because: {next(iter(failed.values()))}")

        def again() -> Iterator[Prompt]:
            return prefetch(model.prepare(s, **job.media) for s in there)

        schedule = choose(model, job.request, answered, again, progress=not quiet)
        schedule.save(schedule_file)
        plan = schedule.plan
        write_table(plan.table, out / "plan.parquet")
        steps = {step.group: step.after for step in schedule.steps}
        told = {"schedule": steps, "alone": plan.alone, "tried": plan.tried, "figures": schedule.figures}
        folder.write_summary({**told, "data": schedule.data, "failed": failed, **meta})
    return PlanOutcome(schedule, failed, len(samples))


def _measured(
    model: Model, samples: list, job: PlanJob, walks: EvictionRequest, bar: Progress
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(sample, its record as RunFolder.add takes it). Walks of its own: no row depends on its neighbours."""
    grid = job.request.grid(model)
    for sample, prompt, start in prefetch(prepared(model, sample, job) for sample in samples):
        record = prompt  # why there is none
        if isinstance(prompt, Prompt):
            try:
                found = try_schedules(model, [prompt], walks, bar.begin(1))[0]
                record = {"rows": _rows(found, grid), "status": "ok", "correct": found.correct_clean}
                record["p_clean"] = float(np.exp(found.logp_clean))
                record["seconds"] = round(time.monotonic() - start, 3)
            except Exception as error:
                record = failure(error, start, job.debug)
        yield sample, record


def _rows(found: Answered, grid: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    same = {
        "prompt": found.prompt,
        "task": found.task,
        "tokens": found.tokens,
        "logp_clean": found.logp_clean,
        "correct_clean": found.correct_clean,
    }
    values = zip(grid, found.logp.tolist(), found.correct.tolist(), strict=True)
    return [{**same, "group": g, "layer": x, "logp": logp, "correct": right} for (g, x), logp, right in values]


def _answered(table: pa.Table, grid: Sequence[tuple[str, int]], ids: Sequence[str]) -> list[Answered]:
    """What `_rows` wrote, of these prompts, in this order."""
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


def plan_estimates(job: PlanJob) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(sample id, cost of its measuring walks as cost.walks_cost gives it, or why there is none); runs no layer."""
    samples, model = job.read_samples(), job.load()
    walks = job.request.walks(model)
    for sample in samples:
        try:
            plan = walks.plan(model, [model.prepare(sample, **job.media)])
            peak = fixed_bytes(model, plan.lengths[0]) + plan.cost["peak_rows"] * row_bytes(model)
            yield sample.id, plan.cost | {"peak_bytes": peak}
        except AvflowError as error:
            yield sample.id, str(error)
