"""Two groups of unlike samples, many cells at once: p values by exchanging which units belong to which group.

Were the two groups alike in every cell, any other way to part the same units in two of these sizes might as well have
been seen. As for signs (`many`), the largest |t| of such partings over all cells is what the real one's are held
against, so that p holds for all cells together (Westfall and Young, 1993).
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr, stdtrit

from .many import BLOCK, FLIPS, LEAST_UNITS
from .ratios import Ratios, scaled


def _welch(values: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference of two groups' means, its standard error and Welch's degrees of freedom, float64 [partings, cells].

    values: [units, cells], NaN where there is none. first: float64 [partings, units], 1 for the first group's.
    """
    there = ~np.isnan(values)
    values = np.where(there, values - np.nanmean(values, 0), 0.0)  # squares of what is far from 0 lose their digits
    values, exponent = scaled(values)
    parts = []
    for member in (first, 1.0 - first):
        n, total, squares = member @ there, member @ values, member @ values**2
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = squares - total**2 / n
            spread = np.where(spread <= 1e-12 * squares, 0.0, spread)
            parts.append((n, total / n, spread / (n - 1) / n))
    (n, mean, share), (m, other, rest) = parts
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (share + rest) ** 2 / (share**2 / (n - 1) + rest**2 / (m - 1))
    far, error = (np.ldexp(one, exponent) for one in (mean - other, np.sqrt(share + rest)))
    return far, error, np.where(np.isfinite(freedom), freedom, np.maximum(n + m - 2.0, 1.0))


def _p(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Of each cell by itself, float64 [partings, cells]; 1 where there is no t."""
    far, error, freedom = _welch(values, first)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stdtr(freedom, -np.abs(far / error))
    return np.where(np.abs(far) <= 1e-12, 1.0, np.where(error == 0, 0.0, np.nan_to_num(p, nan=1.0)))


def differences(
    a: Ratios, b: Ratios, confidence: float = 0.95, exchanges: int = FLIPS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of two groups' means, in every cell: difference, low and high of its own interval (Welch), and p, corrected for
    all cells; float64 [cells] each.

    A unit (a sample, or all of one cluster) counts once, by its mean. All but the difference are NaN where either group
    has fewer than LEAST_UNITS units.

    Args:
        exchanges: partings that are drawn, the real one among them.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        values = np.concatenate([r.top / r.bottom for r in (a, b)])  # [units, cells]
    first = (np.arange(len(values)) < len(a.top)).astype(np.float64)
    far, error, freedom = (column[0] for column in _welch(values, first[None]))
    low, high, p = np.full((3, values.shape[1]), np.nan)
    here = (a.units >= LEAST_UNITS) & (b.units >= LEAST_UNITS)
    if not here.any():
        return far, low, high, p
    wide = stdtrit(freedom[here], (1 + confidence) / 2) * error[here]
    low[here], high[here] = far[here] - wide, far[here] + wide
    some, random = values[:, here], np.random.default_rng(seed)
    seen = _p(some, first[None])[0]
    least = [seen[None].min(1)]  # the real parting is among them, so p is never 0
    for done in range(1, exchanges, BLOCK):
        drawn = np.stack([random.permutation(first) for _ in range(min(BLOCK, exchanges - done))])
        least.append(_p(some, drawn).min(1))
    p[here] = (np.concatenate(least)[:, None] <= seen * (1 + 1e-9)).mean(0)
    return far, low, high, p
