"""`avflow.plan_eviction`: measures what dropping each group after each layer does, chooses, and tests what it chose."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import checks
from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError, warn_user
from ..eviction.schedule import BEFORE, EvictionSchedule, Step
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking
from ..models.proof import figures as proof_figures
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..walk.memory import parse_bytes
from ..walk.packing import packs
from .choice import Tolerance, Trials, change, earliest, ladder, table_of
from .holdout import held_out
from .judged import Prepare, figures_of, run_both, verdict, what_is_not_shown
from .measure import Measure, Metric
from .served import RUNTIMES, settled
from .texts import score_schedules
from .trials import Answered, EvictionRequest, try_schedules

if TYPE_CHECKING:
    import pandas as pd

PrepareThose = Callable[[Collection[str]], Iterator[Prompt]]  # the prompts of these ids, prepared anew
RUNGS = 16  # joint schedules that one pass over the prompts tries; they share their lower layers


@dataclass
class EvictionPlan:
    """How a schedule came to be.

    Attributes:
        table: one row per group and layer, see results.schemas.PLAN_EVICTION; the groups together are the group "a+b".
        alone: {group: layer} that each group would take if the others stayed; a group that must stay is absent.
        tried: joint schedules in the order of trial, each {"schedule": {group: layer}, "change": of accuracy,
            "by": "walk" or "evict", "holds": bool}.
        check: how near the clean runs, and the blocks with nothing dropped, came to the model's own forward
            (`models.proof.figures`).
    """

    table: pa.Table
    alone: dict[str, int]
    tried: list[dict[str, Any]]
    check: dict[str, Any] | None = None


@dataclass(frozen=True)
class PlannedSchedule(EvictionSchedule):
    """An EvictionSchedule that remembers its plan; a file keeps the schedule and its figures only."""

    plan: EvictionPlan | None = field(default=None, compare=False, repr=False)

    def results(self) -> Results:
        """What was measured, one row per group and layer; columns as results.schemas.PLAN_EVICTION.

        Raises:
            InputError: a schedule that was read from a file has no plan.
        """
        if self.plan is None:
            raise InputError("the schedule has no plan, a file does not keep it: take it from avflow.plan_eviction")
        steps = {step.group: step.after for step in self.steps}  # until when they rest stands in the figures
        meta = {"experiment": "plan_eviction", "schedule": steps, "data": self.data, "figures": self.figures}
        meta["check"] = self.plan.check
        return Results(self.plan.table, meta)

    @property
    def table(self) -> pa.Table:
        """`results()` as a pyarrow.Table."""
        return self.results().table

    def to_pandas(self) -> pd.DataFrame:
        """`results()` as a pandas.DataFrame. Raises ImportError where pandas is not installed."""
        return self.results().to_pandas()


@dataclass
class PlanRequest:
    """What to measure and what it may cost.

    Args:
        groups: names, aliases or sums ("video+audio"), each of which leaves as a whole.
        max_accuracy_drop, strict, confidence, seed, margin: see choice.Tolerance.
        holdout: share of the prompts, of every task, on which the schedule is judged and not chosen; 0: judged on all,
            which are those that it was chosen on, and flatter it.
        joint: also measure all groups leaving together after every layer; None: where there are several.
        layers: layers after which they may leave, 0-based, and -1 for before layer 0; None: 0 and on, but the last.
        memory: budget for the packed rows of a walk, "8GB" or bytes; None: from what is free.
        until: groups rest until this layer and come back in the next, as `Step` says; None: they leave for good. The
            layers after which they may rest are those below it.
        max_kl: nats; a label-free plan, see measure.Measure. metric, max_new_tokens: a measure of one's own, likewise.
        runtime: what is to run the schedule. "vllm": only boundaries that save KV memory there as they should, see
            eviction.vllm_groups; nothing that rests.

    Raises:
        InputError: a value out of range, or what the runtime cannot do; the message names it.
    """

    groups: Sequence[str] = ("video", "audio")
    max_accuracy_drop: float = 0.0
    strict: bool = False
    joint: bool | None = None
    layers: Any = None
    confidence: float = 0.95
    seed: int = 0
    memory: int | str | None = None
    holdout: float = 0.5
    margin: float | None = 0.01
    until: int | None = None
    max_kl: float | None = None
    metric: Metric | None = None
    max_new_tokens: int = 32
    runtime: str = "avflow"

    def __post_init__(self) -> None:
        self.measure = Measure(self.max_kl, self.metric, self.max_new_tokens)
        self.max_kl, self.max_new_tokens = self.measure.max_kl, self.measure.max_new_tokens
        self.groups = checks.texts("groups", self.groups)
        if self.joint is not None:
            checks.flag("joint =", self.joint)
        if not self.groups:
            raise InputError('groups is empty: name those that may leave, such as ["video", "audio"]')
        twice = sorted({g for g in self.groups if self.groups.count(g) > 1})
        if twice:
            raise InputError(f"group {twice[0]!r} is given twice: name each once")
        if self.memory is not None:
            self.memory = parse_bytes(self.memory)
        limits = (self.max_accuracy_drop, self.strict, self.confidence, self.seed, self.margin)
        self.tolerance = Tolerance(*limits, max_kl=self.max_kl)
        self.confidence, self.margin = self.tolerance.confidence, self.tolerance.margin
        mend = "pass a share of the prompts, from 0 to 0.9, such as 0.5"
        self.holdout = checks.number("holdout =", self.holdout, high=0.9, mend=mend)
        if self.until is not None:
            mend = "pass the last layer without the groups, from 1 on, or None where they leave for good"
            self.until = checks.integer("until =", self.until, low=1, mend=mend)
        if checks.choice("runtime", self.runtime, RUNTIMES) == "vllm" and self.until is not None:
            raise InputError(
                f"until = {self.until} with runtime = 'vllm': in vLLM what leaves does not come back. Leave until out, "
                "or plan for avflow's own runtime"
            )

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)

    def layer_list(self, model: Model) -> list[int]:
        """The candidate layers, ascending."""
        if model.n_layers < 2:
            raise InputError("the model has one layer: there is none after which leaving saves anything")
        end = model.n_layers - 1 if self.until is None else min(self.until, model.n_layers - 1)
        found = layer_list(list(range(end)) if self.layers is None else self.layers, model.n_layers, BEFORE)
        if self.until is not None and found[-1] >= self.until:
            raise InputError(f"layers hold {found[-1]}, and until = {self.until}: a rest begins below its last layer")
        return found

    def schedule(self, chosen: Mapping[str, int]) -> EvictionSchedule:
        """{group: last layer that sees it} as a schedule."""
        return EvictionSchedule([Step(group, after, until=self.until) for group, after in chosen.items()])

    def rungs(self, alone: dict[str, int], loss: dict[str, dict[int, float]], model: Model) -> list[dict[str, int]]:
        """The joint schedules to try in turn, see `choice.ladder`; without the one from which nothing leaves."""
        candidates = self.layer_list(model)
        found = ladder(alone, loss, candidates)
        if self.runtime == "vllm":
            found = settled(found, candidates, model.n_layers)
        return [rung for rung in found if rung]

    def grid(self, model: Model) -> list[tuple[str, int]]:
        """(group, layer) of every measurement."""
        together = ["+".join(self.groups)] if len(self.groups) > 1 and self.joint is not False else []
        return [(group, layer) for group in [*self.groups, *together] for layer in self.layer_list(model)]

    def walks(self, model: Model) -> EvictionRequest:
        """The measurements, after a check against the model.

        Raises:
            InputError: groups or layers that the model does not have, or groups that must stay.
            UnsupportedModelError: a decoder that is not plain causal attention.
        """
        check_model(model)
        request = self.trial([self.schedule({g: layer}) for g, layer in self.grid(model)])
        request.check(model)
        self.schedule(dict.fromkeys(self.groups, 0)).check(model)  # two that share tokens cannot both rest
        return request

    def trial(self, schedules: Sequence[EvictionSchedule]) -> EvictionRequest:
        """These schedules, by the plan's measure."""
        return EvictionRequest(schedules, self.memory_bytes, divergence=self.measure.kind != "answers")


