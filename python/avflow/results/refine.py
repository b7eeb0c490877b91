"""Where a sweep over every so-many-th layer should look closer: the cells between centres where a curve bends."""

from __future__ import annotations

import heapq

import numpy as np
import pyarrow as pa

from ..checks import integer, shown
from ..errors import InputError
from .change import mean_change

HALVED = 4.0  # a straight line between two points of a parabola is off by a quarter where they stand half as far apart


def cells_to_refine(table: pa.Table, count: int, select: str = "all") -> list[tuple[str, int]]:
    """The cells between a sweep's window centres that a straight line knows least: for `avflow.sweep(cells=...)`.

    The doubt in a gap is how far the mean curve lies at its two ends from the line between their neighbours, added (of
    two centres alone: how far apart they are), in percentage points. The gap of the greatest doubt is halved, its
    halves have a quarter of it, and so on.

    Tests of cells that were chosen so use the data that chose them: for a claim, choose on other samples.

    Args:
        table: of a sweep of one window width. count: of cells, 1 or more; fewer where the gaps are fewer.
        select: whose samples' mean: "all", "correct", "wrong".

    Returns:
        (knockout's name, centre), the paths in the table's order, centres increasing.

    Raises:
        InputError: as `mean_change`; no path has a centre between two that were run.
    """
    count = integer("count =", count, low=1, high=100_000, mend="pass the number of cells to add, 1 or more")
    means = mean_change(table, select=select)
    names = list(dict.fromkeys(means["knockout"].to_pylist()))
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    for name, layer, mean in zip(*(means[c].to_pylist() for c in ("knockout", "layer", "mean")), strict=True):
        if mean is not None and np.isfinite(mean):
            curves[name].append((layer, mean))
    gaps = [gap for number, name in enumerate(names) for gap in _gaps(number, sorted(curves[name]))]
    if not gaps:
        raise InputError(
            f"layers {shown(sorted(set(means['layer'].to_pylist())))} leave no centre between them: sweep fewer, such "
            "as layers=range(0, 36, 4), and refine that"
        )
    heapq.heapify(gaps)
    found: list[tuple[int, int]] = []
    while gaps and len(found) < count:
        minus_doubt, minus_width, number, low = heapq.heappop(gaps)
        high = low - minus_width
        middle = (low + high) // 2
        found.append((number, middle))
        for a, b in ((low, middle), (middle, high)):
            if b - a > 1:
                heapq.heappush(gaps, (minus_doubt / HALVED, a - b, number, a))
    return [(names[number], centre) for number, centre in sorted(found)]


def _gaps(number: int, curve: list[tuple[int, float]]) -> list[tuple[float, int, int, int]]:
    """(-doubt, -width, number of the path, lower end) of every gap that holds a centre: the greatest come first."""
    at, mean = np.array([c for c, _ in curve], float), np.array([m for _, m in curve])
    if len(at) < 2:
        return []
    bend = np.zeros(len(at))  # a first and a last centre have none
    if len(at) == 2:
        bend += np.abs(mean[1] - mean[0]) / 2
    else:
        line = mean[:-2] + (at[1:-1] - at[:-2]) / (at[2:] - at[:-2]) * (mean[2:] - mean[:-2])
        bend[1:-1] = np.abs(mean[1:-1] - line)
    return [
        (-float(bend[i] + bend[i + 1]), -int(at[i + 1] - at[i]), number, int(at[i]))
        for i in range(len(at) - 1)
        if at[i + 1] - at[i] > 1
    ]
