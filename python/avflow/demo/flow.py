"""The demo from end to end: questions, sweep, attention, lens, eviction plan, answers with and without it, one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import models
from ..errors import InputError
from ..eviction.schedule import EvictionSchedule
from ..models.proof import described
from ..planning.plan_eviction import PlanRequest
from ..prompts.sample import Sample
from ..report.samples import write_sample_views
from ..runs.look_job import LookJob
from ..runs.loop import run
from ..runs.plan_job import PlanJob
from ..runs.plan_run import run_plan
from ..runs.summary import worst_check
from ..runs.sweep_job import SweepJob
from ..runtime.generating import generate
from .sample_view import answers, sample_view

# Only what the model answers correctly, as in the study: where it is wrong the answer's probability is near 0, and may
# change by many times that.
SELECT = "correct"
PLAN_GROUPS = ("video", "audio", "question_text")
ANSWER_TOKENS = 1  # a letter: the small model has learned nothing about what follows it


@dataclass
class Demo:
    """What was made. outcomes: of the sweeps. folders: of the page. missing: why a part of the page is not there."""

    outcomes: list[Any]
    folders: list[Path]
    schedule: Path | None = None
    missing: list[str] = field(default_factory=list)


def run_demo(made: dict[str, Any], folder: Path, say: Callable[[str], None], debug: bool = False) -> Demo:
    """Everything but the making of the files and of the page. made: as questions.held_out gives it.

    An eviction plan needs a model that answers something right: where it does not, it is left out with the reason.
    """
    model, samples = made["checkpoint"], Path(made["samples"])
    say("sweep: every path, cut at every layer ...")
    job = SweepJob(model, samples, ["av_video"], window=made["window"], select=SELECT)
    demo = Demo([run(job, folder / "run", debug=debug)], [folder / "run"])
    check = worst_check(demo.outcomes[0].records.values())
    if check is not None:
        say(f"       its clean run and the model's own forward differ by {described(check)}")
    if not demo.outcomes[0].counts["ok"]:
        return demo
    if "items" in made:
        say("sweep: candidates, question and reference ...")
        items = SweepJob(model, Path(made["items"]), ["interleaved"], window=made["window"], select=SELECT)
        demo.outcomes.append(run(items, folder / "interleaved", debug=debug))
        demo.folders.append(folder / "interleaved")
    for what in ("share", "lens"):
        say(f"{what}: one clean pass a sample ...")
        if run(LookJob(model, samples, what), folder / what, debug=debug).table.num_rows:
            demo.folders.append(folder / what)
    say("plan: every group, dropped after every layer ...")
    schedule = None
    try:
        schedule = _plan(model, samples, folder, debug)
        demo.folders.append(folder / "plan")
        demo.schedule = folder / "schedule.json"
    except InputError as error:
        demo.missing.append(f"no eviction plan: {error}")
    say("answers: with the schedule and without ...")
    files = [samples, *([Path(made["items"])] if "items" in made else [])]
    show_samples(model, files, folder / "shown", schedule)
    demo.folders.append(folder / "shown")
    return demo


def _plan(model: str, samples: Path, folder: Path, debug: bool) -> EvictionSchedule:
    job = PlanJob(model, samples, PlanRequest(PLAN_GROUPS))
    return run_plan(job, folder / "plan", folder / "schedule.json", debug=debug).schedule


def show_samples(model: str, files: list[Path], folder: Path, schedule: EvictionSchedule | None) -> None:
    """One sample of every task into shown.json: its picture, its tokens, and its generated answers.

    Answers with the schedule are of the first file alone: it was chosen on these.
    """
    loaded = models.load(model, device="cpu", dtype="float32")
    first: dict[str, tuple[Sample, bool]] = {}
    for file in files:
        for sample in Sample.read_jsonl(file):
            first.setdefault(sample.task, (sample, file is files[0]))
    views = []
    for sample, planned in first.values():
        prompt = loaded.prepare(sample)
        views.append(sample_view(prompt, loaded))
        if planned and schedule is not None and schedule.steps:
            if len(views) == 1:  # the first runs of a process are slow
                generate(loaded, prompt, None, max_new_tokens=2)
                generate(loaded, prompt, schedule, max_new_tokens=2)
            views[-1]["answers"] = answers(
                *(generate(loaded, prompt, s, max_new_tokens=ANSWER_TOKENS) for s in (None, schedule))
            )
    steps = None if schedule is None else {step.group: step.after for step in schedule.steps}
    write_sample_views(folder, views, steps)
