"""From measured answers to a schedule: for each group the earliest layer that does no harm, then all groups together.

An accuracy drop is the share of prompts answered correctly by the clean run, less that with the tokens gone. Its
limits are exact and paired (see exact). Answers turn wrong some layers before the last one that shows it on a few
prompts: so the answer's probability, which moves first, has to stay as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .. import checks
from ..errors import InputError
from ..results.change import bootstrap
from ..results.schemas import PLAN_EVICTION as SCHEMA
from .exact import change_limits, drop_bound, mean_limit
from .trials import Answered

RESAMPLES = 2000


@dataclass(frozen=True)
class Tolerance:
    """What an eviction may cost.

    Args:
        max_accuracy_drop: share of all prompts, 0 <= drop < 1.
        strict: the exact bound on the drop must be within it, not only the drop that was seen.
        confidence: of the bound, of the margin's limit, and of the intervals. seed: of the resamples and the hold-out.
        margin: the answer's probability may fall by no more than max_accuracy_drop + margin: the upper limit,
            one-sided, of its mean fall over prompts. None: whatever it does.

    Raises:
        InputError: a value out of range.
    """

    max_accuracy_drop: float = 0.0
    strict: bool = False
    confidence: float = 0.95
    seed: int = 0
    margin: float | None = 0.01

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
            fall: float64 [prompts, columns], the clean run's probability of the answer less the others'; None: no
                margin is asked for.
        """
        drop = drop_bound(clean, correct, self.confidence) if self.strict else -change(clean, correct).mean(0)
        fine = drop <= self.max_accuracy_drop + 1e-12
        if fall is not None and self.margin is not None:
            fine &= mean_limit(fall, self.confidence) <= self.max_accuracy_drop + self.margin + 1e-12
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
    clean: np.ndarray  # bool [prompts], answered correctly
    logp: np.ndarray  # float64 [prompts, schedules]
    correct: np.ndarray  # bool [prompts, schedules]

    @classmethod
    def of(cls, answered: Sequence[Answered]) -> Trials:
        return cls(
            ids=[a.prompt for a in answered],
            tasks=[a.task for a in answered],
            tokens=np.array([a.tokens for a in answered], np.int64),
            logp_clean=np.array([a.logp_clean for a in answered]),
            clean=np.array([a.correct_clean for a in answered], bool),
            logp=np.stack([a.logp for a in answered]),
            correct=np.stack([a.correct for a in answered]),
        )

    def take(self, which: np.ndarray) -> Trials:
        """Those of some prompts. which: bool [prompts]."""
        at = np.flatnonzero(which)
        ids, tasks = [self.ids[i] for i in at], [self.tasks[i] for i in at]
        arrays = (self.tokens, self.logp_clean, self.clean, self.logp, self.correct)
        return Trials(ids, tasks, *(array[at] for array in arrays))

    @property
    def fall(self) -> np.ndarray:
        """float64 [prompts, schedules], the answer's probability in the clean run less that in the others."""
        return np.exp(self.logp_clean)[:, None] - np.exp(self.logp)

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
