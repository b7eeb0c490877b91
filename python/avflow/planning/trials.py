"""Many evictions of one prompt in one walk: what the answer becomes when these groups leave after those layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..eviction.policies import KeepNone
from ..eviction.schedule import EvictionSchedule
from ..models.base import Model
from ..models.compat import check_layers
from ..prompts.prompt import Prompt
from ..prompts.relabel import warn_of_left
from ..runtime.generating import check_open
from ..walk.answers import Runner
from ..walk.capture import begin_capture, check_embeddings
from ..walk.jobs import Eviction
from ..walk.packing import Walks


@dataclass
class EvictionRequest:
    """The schedules to try.

    memory: bytes for the packed rows of a walk; None: from what is free. divergence: what is measured is how far the
    next token's distribution goes from the clean run's, and no answer is looked at.
    """

    schedules: Sequence[EvictionSchedule]
    memory: int | None = None
    divergence: bool = False

    def check(self, model: Model) -> None:
        """Raises InputError for a schedule that the model, or a walk, cannot run."""
        check_layers(model.text_model)
        for schedule in self.schedules:
            schedule.check(model)
            if self.divergence:
                check_open(model, schedule)
            for step in schedule.steps:
                if not isinstance(step.keep, KeepNone):
                    raise InputError(f"{step.keep}: walks measure groups that leave whole (KeepNone)")

    def plan(self, model: Model, prompts: Sequence[Prompt]) -> EvictionWalks:
        return EvictionWalks(model, [unanswered(p) for p in prompts] if self.divergence else prompts, self)


class EvictionWalks(Walks):
    """A job for every prompt and schedule; None for a schedule without steps, which is the clean run."""

    def __init__(self, model: Model, prompts: Sequence[Prompt], request: EvictionRequest) -> None:
        request.check(model)
        self.schedules = request.schedules
        self.jobs_by_schedule: list[list[Eviction | None]] = []  # [prompts][schedules]
        super().__init__(model, prompts, memory=request.memory)

    def _make_jobs(self) -> Iterator[Eviction]:
        named = [step.group for schedule in self.schedules for step in schedule.steps]
        for number, columns in enumerate(self.columns):
            warn_of_left(self.prompts[number], named, self.model.groups, self.model.warned)
            self._check_present(number, np.bincount(columns.group, minlength=64).astype(bool))
            self.jobs_by_schedule.append([self._job(number, schedule) for schedule in self.schedules])
            yield from (job for job in self.jobs_by_schedule[-1] if job)

    def _job(self, number: int, schedule: EvictionSchedule) -> Eviction | None:
        leave: dict[int, int] = {}
        rest: list[tuple[int, int, int]] = []
        for step in schedule.steps:
            word = self.model.groups.expand(step.group)
            if step.until is None:
                leave[step.after] = leave.get(step.after, 0) | word
            else:
                rest.append((step.after, step.until, word))
        return Eviction.of(number, leave, rest) if schedule.steps else None

    def _check_present(self, number: int, present: np.ndarray) -> None:
        """present: bool [64]. A group without a token would look as if dropping it were harmless."""
        groups = self.model.groups
        for name in dict.fromkeys(step.group for schedule in self.schedules for step in schedule.steps):
            if not any(present[groups[member]] for member in groups.members(name)):
                there = ", ".join(n for n in groups.names if present[groups[n]])
                raise InputError(
                    f"prompt {self.prompts[number].id!r} has no token of group {name!r} (it has {there}): leave the "
                    "group, or the prompt, out"
                )


@dataclass
class Answered:
    """One prompt, clean and under every schedule of a request."""

    prompt: str
    task: str
    tokens: int
    logp_clean: float  # natural log of the answer's probability, all its tokens
    correct_clean: bool | float  # a score of 0 .. 1 where a metric measures
    logp: np.ndarray  # float64 [schedules]
    correct: np.ndarray  # bool [schedules], or scores, float64


def unanswered(prompt: Prompt) -> Prompt:
    """The prompt with any one token for its answer: what predicts the first one depends on none."""
    return replace(prompt, answer_ids=[0], option_ids=None)


def try_schedules(
    model: Model, prompts: Sequence[Prompt], request: EvictionRequest, tick: Callable[[float], None] | None = None
) -> list[Answered]:
    """Runs every schedule on prompts that share walks.

    With request.divergence the answer is a token that the clean run draws: `logp` is the mean of its log-probability,
    minus the clean run's entropy, and minus that and KL(clean || with the tokens gone), at the first token of the
    answer; `correct` where the most probable token is that of the clean run.

    tick: called after each layer, with the share of the work that it was.

    Raises:
        InputError: a prompt without a token of a group, or schedules that do not fit the model.
    """
    plan = request.plan(model, prompts)
    batch = [begin_capture(model, p) for p in plan.prompts]
    plan.lay_out_beside()
    for captured in batch:
        check_embeddings(captured)
    runner = Runner(plan, batch, tick, divergence=request.divergence)
    for layout in plan.layouts:
        runner.run(layout)
    out = []
    for number, prompt in enumerate(prompts):
        answers = [runner.clean[number] if job is None else runner.cut[job] for job in plan.jobs_by_schedule[number]]
        if request.divergence:
            clean = runner.clean[number]
            logp = np.array([-clean.entropy - answer.kl for answer in answers], np.float64)
            same = np.array([answer.top == clean.top for answer in answers], bool)
            out.append(Answered(prompt.id, prompt.task, len(prompt), -clean.entropy, True, logp, same))
            continue
        out.append(
            Answered(
                prompt=prompt.id,
                task=prompt.task,
                tokens=len(prompt),
                logp_clean=sum(runner.clean[number].logp),
                correct_clean=runner.correct(number),
                logp=np.array([sum(answer.logp) for answer in answers], np.float64),
                correct=np.array([runner.correct(number, job) for job in plan.jobs_by_schedule[number]], bool),
            )
        )
    return out