def _try_all(
    model: Model, prompts: Iterable[Prompt], request: EvictionRequest, measure: Measure, bar: Progress
) -> Iterator[Answered]:
    if measure.kind == "metric":
        for prompt in prompts:
            yield score_schedules(model, prompt, request, measure, bar.begin(1))
            bar.finish()
        return
    for pack in packs(model, prompts, request):
        yield from try_schedules(model, pack, request, bar.begin(len(pack)))
        bar.finish(len(pack))


def plan_eviction(
    model: Model,
    prompts: PromptSource,
    groups: Sequence[str] = ("video", "audio"),
    max_accuracy_drop: float = 0.0,
    joint: bool | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    strict: bool = False,
    layers: Any = None,
    memory: int | str | None = None,
    progress: bool = False,
    check: str | int | None = None,
    holdout: float = 0.5,
    margin: float | None = 0.01,
    until: int | None = None,
    max_kl: float | None = None,
    metric: Metric | None = None,
    max_new_tokens: int = 32,
    runtime: str = "avflow",
    labels: Any = None,
) -> PlannedSchedule:
    """Finds after which layer each group can leave without harm.

    1. One walk per prompt measures every group, and all of them together, after every layer.
    2. On one part of the prompts, a group's layer is the earliest one such that there, and after every later one,
       accuracy drops by no more than `max_accuracy_drop` (the drop that is seen, or with `strict` its exact bound), and
       the answer's probability by no more than that and `margin`. Where no layer will do the group stays.
    3. Groups interact. The joint schedule is tried by a walk; if it drops more, the group with the largest loss of
       log-probability (alone, after its present layer) leaves one layer later, and so on until the tolerance holds.
    4. What holds is judged on the other part, `holdout` of every task: run by `avflow.evict` in the model itself,
       against the model without it; if it does not hold there, the next of step 3 is taken. Its accuracy, times and
       cache sizes are the schedule's `figures`, with `accuracy_drop_bound`: on prompts like these it loses less, with
       `confidence`, however many schedules were tried on them: the k-th takes 1 / (k (k + 1)) of the doubt.

    A warning says so where the prompts are too few for the drop asked, or where none could be held out.

    Without answers, `max_kl=` (nats): prompts alone are asked for, and a prompt counts as right where KL(plain || with
    the schedule) of the next token's distribution, at the answer's first token, is at most that. `max_accuracy_drop` is
    the share of prompts that may be further off, and `accuracy_drop_bound` its exact limit; of the mean KL, which has
    no largest value, nothing can be promised. Step 2's margin is the limit of the mean KL, within `max_kl`.

    With `metric=`, a function (prompt, text) -> 0 .. 1, what counts is that of the greedy answer. "Accuracy" is its
    mean, and the bound is Hoeffding's for what lies in 0 .. 1 (exact.mean_limits), of the mean fall; the margin is for
    that fall.

    Args:
        prompts: as of `avflow.sweep`. They are gone through some three times; samples are prepared anew.
        progress: show a progress bar.
        check, labels: as of `avflow.sweep`.
        until: measure rests until this layer, not evictions for good.
        runtime: "vllm": a schedule for `vllm serve` (docs/vllm.md). Step 3 tries only boundaries whose KV memory there
            is what it should be; a group moves later to reach one.
        The others: see PlanRequest.

    Returns:
        The schedule, with `.plan` (table, what was tried), `.model`, `.data` and `.figures`. Without a step where
        nothing can leave.

    Raises:
        InputError: no prompts, none answered correctly, a prompt without a token of a group, groups that must stay.
    """
    limits = (max_accuracy_drop, strict, joint, layers, confidence, seed, memory, holdout, margin, until)
    request = PlanRequest(groups, *limits, max_kl, metric, max_new_tokens, runtime)
    given = as_prompts(model, prompts, again=True, answers=request.measure.kind == "answers", labels=labels)
    walks = request.walks(model)
    with checking(model, check):
        with Progress(given.count, unit="prompt", quiet=not progress, doing="measure") as bar:
            answered = list(_try_all(model, given, walks, request.measure, bar))
        return choose(model, request, answered, lambda ids: iter(given.only(ids)), progress)


