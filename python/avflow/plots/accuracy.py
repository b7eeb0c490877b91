"""Accuracy under a knockout, layer by layer: how often the answer is still right."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from ..planning.exact import share_limits
from ..results.table import one_width
from ..results.table import select as select_rows
from ..statistics import intervals
from .drawable import heading, table_with
from .drawn import Drawn
from .information_flow import STYLE, canvas, check_first_layer, line_with_band, named, paths_there
from .layer_ticks import LayerTicks
from .style import distinct_styles, path_label

COLUMNS = ("prompt", "knockout", "layer", "window", "correct", "correct_knockout")


def accuracy(
    table: pa.Table,
    *,
    paths: Sequence[str] | None = None,
    select: str = "all",
    title: str | None = None,
    first_layer: int = 0,
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Share of samples (%) that are answered right with a path cut around each layer, a line and a band per path; the
    clean model's as a dashed line.

    Of a sweep with `select="all"`: among samples that were selected for right answers accuracy can only fall. The band
    is Clopper and Pearson's, of each layer by itself, samples taken one by one.

    Args:
        table: Results of avflow.sweep, or their table, with windows of one width.
        paths, select, title, first_layer, ax: as of `flow`.

    Raises:
        InputError: no row with a value, a path that is not there, windows of several widths.
    """
    check_first_layer(first_layer)
    intervals.check(confidence)
    table = one_width(select_rows(table_with(table, COLUMNS, "avflow.sweep"), select))
    table = table.filter(pc.is_valid(table["correct_knockout"]))
    there = paths_there(table, paths)
    if not there:
        raise InputError("nothing to draw: no row tells whether the answer is right")
    chosen = named(paths) or there
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (6.0, 3.1))
        for path, style in zip(chosen, distinct_styles(chosen), strict=True):
            layers, right, samples = _counts(table.filter(pc.equal(table["knockout"], path)))
            ends = [share_limits(k, int(n), (1 - confidence) / 2) for k, n in zip(right, samples, strict=True)]
            low, high = np.array(ends).T
            share = (100 * right / samples, 100 * low, 100 * high)
            line_with_band(ax, layers + first_layer, *share, path_label(path), style)
        clean = dict(zip(table["prompt"].to_pylist(), table["correct"].to_pylist(), strict=True))
        level = 100 * float(np.mean(list(clean.values())))
        ax.axhline(level, color="#444444", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1, label="clean")
        ax.set_xlabel("Layer (window centre)")
        ax.set_ylabel("Accuracy (%)")
        ax.xaxis.set_major_locator(LayerTicks(first_layer))
        ax.margins(x=0.02)
        ax.tick_params(length=2.5)
        if title is not None:
            ax.set_title(heading(title, "Accuracy", len(clean)), loc="left")
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handlelength=2.4)
    return Drawn(figure, ax)


def _counts(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one path: layers, int [L], increasing; right answers and samples of each, int [L]."""
    layer = rows["layer"].to_numpy()
    layers, at = np.unique(layer, return_inverse=True)
    right = np.bincount(at, weights=rows["correct_knockout"].to_numpy(zero_copy_only=False).astype(float))
    return layers, right, np.bincount(at)
