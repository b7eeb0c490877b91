"""`avflow.plan_eviction`: measures what dropping each group after each layer does, chooses, and tests what it chose."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import checks
from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError
from ..eviction.schedule import EvictionSchedule
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, compared
from ..models.proof import figures as proof_figures
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..runtime.answering import OwnRun, own_run
from ..walk.memory import parse_bytes
from ..walk.packing import packs
from .choice import Tolerance, Trials, change, earliest, ladder, table_of
from .savings import eviction_cost
from .trials import Answered, EvictionRequest, try_schedules

if TYPE_CHECKING:
    import pandas as pd

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
        steps = {step.group: step.after for step in self.steps}
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
        max_accuracy_drop, strict, confidence, seed: see choice.Tolerance.
        joint: also measure all groups leaving together after every layer; None: where there are several.
        layers: layers after which they may leave, 0-based; None: all but the last.
        memory: budget for the packed rows of a walk, "8GB" or bytes; None: from what is free.

    Raises:
        InputError: a value out of range; the message names it.
    """

    groups: Sequence[str] = ("video", "audio", "question_text")
    max_accuracy_drop: float = 0.0
    strict: bool = False
    joint: bool | None = None
    layers: Any = None
    confidence: float = 0.95
    seed: int = 0
    memory: int | str | None = None

    def __post_init__(self) -> None:
        self.groups = checks.texts("groups", self.groups)
        if self.joint is not None:
            checks.flag("joint =", self.joint)
        if not self.groups:
            raise InputError('groups is empty: name those that may leave, such as ["video", "audio"]')
        twice = sorted({g for g in self.groups if self.groups.count(g) > 1})
        if twice:
            raise InputError(f"group {twice[0]!r} is given twice")
        if self.memory is not None:
            self.memory = parse_bytes(self.memory)
        self.tolerance = Tolerance(self.max_accuracy_drop, self.strict, self.confidence, self.seed)

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)

    def layer_list(self, model: Model) -> list[int]:
        """The candidate layers, ascending."""
        if model.n_layers < 2:
            raise InputError("the model has one layer: there is none after which leaving saves anything")
        return layer_list(list(range(model.n_layers - 1)) if self.layers is None else self.layers, model.n_layers)

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
        request = EvictionRequest([EvictionSchedule({g: layer}) for g, layer in self.grid(model)], self.memory_bytes)
        request.check(model)
        return request


Prepare = Callable[[], Iterator[Prompt]]


def _try_all(model: Model, prompts: Iterable[Prompt], request: EvictionRequest, bar: Progress) -> Iterator[Answered]:
    for pack in packs(model, prompts, request):
        yield from try_schedules(model, pack, request, bar.begin(len(pack)))
        bar.finish(len(pack))


def plan_eviction(
    model: Model,
    prompts: PromptSource,
    groups: Sequence[str] = ("video", "audio", "question_text"),
    max_accuracy_drop: float = 0.0,
    joint: bool | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    strict: bool = False,
    layers: Any = None,
    memory: int | str | None = None,
    progress: bool = False,
    check: str | int | None = None,
) -> PlannedSchedule:
    """Finds after which layer each group can leave without harm.

    1. One walk per prompt measures every group, and all of them together, after every layer.
    2. A group's layer is the earliest one such that there, and after every later one, accuracy drops by no more than
       `max_accuracy_drop`: the drop itself (point estimate), or with `strict` the upper end of its interval (paired
       bootstrap over prompts). Where no layer will do the group stays.
    3. Groups interact. The joint schedule is tried by a walk; if it drops more, the group with the largest loss of
       log-probability (alone, after its present layer) leaves one layer later, and so on until the tolerance holds.
    4. What holds is run by `avflow.evict` in the model itself, against the model without it; if it does not hold there
       (low precision), the next of step 3 is taken. Its accuracy, times and cache sizes are the schedule's `figures`.

    Args:
        prompts: as of `avflow.sweep`. They are gone through up to three times; samples are prepared anew.
        progress: show a progress bar.
        check: as of `avflow.sweep`.
        The others: see PlanRequest.

    Returns:
        The schedule, with `.plan` (table, what was tried), `.model`, `.data` and `.figures`. Without a step where
        nothing can leave.

    Raises:
        InputError: no prompts, none answered correctly, a prompt without a token of a group, groups that must stay.
    """
    request = PlanRequest(groups, max_accuracy_drop, strict, joint, layers, confidence, seed, memory)
    given = as_prompts(model, prompts, again=True)
    walks = request.walks(model)
    with checking(model, check):
        with Progress(given.count, unit="prompt", quiet=not progress, doing="measure") as bar:
            answered = list(_try_all(model, given, walks, bar))
        return choose(model, request, answered, lambda: iter(given), progress)


