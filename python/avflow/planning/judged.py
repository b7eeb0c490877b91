"""What a schedule does in the model itself, beside the model without it: the figures that its file keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..eviction.schedule import EvictionSchedule
from ..models.base import Model
from ..models.proof import compared
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..runtime.answering import OwnRun, own_run
from ..runtime.evict import evict
from .choice import Tolerance, change
from .exact import change_limits, drop_bound, prompts_needed
from .savings import eviction_cost

Prepare = Callable[[], Iterator[Prompt]]


@dataclass
class Pair:
    """One prompt in the model itself, without and with the schedule; `cost` as savings.eviction_cost gives it."""

    task: str
    clean: OwnRun
    kept: OwnRun
    cost: dict[str, Any]


def run_both(model: Model, schedule: EvictionSchedule, prepare: Prepare, bar: Progress) -> list[Pair]:
    """The two take turns in going first: neither has the warmer caches."""
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
        pairs.append(Pair(prompt.task, found[False], found[True], eviction_cost(model, schedule, prompt)))
        bar.finish()
    return pairs


def _answers(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Right in the clean run, bool [pairs], and with the schedule, bool [pairs, 1]."""
    return np.array([p.clean.correct for p in pairs], bool), np.array([[p.kept.correct] for p in pairs], bool)


def verdict(tolerance: Tolerance, pairs: Sequence[Pair], confidence: float) -> tuple[bool, float]:
    """Whether the schedule holds here, and the change of accuracy. confidence: of the bound that `strict` asks for."""
    clean, correct = _answers(pairs)
    drop = -float(change(clean, correct).mean())
    asked = float(drop_bound(clean, correct, confidence)[0]) if tolerance.strict else drop
    return asked <= tolerance.max_accuracy_drop + 1e-12, -drop


def figures_of(pairs: Sequence[Pair], doubt: float) -> dict[str, Any]:
    """Accuracy with its limits, of all and of each task, and savings.

    Args:
        doubt: probability with which a limit may be wrong.

    Returns:
        prompts: how many. accuracy_clean, accuracy_kept, accuracy_change: shares. accuracy_change_interval: exact,
        paired. accuracy_drop_bound: the drop is below it, but for the doubt.
        tasks: {task: {"prompts", "accuracy_clean", "accuracy_kept", "accuracy_drop_bound"}}. worst_task: the one that
        loses most, None where there are no tasks. The others: as their names say, shares, bytes a prompt, ratios.
    """
    clean, kept, costs = [p.clean for p in pairs], [p.kept for p in pairs], [p.cost for p in pairs]
    low, high = (float(v[0]) for v in change_limits(*_answers(pairs), 1 - doubt))

    def total(runs: Sequence[OwnRun], name: str) -> float:
        return sum(getattr(run, name) for run in runs)

    names = sorted({p.task for p in pairs if p.task})
    tasks = {name: _accuracy([p for p in pairs if p.task == name], doubt) for name in names}
    return {
        **_accuracy(pairs, doubt),
        "accuracy_change": float(change(*_answers(pairs)).mean()),
        "accuracy_change_interval": [low, high],
        "tasks": tasks,
        "worst_task": max(tasks, key=lambda t: (_drop(tasks[t]), tasks[t]["accuracy_drop_bound"]), default=None),
        "mean_logp_change": (total(kept, "logp") - total(clean, "logp")) / len(pairs),
        "flops_saved": 1 - sum(c["flops"] for c in costs) / sum(c["clean_flops"] for c in costs),
        "kv_bytes_clean": total(clean, "kv_bytes") / len(pairs),
        "kv_bytes_kept": total(kept, "kv_bytes") / len(pairs),
        "kv_saved": 1 - total(kept, "kv_bytes") / total(clean, "kv_bytes"),
        "prefill_time_ratio": total(kept, "prefill_seconds") / total(clean, "prefill_seconds"),
        "decoder_time_ratio": total(kept, "decoder_seconds") / total(clean, "decoder_seconds"),
    }


def _accuracy(pairs: Sequence[Pair], doubt: float) -> dict[str, Any]:
    clean, correct = _answers(pairs)
    return {
        "prompts": len(pairs),
        "accuracy_clean": float(clean.mean()),
        "accuracy_kept": float(correct.mean()),
        "accuracy_drop_bound": float(drop_bound(clean, correct, 1 - doubt)[0]),
    }


def _drop(found: dict[str, Any]) -> float:
    return found["accuracy_clean"] - found["accuracy_kept"]


def what_is_not_shown(figures: dict[str, Any], held_out: bool) -> str | None:
    """A sentence where the prompts are too few for the drop that was asked for, or the same that it was chosen on."""
    n, bound, sure = figures["prompts"], figures["accuracy_drop_bound"], figures["confidence"]
    if not held_out:
        return (
            f"the schedule was judged on the {n} prompts that it was chosen on, so that its figures flatter it: pass "
            "more prompts, and leave some of them out of the choice with holdout"
        )
    allowed = figures["max_accuracy_drop"]
    if bound <= allowed:
        return None
    needed = prompts_needed(allowed, 1 - (1 - sure) / 2)
    enough = "no number of prompts shows a drop of 0" if needed is None else f"that takes {needed} of them or more"
    return (
        f"{n} held-out prompts are too few to show a drop of at most {100 * allowed:g} points: with {100 * sure:.4g} % "
        f"confidence it is below {100 * bound:.1f} ({enough})"
    )
