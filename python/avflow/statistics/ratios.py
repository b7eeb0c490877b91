"""Averages over samples as ratios of sums, which is what every interval and test here works on.

A *cell* is one thing that was measured on every sample (a path at a layer). A *unit* is what is drawn or flipped whole:
a sample, or all samples of one cluster (the questions on one video). A mean is sum(value) / sum(1), a ratio of means
sum(a) / sum(b): both are sums over units, so one formula serves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


def scaled(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values [units, cells] times a power of two for each cell, and its exponent, so that ldexp(result, exponent) is
    values: the largest of a cell then lies in 0.5 .. 1, and squares neither overflow nor vanish. NaN stays.

    Probabilities of long answers can be 1e-200, and percentages of such 1e300. No digit is lost.
    """
    exponent = np.frexp(np.fmax.reduce(np.abs(values), axis=0, initial=0.0))[1]
    return np.ldexp(values, -exponent), exponent


@dataclass(frozen=True)
class Ratios:
    """Of every cell sum(top) / sum(bottom) over units.

    Attributes:
        top, bottom: float64 [units, cells]; both 0 where a unit has no value.
    """

    top: np.ndarray
    bottom: np.ndarray

    @classmethod
    def of_means(cls, values: np.ndarray, clusters: Sequence[Hashable] | None = None) -> Ratios:
        """Means of values [samples, cells], NaN where there is none. clusters: a label per sample; None: none alike."""
        there = ~np.isnan(values)
        return cls(np.where(there, values, 0.0), there.astype(np.float64))._by(clusters)

    @classmethod
    def of_two(cls, top: np.ndarray, bottom: np.ndarray, clusters: Sequence[Hashable] | None = None) -> Ratios:
        """Ratios of the means of top and bottom [samples, cells]; a sample counts where both have a value."""
        there = ~(np.isnan(top) | np.isnan(bottom))
        return cls(np.where(there, top, 0.0), np.where(there, bottom, 0.0))._by(clusters)

    def _by(self, clusters: Sequence[Hashable] | None) -> Ratios:
        if clusters is None:
            return self
        first: dict[Hashable, int] = {}
        of = np.array([first.setdefault(label, len(first)) for label in clusters], np.int64)
        top, bottom = np.zeros((2, len(first), self.top.shape[1]))
        np.add.at(top, of, self.top)
        np.add.at(bottom, of, self.bottom)
        return Ratios(top, bottom)

    @property
    def units(self) -> np.ndarray:
        """int64 [cells], the units that have a value there."""
        return ((self.bottom != 0) | (self.top != 0)).sum(0)

    @property
    def estimate(self) -> np.ndarray:
        """float64 [cells], NaN where no unit has a value."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return self.top.sum(0) / self.bottom.sum(0)

    def weighted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Estimate and its standard error, both float64 [draws, cells], each unit counted as often as weights say.

        weights: float64 [draws, units]. The error is the linearised one of a ratio (Cochran, Sampling Techniques, 1977,
        2.11), for means of single samples s / sqrt(n). NaN where fewer than two units have a value.
        """
        (tops, up), (bottoms, down) = scaled(self.top), scaled(self.bottom)
        top, bottom = weights @ tops, weights @ bottoms
        count = weights @ (bottoms != 0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
            ratio = top / bottom
            squares = weights @ tops**2 - 2 * ratio * (weights @ (tops * bottoms))
            squares = np.maximum(squares + ratio**2 * (weights @ bottoms**2), 0.0)
            error = np.sqrt(count / (count - 1) * squares) / np.abs(bottom)
            return np.ldexp(ratio, up - down), np.ldexp(error, up - down)

    @property
    def error(self) -> np.ndarray:
        """float64 [cells], the estimate's standard error; NaN below two units."""
        return self.weighted(np.ones((1, len(self.top))))[1][0]