def choose(
    model: Model, request: PlanRequest, answered: Sequence[Answered], prepare: Prepare, progress: bool = False
) -> PlannedSchedule:
    """Steps 2 to 4 of `plan_eviction`.

    Args:
        answered: what step 1 measured, by request.walks(model). prepare: gives the same prompts again.
    """
    trials = _checked(answered, request)
    grid, tolerance = request.grid(model), request.tolerance
    candidates = request.layer_list(model)
    holds = dict(zip(grid, tolerance.holds(trials.clean, trials.correct), strict=True))
    lost = dict(zip(grid, -trials.mean_logp_change, strict=True))
    first = {g: earliest(candidates, np.array([holds[g, layer] for layer in candidates])) for g in request.groups}
    alone = {g: layer for g, layer in first.items() if layer is not None}
    loss = {g: {layer: float(lost[g, layer]) for layer in candidates} for g in alone}
    plan = EvictionPlan(table_of(trials, grid, tolerance), alone, [])
    rungs = [rung for rung in ladder(alone, loss, candidates) if rung]
    for chosen in _holding(model, request, rungs, prepare, plan, progress):
        with Progress(len(answered), unit="prompt", quiet=not progress, doing="test") as bar:
            pairs = _run_both(model, EvictionSchedule(chosen), prepare, bar)
        clean, kept = np.array([p.clean.correct for p in pairs]), np.array([[p.kept.correct] for p in pairs])
        fine = bool(tolerance.holds(clean, kept)[0])
        drop = float(change(clean, kept).mean())
        plan.tried.append({"schedule": chosen, "change": drop, "by": "evict", "holds": fine})
        if fine:
            return _schedule(model, request, chosen, trials, pairs, plan)
    return _schedule(model, request, {}, trials, [], plan)


def _checked(answered: Sequence[Answered], request: PlanRequest) -> Trials:
    if not answered:
        raise InputError("no prompts: pass at least one, and some tens for an accuracy that means something")
    twice = [name for name, count in Counter(a.prompt for a in answered).items() if count > 1]
    if twice:
        raise InputError(f"two prompts have the id {twice[0]!r}: give each its own")
    trials = Trials.of(answered)
    if not trials.clean.any():
        raise InputError(
            f"the model answers none of the {len(trials.ids)} prompts correctly (accuracy 0), so no eviction can do "
            "harm, and nothing can be chosen: check the answers and the prompt's form, or pass other prompts"
        )
    if request.strict and len(trials.ids) < 2:
        raise InputError("strict needs an interval, and one prompt has none: pass more prompts")
    return trials


def _holding(
    model: Model,
    request: PlanRequest,
    rungs: list[dict[str, int]],
    prepare: Prepare,
    plan: EvictionPlan,
    progress: bool,
) -> Iterator[dict[str, int]]:
    """The joint schedules that hold in a walk, in the order of the rungs."""
    for at in range(0, len(rungs), RUNGS):
        part = rungs[at : at + RUNGS]
        walks = EvictionRequest([EvictionSchedule(rung) for rung in part], request.memory_bytes)
        count = plan.table["prompts"][0].as_py()
        with Progress(count, unit="prompt", quiet=not progress, doing="together") as bar:
            trials = Trials.of(list(_try_all(model, prepare(), walks, bar)))
        fine = request.tolerance.holds(trials.clean, trials.correct)
        drops = change(trials.clean, trials.correct).mean(0)
        for rung, holds, drop in zip(part, fine.tolist(), drops.tolist(), strict=True):
            plan.tried.append({"schedule": rung, "change": drop, "by": "walk", "holds": holds})
            if holds:
                yield rung


