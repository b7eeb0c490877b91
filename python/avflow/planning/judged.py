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
from ..prompts.divergence import divergence_of
from ..prompts.prompt import Prompt
from ..runtime.answering import OwnRun, own_run
from ..runtime.evict import evict
from ..runtime.generating import generate
from .choice import ANSWERS, Tolerance, change
from .exact import change_limits, drop_bound, prompts_needed
from .measure import Measure
from .savings import eviction_cost
from .trials import unanswered

Prepare = Callable[[], Iterator[Prompt]]


@dataclass
class Pair:
    """One prompt in the model itself, without and with the schedule; `cost` as savings.eviction_cost gives it."""

    task: str
    clean: OwnRun
    kept: OwnRun
    cost: dict[str, Any]
    scores: tuple[float, float] | None = None  # of the two, by a measure that looks at no answer
    kl: float | None = None  # nats, in a label-free plan
    same_token: bool | None = None  # in it, whether the most probable next token is the same


def run_both(
    model: Model, schedule: EvictionSchedule, prepare: Prepare, bar: Progress, measure: Measure = ANSWERS
) -> list[Pair]:
    """The two take turns in going first: neither has the warmer caches."""
    pairs = []
    for number, given in enumerate(prepare()):
        prompt = unanswered(given) if measure.kind == "kl" or not given.answer_ids else given
        keep = measure.kind == "kl"
        found: dict[bool, OwnRun] = {}
        for evicted in (False, True) if number % 2 else (True, False):
            if evicted:
                groups = [*prompt.groups, *["answer"] * (len(prompt.answer_ids) - 1)]
                with evict(model, schedule, groups=groups):
                    before = compared(model)
                    found[evicted] = own_run(model, prompt, keep)
                    if compared(model) > before:  # its time held the comparison's
                        found[evicted] = own_run(model, prompt, keep)
            else:
                found[evicted] = own_run(model, prompt, keep)
        pair = Pair(prompt.task, found[False], found[True], eviction_cost(model, schedule, prompt))
        _put_scores(model, schedule, given, pair, measure)
        pairs.append(pair)
        bar.finish()
    return pairs


def _put_scores(model: Model, schedule: EvictionSchedule, prompt: Prompt, pair: Pair, measure: Measure) -> None:
    """The pair's scores by the measure; the runs lose the logits that it looked at."""
    clean, kept = pair.clean, pair.kept
    if measure.max_kl is not None:
        assert clean.first is not None and kept.first is not None  # kept for this
        kl, entropy = (float(v) for v in divergence_of(clean.first[None], kept.first[None]))
        pair.kl, pair.same_token = kl, bool(clean.first.argmax() == kept.first.argmax())
        pair.scores = True, kl <= measure.max_kl
        clean.logp, kept.logp, clean.first, kept.first = -entropy, -entropy - kl, None, None
    elif measure.metric is not None:
        count = measure.max_new_tokens
        plain, evicted = (generate(model, prompt, one, max_new_tokens=count).text for one in (None, schedule))
        pair.scores = measure.score(prompt, plain), measure.score(prompt, evicted)


def _answers(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Right in the clean run, bool [pairs], and with the schedule, bool [pairs, 1]; scores are float64."""
    scores = [p.scores or (p.clean.correct, p.kept.correct) for p in pairs]
    return np.array([clean for clean, _ in scores]), np.array([[kept] for _, kept in scores])


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
        loses most, None where there are no tasks. Of a label-free plan kl_mean, kl_median, kl_largest, nats, and
        same_first_token, a share. The others: as their names say, shares, bytes a prompt, ratios.
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
        **_far([p.kl for p in pairs if p.kl is not None], [p.same_token is True for p in pairs]),
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


def _far(kl: Sequence[float], same: Sequence[bool]) -> dict[str, float]:
    if not kl:
        return {}
    found = {"kl_mean": float(np.mean(kl)), "kl_median": float(np.median(kl)), "kl_largest": max(kl)}
    return found | {"same_first_token": float(np.mean(same))}


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
    if figures.get("measure") == "kl":
        enough = "no number of prompts shows that none is" if needed is None else f"that takes {needed} or more"
        return (
            f"{n} held-out prompts are too few to show that at most {100 * allowed:g} % are further than "
            f"{figures['max_kl']:g} nats from the plain model: with {100 * sure:.4g} % confidence it is less than "
            f"{100 * bound:.1f} % ({enough})"
        )
    enough = "no number of prompts shows a drop of 0" if needed is None else f"that takes {needed} of them or more"
    return (
        f"{n} held-out prompts are too few to show a drop of at most {100 * allowed:g} points: with {100 * sure:.4g} % "
        f"confidence it is below {100 * bound:.1f} ({enough})"
    )
