"""From measured answers to a schedule: for each group the earliest layer that does no harm, then all groups together.

An accuracy drop is the share of prompts answered correctly by the clean run, less that with the tokens gone. Its
limits are exact and paired (see exact). Answers turn wrong some layers before the last one that shows it on a few
prompts: so the answer's probability, which moves first, has to stay as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from .. import checks
from ..errors import InputError
from ..results.change import bootstrap
from ..results.schemas import PLAN_EVICTION as SCHEMA
from .exact import change_limits, drop_bound, mean_limit
from .measure import Measure
from .trials import Answered

RESAMPLES = 2000
ANSWERS = Measure()


@dataclass(frozen=True)
class Tolerance:
    """What an eviction may cost.

    Args:
        max_accuracy_drop: share of all prompts, 0 <= drop < 1.
        strict: the exact bound on the drop must be within it, not only the drop that was seen.
        confidence: of the bound, of the margin's limit, and of the intervals. seed: of the resamples and the hold-out.
        margin: the answer's probability may fall by no more than max_accuracy_drop + margin: the upper limit,
            one-sided, of its mean fall over prompts. None: whatever it does. In a label-free plan it is the mean KL
            whose limit has to be within max_kl, and with a metric the mean fall of the score.
        max_kl: of a label-free plan, nats; see measure.Measure.

    Raises:
        InputError: a value out of range.
    """

    max_accuracy_drop: float = 0.0
    strict: bool = False
    confidence: float = 0.95
    seed: int = 0
    margin: float | None = 0.01
    max_kl: float | None = None

    def __post_init__(self) -> None:
        drop = self.max_accuracy_drop
        if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0 <= drop < 1:
            raise InputError(
                f"max_accuracy_drop = {checks.shown(drop)}: pass a share of the prompts, such as 0.01 for one percent"
            )
        checks.flag("strict =", self.strict)
        mend = "pass a share between 0 and 1, such as 0.95"
        confidence = checks.number("confidence =", self.confidence, above=True, high=1.0, mend=mend)
        if confidence == 1:
            raise InputError(f"confidence = {self.confidence!r}: {mend}")
        object.__setattr__(self, "confidence", confidence)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed = {checks.shown(self.seed)}: pass an integer from 0 on")
        if self.margin is not None:
            margin = checks.number(
                "margin =", self.margin, low=0.0, high=1.0, mend="pass a share such as 0.01, or None"
            )
            object.__setattr__(self, "margin", margin)

    def interval(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over prompts of values [prompts, columns] and its interval, float64 [columns]; NaN for a lone prompt.

        A percentile bootstrap, for what is measured and not counted.
        """
        mean, low, high, _ = bootstrap(values, self.confidence, RESAMPLES, self.seed)
        return mean, low, high

    def holds(self, clean: np.ndarray, correct: np.ndarray, fall: np.ndarray | None = None) -> np.ndarray:
        """Which columns are within the tolerance, bool [columns].

        Args:
            clean: bool [prompts], right in the clean run. correct: bool [prompts, columns], in the others.
            fall: float64 [prompts, columns], as `Trials.fall`; None: no margin is asked for.
        """
        drop = drop_bound(clean, correct, self.confidence) if self.strict else -change(clean, correct).mean(0)
        fine = drop <= self.max_accuracy_drop + 1e-12
        if fall is not None and self.margin is not None:
            allowed = self.max_accuracy_drop + self.margin if self.max_kl is None else self.max_kl
            fine &= mean_limit(fall, self.confidence) <= allowed + 1e-12
        return fine


