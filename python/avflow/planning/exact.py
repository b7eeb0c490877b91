"""Exact limits for shares and their difference: what a few prompts can say, and how many a promise takes.

A bootstrap of identical values has no width: 20 prompts of which none was lost would "prove" that none ever is.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaincinv, rel_entr, stdtrit


def share_limits(count: np.ndarray, n: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson (Biometrika 26, 1934): limits of a share of which `count` of `n` were seen.

    Args:
        count: int [columns]. n: at least 1. tail: probability of each end, 0 < tail < 1.

    Returns:
        low, high: float64 [columns]; each is on the wrong side of the truth with probability `tail` at most.
    """
    count = np.asarray(count)
    low = np.where(count > 0, betaincinv(np.maximum(count, 1), n - count + 1, tail), 0.0)
    high = np.where(count < n, betaincinv(count + 1, np.maximum(n - count, 1), 1 - tail), 1.0)
    return low, high


def mean_limits(values: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the mean of what lies in 0 .. 1, whatever its distribution (Hoeffding, JASA 58, 1963, theorem 1).

    They are the means at which n times the divergence of the one seen reaches -log(tail). Where all values are 0 the
    upper one is Clopper and Pearson's.

    Args:
        values: float64 [n, columns], 0 .. 1, of independent prompts. tail: as of `share_limits`.

    Returns:
        low, high: as of `share_limits`.
    """
    seen, allowed = values.mean(0), -math.log(tail) / len(values)

    def within(mean: np.ndarray) -> np.ndarray:
        return rel_entr(seen, mean) + rel_entr(1 - seen, 1 - mean) <= allowed

    def reach(end: float) -> np.ndarray:
        inside, outside = seen.astype(np.float64), np.full(len(seen), end)
        for _ in range(60):  # halved to a float64's last place
            middle = (inside + outside) / 2
            fine = within(middle)
            inside, outside = np.where(fine, middle, inside), np.where(fine, outside, middle)
        return outside

    return reach(0.0), reach(1.0)


def _limits(part: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the mean of a part of the prompts (bool) or of values in 0 .. 1, [prompts, columns]."""
    return share_limits(part.sum(0), len(part), tail) if part.dtype == bool else mean_limits(part, tail)


def _lost(clean: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """[prompts, columns]: right and now wrong, bool; or by how much a score of 0 .. 1 fell, float64."""
    if correct.dtype == bool:
        return clean[:, None] & ~correct
    return np.maximum(clean[:, None] - correct, 0)


def _won(clean: np.ndarray, correct: np.ndarray) -> np.ndarray:
    return ~clean[:, None] & correct if correct.dtype == bool else np.maximum(correct - clean[:, None], 0)


def change_limits(clean: np.ndarray, correct: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the change of accuracy, paired: float64 [columns], at least `confidence` together (Bonferroni).

    clean: bool [prompts]. correct: bool [prompts, columns]. The change is the share won less the share lost. Or both
    are scores, float64 in 0 .. 1.
    """
    tail = (1 - confidence) / 4  # two ends of two shares
    lost_low, lost_high = _limits(_lost(clean, correct), tail)
    won_low, won_high = _limits(_won(clean, correct), tail)
    return won_low - lost_high, won_high - lost_low


def drop_bound(clean: np.ndarray, correct: np.ndarray, confidence: float) -> np.ndarray:
    """What the drop of accuracy is below with this confidence: float64 [columns]; arguments as of `change_limits`.

    It is the upper limit of the share of prompts that were right and are wrong now; what is won is not set against it.
    Of scores it is that of the mean fall, likewise.
    """
    return _limits(_lost(clean, correct), 1 - confidence)[1]


def prompts_needed(drop: float, confidence: float) -> int | None:
    """How many prompts, none of them lost, bound the drop of accuracy by `drop`; None where no number does."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - drop)) if drop > 0 else None


def mean_limit(values: np.ndarray, confidence: float) -> np.ndarray:
    """Student's one-sided upper limit of the mean of values [prompts, columns]: float64 [columns].

    A lone prompt's value is its own limit: it says nothing of others.
    """
    n, mean = len(values), values.mean(0)
    if n < 2:
        return mean
    return mean + stdtrit(n - 1, confidence) * values.std(0, ddof=1) / np.sqrt(n)