def choose(
    model: Model, request: PlanRequest, answered: Sequence[Answered], prepare: PrepareThose, progress: bool = False
) -> PlannedSchedule:
    """Steps 2 to 4 of `plan_eviction`.

    Args:
        answered: what step 1 measured, by request.walks(model). prepare: gives those of some ids again.
    """
    trials = _checked(answered, request.measure)
    grid, tolerance = request.grid(model), request.tolerance
    candidates = request.layer_list(model)
    apart = held_out(trials.ids, trials.tasks, trials.clean.tolist(), request.holdout, request.seed)
    seen = trials.take(~apart)
    holds = dict(zip(grid, tolerance.holds(seen.clean, seen.correct, seen.fall), strict=True))
    lost = dict(zip(grid, seen.loss, strict=True))
    first = {g: earliest(candidates, np.array([holds[g, layer] for layer in candidates])) for g in request.groups}
    alone = {g: layer for g, layer in first.items() if layer is not None}
    loss = {g: {layer: float(lost[g, layer]) for layer in candidates} for g in alone}
    plan = EvictionPlan(table_of(trials, grid, tolerance), alone, [])
    rungs = request.rungs(alone, loss, model)
    judges = apart if apart.any() else ~apart
    again = _those(prepare, trials.ids, ~apart)
    for look, chosen in enumerate(_holding(model, request, rungs, again, plan, len(seen.ids), progress), start=1):
        doubt = (1 - request.confidence) / (look * (look + 1))  # 1/2 + 1/6 + 1/12 + ... = 1: of all looks together
        with Progress(int(judges.sum()), unit="prompt", quiet=not progress, doing="judge") as bar:
            pairs = run_both(model, request.schedule(chosen), _those(prepare, trials.ids, judges), bar, request.measure)
        fine, moved = verdict(tolerance, pairs, 1 - doubt)
        plan.tried.append({"schedule": chosen, "change": moved, "by": "evict", "holds": fine})
        if fine:
            return _schedule(model, request, chosen, trials, apart, figures_of(pairs, doubt), plan)
    return _schedule(model, request, {}, trials, apart, {}, plan)