@dataclass
class Pair:
    """One prompt in the model itself, without and with the schedule; `cost` as cost.eviction_cost gives it."""

    clean: OwnRun
    kept: OwnRun
    cost: dict[str, Any]


def _run_both(model: Model, schedule: EvictionSchedule, prepare: Prepare, bar: Progress) -> list[Pair]:
    """The two take turns in going first: neither has the warmer caches."""
    from ..runtime.evict import evict

    pairs = []
    for number, prompt in enumerate(prepare()):
        found: dict[bool, OwnRun] = {}
        for evicted in (False, True) if number % 2 else (True, False):
            if evicted:
                groups = [*prompt.groups, *["answer"] * (len(prompt.answer_ids) - 1)]
                with evict(model, schedule, groups=groups):
                    before = compared(model)
                    found[evicted] = own_run(model, prompt)
                    if compared(model) > before:  # its time held the comparison's
                        found[evicted] = own_run(model, prompt)
            else:
                found[evicted] = own_run(model, prompt)
        pairs.append(Pair(found[False], found[True], eviction_cost(model, schedule, prompt)))
        bar.finish()
    return pairs


def _schedule(
    model: Model,
    request: PlanRequest,
    chosen: dict[str, int],
    trials: Trials,
    pairs: list[Pair],
    plan: EvictionPlan,
) -> PlannedSchedule:
    schedule, plan.check = EvictionSchedule(chosen), proof_figures(model)
    data = {
        "prompts": len(trials.ids),
        "ids_sha256": hashlib.sha256("\n".join(sorted(trials.ids)).encode()).hexdigest(),
        "tasks": sorted({task for task in trials.tasks if task}),
        "mean_tokens": float(trials.tokens.mean()),
    }
    figures: dict[str, Any] = {
        "max_accuracy_drop": request.max_accuracy_drop,
        "strict": request.strict,
        "confidence": request.confidence,
        "seed": request.seed,
        "accuracy_clean": float(trials.clean.mean()),
    }
    if pairs:
        figures |= _measured(request.tolerance, pairs)
    return PlannedSchedule(schedule.steps, EvictionSchedule.facts(model), data, figures, plan)


def _measured(tolerance: Tolerance, pairs: list[Pair]) -> dict[str, Any]:
    """Figures of the model's own runs, clean and evicted."""
    clean, kept, costs = [p.clean for p in pairs], [p.kept for p in pairs], [p.cost for p in pairs]
    right, still = np.array([r.correct for r in clean]), np.array([r.correct for r in kept])
    mean, low, high = (float(v[0]) for v in tolerance.interval(change(right, still[:, None])))

    def total(runs: Sequence[OwnRun], name: str) -> float:
        return sum(getattr(run, name) for run in runs)

    return {
        "accuracy_clean": float(right.mean()),
        "accuracy_kept": float(still.mean()),
        "accuracy_change": mean,
        "accuracy_change_interval": None if np.isnan(low) else [low, high],
        "mean_logp_change": (total(kept, "logp") - total(clean, "logp")) / len(pairs),
        "flops_saved": 1 - sum(c["flops"] for c in costs) / sum(c["clean_flops"] for c in costs),
        "kv_bytes_clean": total(clean, "kv_bytes") / len(pairs),
        "kv_bytes_kept": total(kept, "kv_bytes") / len(pairs),
        "kv_saved": 1 - total(kept, "kv_bytes") / total(clean, "kv_bytes"),
        "prefill_time_ratio": total(kept, "prefill_seconds") / total(clean, "prefill_seconds"),
        "decoder_time_ratio": total(kept, "decoder_seconds") / total(clean, "decoder_seconds"),
    }
