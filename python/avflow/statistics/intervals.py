"""Intervals of averages over few samples, by resampling units whole."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from ..errors import InputError
from .ratios import Ratios, scaled

Method = Literal["bootstrap-t", "bca", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
# A draw's standard error counts as at least this share of the sample's own. Draws that miss the few units that change
# have next to none, and a t that divides by it says nothing: -3 % [-100, 0] of 48 samples, of which few changed.
LEAST_ERROR = 0.25
MOST_RESAMPLES = 1_000_000  # each holds a number for every unit and cell
LEAST_UNITS = 5  # of a studentised bootstrap: fewer give draws of one unit alone, which have no spread to divide by


def draws_of(units: int, resamples: int, seed: int) -> np.ndarray:
    """How often each unit is drawn: float64 [resamples, units], each row summing to `units`."""
    if not units:
        return np.zeros((resamples, 0))
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return drawn.astype(np.float64)


def interval(
    ratios: Ratios, confidence: float = 0.95, method: Method = "bootstrap-t", resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of each cell's own interval: low, high, float64 [cells]; NaN where fewer than two units have a value.

    Args:
        method: "bootstrap-t", studentised (Efron, The Jackknife, the Bootstrap, 1982, chapter 10; Hall, Annals of
            Statistics 16, 1988), where a draw's standard error counts as at least a quarter of the sample's, and
            Student's t below 5 units; "bca", bias-corrected and accelerated (Efron, JASA 82, 1987); "percentile", as
            the studies' figures have it, too narrow for few samples.

    Raises:
        InputError: an unknown method, a value out of range.
    """
    if method not in METHODS:
        raise InputError(f"interval {method!r}: pass one of {', '.join(METHODS)}")
    check(confidence, resamples, seed)
    low, high = np.full((2, ratios.top.shape[1]), np.nan)
    here = ratios.units > 1
    if not here.any():
        return low, high
    some = Ratios(ratios.top[:, here], ratios.bottom[:, here])
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    drawn, errors = some.weighted(draws_of(len(some.top), resamples, seed))
    ends = {"bootstrap-t": _studentised, "bca": _bca, "percentile": _percentile}[method](some, drawn, errors, tails)
    low[here], high[here] = ends
    return low, high


def check(confidence: float = 0.95, resamples: int = 1, seed: int = 0) -> None:
    """Raises InputError for what is no confidence, no number of resamples or no seed."""
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence!r:.60}: give a share between 0 and 1, such as 0.95")
    if not isinstance(resamples, Integral) or not 1 <= resamples <= MOST_RESAMPLES:
        raise InputError(f"resamples is {resamples!r:.60}: give 1 to {MOST_RESAMPLES:,} (2000 is usual)")
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed is {seed!r:.60}: give a whole number of 0 or more")


def _percentile(ratios: Ratios, drawn: np.ndarray, errors: np.ndarray, tails: np.ndarray) -> np.ndarray:
    return np.nanpercentile(drawn, 100 * tails, axis=0)  # NaN: a draw of no unit with a value


def _studentised(ratios: Ratios, drawn: np.ndarray, errors: np.ndarray, tails: np.ndarray) -> np.ndarray:
    centre, error = ratios.estimate, ratios.error
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        t = (drawn - centre) / np.fmax(errors, LEAST_ERROR * error)
    t[~np.isfinite(t)] = 0.0  # no unit with a value, or all are equal
    upper, lower = np.quantile(t, tails, axis=0)
    few, student = ratios.units < LEAST_UNITS, stdtrit(ratios.units - 1.0, tails[1])
    lower, upper = np.where(few, student, lower), np.where(few, -student, upper)
    return np.stack([centre - lower * error, centre - upper * error])


def _bca(ratios: Ratios, drawn: np.ndarray, errors: np.ndarray, tails: np.ndarray) -> np.ndarray:
    centre, count = ratios.estimate, len(drawn)
    below = ((drawn < centre).mean(0) + (drawn <= centre).mean(0)) / 2  # halves for draws equal to the estimate
    bias = ndtri(np.clip(below, 0.5 / count, 1 - 0.5 / count))
    total_top, total_bottom = ratios.top.sum(0), ratios.bottom.sum(0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        without = (total_top - ratios.top) / (total_bottom - ratios.bottom)  # the jackknife, [units, cells]
    without = np.where((ratios.bottom != 0) & np.isfinite(without), without, np.nan)
    away, _ = scaled(np.nanmean(without, 0) - without)
    spread = np.nansum(away**2, 0)
    skew = np.divide(np.nansum(away**3, 0), 6 * spread**1.5, out=np.zeros_like(spread), where=spread > 0)
    z = bias + ndtri(tails)[:, None]  # [2, cells]
    at = ndtr(bias + z / (1 - skew * z))
    filled = np.sort(np.where(np.isnan(drawn), centre, drawn), 0)
    index = np.clip(np.rint(at * (count - 1)).astype(np.int64), 0, count - 1)
    return np.take_along_axis(filled, index, 0)


def median_interval(
    values: np.ndarray, weights: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Medians of values [samples, cells] and their percentile-bootstrap ends, each float64 [cells].

    Args:
        values: NaN where there is none. weights: float64 [resamples, samples], how often each is drawn.
    """
    middle, low, high = np.full((3, values.shape[1]), np.nan)
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    for cell in range(values.shape[1]):
        here = np.flatnonzero(~np.isnan(values[:, cell]))
        if not len(here):
            continue
        order = here[np.argsort(values[here, cell], kind="stable")]
        ranked = values[order, cell]
        middle[cell] = np.median(ranked)
        if len(here) < 2:
            continue
        until = np.cumsum(weights[:, order], 1)  # [resamples, samples]
        half = until[:, -1:] / 2
        # The mean of the two middle ones, as np.median has it; they are one where the half falls within a sample.
        first = np.minimum((until < half).sum(1), len(ranked) - 1)
        second = np.minimum((until <= half).sum(1), len(ranked) - 1)
        drawn = (ranked[first] + ranked[second]) / 2
        low[cell], high[cell] = np.percentile(drawn[until[:, -1] > 0], tails)
    return middle, low, high