def _those(prepare: PrepareThose, ids: Sequence[str], which: np.ndarray) -> Prepare:
    """`prepare` for some of the prompts. which: bool [prompts]."""
    return partial(prepare, {name for name, own in zip(ids, which.tolist(), strict=True) if own})


def _checked(answered: Sequence[Answered], measure: Measure) -> Trials:
    if not answered:
        raise InputError("no prompts: pass at least one, and some tens for an accuracy that means something")
    twice = [name for name, count in Counter(a.prompt for a in answered).items() if count > 1]
    if twice:
        raise InputError(f"two prompts have the id {twice[0]!r}: give each its own")
    trials = Trials.of(answered, measure)
    if not trials.clean.any() and measure.kind == "metric":
        raise InputError(
            f"the metric gives 0 for every answer of the plain model ({len(trials.ids)} prompts), so no eviction can "
            "do harm, and nothing can be chosen: check the metric, or max_new_tokens"
        )
    if not trials.clean.any():
        raise InputError(
            f"the model answers none of the {len(trials.ids)} prompts correctly (accuracy 0), so no eviction can do "
            "harm, and nothing can be chosen: check the answers and the prompt's form, or pass other prompts"
        )
    return trials


def _holding(
    model: Model,
    request: PlanRequest,
    rungs: list[dict[str, int]],
    prepare: Prepare,
    plan: EvictionPlan,
    count: int,
    progress: bool,
) -> Iterator[dict[str, int]]:
    """The joint schedules that hold in a walk, in the order of the rungs. prepare: gives `count` prompts."""
    for at in range(0, len(rungs), RUNGS):
        part = rungs[at : at + RUNGS]
        walks = request.trial([request.schedule(rung) for rung in part])
        with Progress(count, unit="prompt", quiet=not progress, doing="together") as bar:
            found = list(_try_all(model, prepare(), walks, request.measure, bar))
        trials = Trials.of(found, request.measure)
        fine = request.tolerance.holds(trials.clean, trials.correct, trials.fall)
        drops = change(trials.clean, trials.correct).mean(0)
        for rung, holds, drop in zip(part, fine.tolist(), drops.tolist(), strict=True):
            plan.tried.append({"schedule": rung, "change": drop, "by": "walk", "holds": holds})
            if holds:
                yield rung


def _schedule(
    model: Model,
    request: PlanRequest,
    chosen: dict[str, int],
    trials: Trials,
    apart: np.ndarray,
    judged: dict[str, Any],
    plan: EvictionPlan,
) -> PlannedSchedule:
    """apart: bool [prompts], held out. judged: as judged.figures_of gives it; empty where nothing can leave."""
    held = int(apart.sum())
    plan.check = proof_figures(model)
    data = {
        "prompts": len(trials.ids),
        "chosen_on": len(trials.ids) - held,
        "held_out": held,
        "ids_sha256": hashlib.sha256("\n".join(sorted(trials.ids)).encode()).hexdigest(),
        "tasks": sorted({task for task in trials.tasks if task}),
        "mean_tokens": float(trials.tokens.mean()),
    }
    kind = request.measure.kind
    more = {"max_kl": request.max_kl} if kind == "kl" else {}
    more |= {"max_new_tokens": request.max_new_tokens} if kind == "metric" else {}
    figures: dict[str, Any] = {
        "measure": kind,
        **more,
        "max_accuracy_drop": request.max_accuracy_drop,
        "strict": request.strict,
        "confidence": request.confidence,
        "margin": request.margin,
        "holdout": request.holdout,
        "seed": request.seed,
        "accuracy_clean": float(trials.clean.mean()),
        **({} if request.until is None else {"until": request.until}),
        **({} if request.runtime == "avflow" else {"runtime": request.runtime}),
        **judged,
    }
    if judged:
        figures["not_shown"] = what_is_not_shown(figures, bool(held))
        if figures["not_shown"] is not None:
            warn_user(figures["not_shown"])
    return PlannedSchedule(request.schedule(chosen).steps, EvictionSchedule.facts(model), data, figures, "prompt", plan)