def change(clean: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Per prompt 1 (now right), 0 or -1 (now wrong): float64 [prompts, columns]."""
    return correct.astype(np.float64) - clean[:, None]


@dataclass
class Trials:
    """Answers of all prompts under the schedules of one request, as arrays."""

    ids: list[str]
    tasks: list[str]
    tokens: np.ndarray  # int64 [prompts]
    logp_clean: np.ndarray  # float64 [prompts]
    clean: np.ndarray  # bool [prompts], answered correctly; float64 scores with a metric
    logp: np.ndarray  # float64 [prompts, schedules]
    correct: np.ndarray  # bool or float64 [prompts, schedules]
    measure: Measure = ANSWERS

    @classmethod
    def of(cls, answered: Sequence[Answered], measure: Measure = ANSWERS) -> Trials:
        logp = np.stack([a.logp for a in answered])
        clean, correct = np.array([a.correct_clean for a in answered]), np.stack([a.correct for a in answered])
        if measure.max_kl is not None:  # the trials know which tokens are the same; the tolerance says how near will do
            clean = np.ones(len(answered), bool)
            correct = np.array([a.logp_clean for a in answered])[:, None] - logp <= measure.max_kl
        return cls(
            ids=[a.prompt for a in answered],
            tasks=[a.task for a in answered],
            tokens=np.array([a.tokens for a in answered], np.int64),
            logp_clean=np.array([a.logp_clean for a in answered]),
            clean=clean,
            logp=logp,
            correct=correct,
            measure=measure,
        )

    def take(self, which: np.ndarray) -> Trials:
        """Those of some prompts. which: bool [prompts]."""
        at = np.flatnonzero(which)
        arrays = ("tokens", "logp_clean", "clean", "logp", "correct")
        kept = {name: getattr(self, name)[at] for name in arrays}
        return replace(self, ids=[self.ids[i] for i in at], tasks=[self.tasks[i] for i in at], **kept)

    @property
    def fall(self) -> np.ndarray:
        """float64 [prompts, schedules]: the answer's probability in the clean run less that in the others; KL in nats;
        with a metric how much the score fell."""
        if self.measure.kind == "metric":
            return -change(self.clean, self.correct)
        if self.measure.kind == "kl":
            return self.logp_clean[:, None] - self.logp
        return np.exp(self.logp_clean)[:, None] - np.exp(self.logp)

    @property
    def loss(self) -> np.ndarray:
        """float64 [schedules], what the ladder goes by: mean log-probability lost; with a metric the mean fall."""
        return self.fall.mean(0) if self.measure.kind == "metric" else -self.mean_logp_change

    @property
    def mean_logp_change(self) -> np.ndarray:
        """float64 [schedules]"""
        return (self.logp - self.logp_clean[:, None]).mean(0)


def table_of(trials: Trials, grid: Sequence[tuple[str, int]], tolerance: Tolerance) -> pa.Table:
    """The table in SCHEMA. grid: (group, layer) of every schedule of the trials."""
    low, high = change_limits(trials.clean, trials.correct, tolerance.confidence)
    p, p_low, p_high = tolerance.interval(np.exp(trials.logp))
    columns = {
        "group": [group for group, _ in grid],
        "layer": [layer for _, layer in grid],
        "accuracy_clean": [trials.clean.mean()] * len(grid),
        "accuracy": trials.correct.mean(0),
        "change": change(trials.clean, trials.correct).mean(0),
        "change_low": low,
        "change_high": high,
        "p_clean": [np.exp(trials.logp_clean).mean()] * len(grid),
        "p": p,
        "p_low": p_low,
        "p_high": p_high,
        "mean_logp_change": trials.mean_logp_change,
        "prompts": [len(trials.ids)] * len(grid),
    }
    return pa.table([pa.array(columns[f.name], f.type, from_pandas=True) for f in SCHEMA], schema=SCHEMA)


def earliest(layers: Sequence[int], holds: np.ndarray) -> int | None:
    """The first of the layers (ascending) from which on the tolerance holds at every one: no dip between is skipped.

    holds: bool [layers]. None where not even the last will do.
    """
    bad = np.flatnonzero(~holds)
    first = 0 if len(bad) == 0 else int(bad[-1]) + 1
    return layers[first] if first < len(layers) else None


def ladder(chosen: dict[str, int], loss: dict[str, dict[int, float]], layers: Sequence[int]) -> list[dict[str, int]]:
    """Joint schedules to try in turn, from what each group would take alone to nothing evicted at all.

    From one to the next, the group that loses most leaves at the next later of the layers; after the last it stays.

    Args:
        chosen: {group: layer}. loss: {group: {layer: mean log-probability lost when it alone leaves after that layer}}.
    """
    rungs, at = [dict(chosen)], dict(chosen)
    while at:
        worst = max(at, key=lambda group: (loss[group][at[group]], group))
        later = [layer for layer in layers if layer > at[worst]]
        if later:
            at = {**at, worst: later[0]}
        else:
            at = {group: layer for group, layer in at.items() if group != worst}
        rungs.append(dict(at))
    return rungs
