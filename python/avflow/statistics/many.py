"""Many cells at once: p values and bands that hold for all of them together, by flipping the signs of whole units.

If cutting a path changes nothing, a unit's change is as likely to be -x as x, in all cells at once; so every pattern of
signs gives a table that might as well have been seen. The largest |t| of such tables over all cells is what the
largest of the real one is held against (Westfall and Young, Resampling-Based Multiple Testing, 1993, 2.3; Nichols and
Holmes, Human Brain Mapping 15, 2001). Cells keep their dependence: neighbouring layers cost no power.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import stdtr, stdtrit

from .ratios import Ratios, scaled

FLIPS = 4096
BLOCK = 256  # patterns at a time: [256, cells] and [256, units] are held
LEAST_UNITS = 6  # 2 of 2**5 patterns are as extreme as any: below six units no p value is under 0.05


def signs_of(units: int, flips: int, seed: int) -> Iterator[np.ndarray]:
    """Patterns of signs, blocks of float64 [patterns, units], the very first all +1: all there are, or `flips`.

    A pattern and its opposite give the same |t|, so half of them are all.
    """
    whole = units <= 1 or 2 ** (units - 1) <= flips
    count = 2 ** max(units - 1, 0) if whole else flips
    random = np.random.default_rng(seed)
    for first in range(0, count, BLOCK):
        numbers = np.arange(first, min(first + BLOCK, count))
        if whole:
            yield 1.0 - 2.0 * (numbers[:, None] >> np.arange(units) & 1)
        else:
            signs = random.choice(np.array([-1.0, 1.0]), size=(len(numbers), units))
            signs[numbers == 0] = 1.0
            yield signs


def _t(ratios: Ratios, signs: np.ndarray) -> np.ndarray:
    """|t| of every pattern, float64 [patterns, cells]; 0 where all is 0, infinite where nothing varies."""
    (tops, _), (bottoms, _) = scaled(ratios.top), scaled(ratios.bottom)  # a t has no unit
    bottom, count = bottoms.sum(0), ratios.units
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (signs @ tops) / bottom
        squares = (tops**2).sum(0) - 2 * ratio * (signs @ (tops * bottoms))
        squares = squares + ratio**2 * (bottoms**2).sum(0)
        squares = np.where(squares <= 1e-12 * (tops**2).sum(0), 0.0, squares)
        t = np.abs(ratio * bottom) / np.sqrt(count / (count - 1.0) * squares)
    return np.where(ratio == 0, 0.0, np.nan_to_num(t, nan=0.0, posinf=np.inf))


def _strongest(t: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """The smallest p that Student's t gives any cell, [patterns]: cells of few units and of many on one scale."""
    least = np.ones(len(t))
    for value in np.unique(freedom):
        least = np.minimum(least, 2 * stdtr(value, -t[:, freedom == value].max(1)))
    return least


def p_values(ratios: Ratios, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """p of every cell, float64 [cells], corrected for all cells: the chance that one as strong is anywhere if none is.

    NaN where fewer than six units have a value: nothing is sure there, and such cells weigh on no other.
    """
    p = np.full(ratios.top.shape[1], np.nan)
    here = ratios.units >= LEAST_UNITS
    if not here.any():
        return p
    some = Ratios(ratios.top[:, here], ratios.bottom[:, here])
    freedom = some.units - 1.0
    seen = 2 * stdtr(freedom, -_t(some, np.ones((1, len(some.top))))[0])
    least = np.concatenate([_strongest(_t(some, signs), freedom) for signs in signs_of(len(some.top), flips, seed)])
    # Rounding must not part tables that are equal. The real one is among the patterns, so p is never 0.
    p[here] = (least[:, None] <= seen * (1 + 1e-9)).mean(0)
    return p


def band(ratios: Ratios, confidence: float = 0.95, flips: int = FLIPS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ends of a band that holds every cell at once with this confidence: low, high, float64 [cells].

    NaN where fewer than six units have a value. The signs of each unit's distance from the estimate are flipped.
    """
    low, high = np.full((2, ratios.top.shape[1]), np.nan)
    here = ratios.units >= LEAST_UNITS
    if not here.any():
        return low, high
    some = Ratios(ratios.top[:, here], ratios.bottom[:, here])
    centre, error, freedom = some.estimate, some.error, some.units - 1.0
    centred = Ratios(some.top - centre * some.bottom, some.bottom)
    least = np.concatenate([_strongest(_t(centred, signs), freedom) for signs in signs_of(len(some.top), flips, seed)])
    p = np.quantile(least, 1 - confidence, method="lower")
    wide = stdtrit(freedom, 1 - p / 2) * error
    low[here], high[here] = centre - wide, centre + wide
    return low, high
