"""`avflow plan`: every sample measured into a run folder, then a schedule chosen from the rows and tested."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import checks
from ..data.ahead import ahead
from ..errors import InputError
from ..models.proof import checking, compared
from ..planning.plan_eviction import PlannedSchedule, choose
from ..prompts.prompt import Prompt
from ..results.table import write_table
from .loop import Outcome, measured
from .plan_job import PlanJob, answered_of
from .summary import worst_check


@dataclass
class PlanOutcome(Outcome):
    """An Outcome, and the schedule chosen."""

    schedule: PlannedSchedule


def run_plan(
    job: PlanJob, out: str | Path, schedule_file: str | Path, *, debug: bool = False, quiet: bool = False
) -> PlanOutcome:
    """Measures every sample that `out` does not hold yet; then chooses, tests, and writes schedule and tables.

    Workers measure; the choice and its tests are made in this process. A sample that fails is recorded and left out.
    `debug`: its exception ends the run.

    Raises:
        InputError: a folder of another configuration; nothing was answered correctly. RunError: cannot be written.
    """
    schedule_file = checks.path("the schedule's file", schedule_file)
    load = functools.cache(job.load)
    with measured(job, out, debug=debug, quiet=quiet, load=load) as (folder, outcome):
        failed = outcome.failed
        there = [s for s in outcome.asked if s.id not in failed]
        if not there:
            reason = next(iter(failed.values()))
            raise InputError(f"all {outcome.samples} samples failed, the first because: {reason}")
        model = load()
        job.begin(model)
        answered = answered_of(outcome.table, job.request.grid(model), [s.id for s in there])

        def again(ids: Collection[str]) -> Iterator[Prompt]:
            wanted = [sample for sample in there if sample.id in ids]
            return ahead(lambda sample: job.prompt_of(model, sample), wanted, job.decode_threads)

        before = compared(model)
        with checking(model, job.compare):
            schedule = choose(model, job.request, answered, again, progress=not quiet)
        schedule.save(schedule_file)
        plan = schedule.plan
        assert plan is not None  # choose() gives one always
        write_table(plan.table, folder.path / "plan.parquet")
        steps = {step.group: step.after for step in schedule.steps}
        chosen = {"schedule": steps, "alone": plan.alone, "tried": plan.tried, "figures": schedule.figures}
        tested = {"check": plan.check and {**plan.check, "compared": compared(model) - before}}
        found = {"failed": failed, **outcome.meta, "check": worst_check([*folder.records.values(), tested])}
        folder.write_summary({**chosen, "data": schedule.data, **found})
    return PlanOutcome(outcome.results, outcome.asked, outcome.records, outcome.skipped, outcome.bad, schedule)
