"""Figures of the information flow: a line per path with its confidence band, and the map path x layer.

Every function takes a result table and returns (figure, axes), which a notebook shows. Figures are
matplotlib.figure.Figure objects made without pyplot, so they need no display and stay out of its global list.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .. import checks
from ..deprecated import renamed_keyword
from ..errors import InputError
from ..files import write_whole
from ..results.change import Center, Clusters, Interval, average_change, axis_of, target_of
from ..results.default_center import default_center, default_interval, unit_of
from ..results.table import one_width, paths_of, widths_of
from ..results.table import select as select_rows
from .drawable import check_axes, heading, table_with
from .drawn import Drawn
from .layer_ticks import LayerTicks
from .paper import on_paper, untouched
from .style import PANELS, distinct_styles, panel_of, path_label

COLUMNS = ("prompt", "knockout", "layer", "window", "change_percent", "correct")  # of avflow.sweep, that are drawn
MOST_PATHS = 10_000  # of a figure; more is a slip
LEAST_SPAN = 5.0  # of the axis of changes, in its unit
STYLE: dict[Any, Any] = {  # of matplotlib's rcParams
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@renamed_keyword("which", "select")
def flow(
    table: pa.Table,
    *,
    paths: Sequence[str] | None = None,
    select: str = "all",
    title: str | None = None,
    first_layer: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    center: Center | None = None,
    interval: Interval | None = None,
    cluster: Clusters | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Average change of the answer's probability over the window's centre layer, a line and a band per path.

    `paths`: names to draw (default: all that have a value). `select`: correct, wrong or all samples.
    `first_layer`: the number the axis gives to the first layer, 0 or 1. `ax`: draw there instead of a new figure.
    `center`, `interval`, `cluster`: of `avflow.results.average_change`; the axis says which average it is. By default
    the mean of percentages with bootstrap-t bands; points with BCa's, of a table of `avflow.patch` and where a sample's
    clean probability is below 1 % and far below another's: a cut may lift such an answer from next to nothing, by any
    number of percent.
    """
    check_first_layer(first_layer)
    table, center, interval = _taken(table, select, center, interval)
    chosen = _chosen(table, paths)
    how: Any = dict(confidence=confidence, seed=seed, center=center, interval=interval, cluster=cluster)
    means = average_change(table.filter(_is_in(table, chosen)), **how)
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (6.0, 3.1))
        _lines(ax, means, chosen, first_layer)
        _decorate(ax, table.filter(_is_in(table, chosen)), title)
        ax.set_ylabel(axis_of(table, center))
        _span(ax)
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handlelength=2.4)
    return Drawn(figure, ax)


@renamed_keyword("which", "select")
def flow_panels(
    table: pa.Table,
    *,
    select: str = "all",
    title: str | None = None,
    first_layer: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    center: Center | None = None,
    interval: Interval | None = None,
    cluster: Clusters | None = None,
) -> tuple[Figure, list[Axes]]:
    """`flow` with the paths in one panel per kind of target (media, question and options, last token), one scale."""
    check_first_layer(first_layer)
    table, center, interval = _taken(table, select, center, interval)
    how: Any = dict(confidence=confidence, seed=seed, center=center, interval=interval, cluster=cluster)
    means = average_change(table, **how)
    drawn = _chosen(table, None)
    panels = [(name, [p for p in drawn if panel_of(p) == name]) for name in PANELS]
    panels = [(name, members) for name, members in panels if members]
    with mpl.rc_context(STYLE):
        longest = max(len(members) for _, members in panels)
        figure = Figure(figsize=(0.6 + 3.0 * len(panels), 2.9 + 0.17 * longest), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)))
        for ax, (name, members) in zip(axes, panels, strict=True):
            _lines(ax, means, members, first_layer)
            _decorate(ax, table, None)
            ax.set_title(name, loc="left")
            ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.17), frameon=False, handlelength=2.4)
        axes[0].set_ylabel(axis_of(table, center))
        _span(axes[0])
        figure.suptitle(_titled(table, title), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return Drawn(figure, axes)


@renamed_keyword("which", "select")
def heat_map(
    table: pa.Table,
    *,
    paths: Sequence[str] | None = None,
    select: str = "all",
    title: str | None = None,
    first_layer: int = 0,
    center: Center | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Average change as colour, a row per path and a column per layer; grey where there is no value.

    `center`: as of `flow`, by default too.
    """
    check_first_layer(first_layer)
    table, center, _ = _taken(table, select, center, None)
    chosen = _chosen(table, paths)
    means = average_change(table.filter(_is_in(table, chosen)), center=center, resamples=1)
    layers = np.unique(table["layer"].to_numpy())
    grid = np.full((len(chosen), len(layers)), np.nan)  # [paths, layers]
    for row in means.to_pylist():
        grid[chosen.index(row["knockout"]), np.searchsorted(layers, row["layer"])] = row["change"]
    bound = max(float(np.nanmax(np.abs(grid))), LEAST_SPAN / 2)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        size = (2.6 + 0.17 * max(len(layers), 14), 1.0 + 0.26 * len(chosen))
        figure, ax = canvas(ax, size)
        colors = mpl.colormaps["RdBu_r"].with_extremes(bad="#D9D9D9")
        image = ax.pcolormesh(
            np.arange(len(layers) + 1) - 0.5,
            np.arange(len(chosen) + 1) - 0.5,
            np.ma.masked_invalid(grid),
            cmap=colors,
            vmin=-bound,
            vmax=bound,
            edgecolors="white",
            linewidth=0.4,
        )
        ax.set_facecolor("#D9D9D9")
        ax.invert_yaxis()
        ax.set_yticks(range(len(chosen)), [_counted(path, means) for path in chosen])
        step = -(-len(layers) // 18)
        ax.set_xticks(range(0, len(layers), step), [str(layer + first_layer) for layer in layers[::step]])
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_xlabel("Layer (window centre)")
        ax.set_title(_titled(table.filter(_is_in(table, chosen)), title), loc="left")
        bar = figure.colorbar(image, ax=ax, pad=0.015, fraction=0.05, aspect=2 + 1.6 * len(chosen))
        bar.set_label(f"Change ({unit_of(center)})" + (", predicted token" if target_of(table) == "own" else ""))
        bar.outline.set_visible(False)
    return Drawn(figure, ax)


@renamed_keyword("which", "select")
def widths(
    table: pa.Table,
    path: str,
    *,
    select: str = "all",
    title: str | None = None,
    first_layer: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    center: Center | None = None,
    interval: Interval | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Ablation of the window's width: `flow` of one path, a line and a band per width, wider windows darker.

    `center`, `interval`: as of `flow`.
    """
    check_first_layer(first_layer)
    table, center, interval = _taken(table, select, center, interval)
    table = table.filter(_is_in(table, _chosen(table, [path])))
    there = widths_of(table)
    shades = mpl.colormaps["viridis_r"](np.linspace(0.12, 0.95, len(there)))
    dashes = ["solid", (0, (4, 1.4)), (0, (1.2, 1.2)), (0, (4, 1.2, 1, 1.2))]
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (5.4, 3.0))
        ax.axhline(0, color="#444444", linewidth=0.8, zorder=1)
        for n, width in enumerate(there):
            how: Any = dict(confidence=confidence, seed=seed, center=center, interval=interval)
            means = average_change(one_width(table, width), **how)
            style = {"color": shades[n], "linestyle": dashes[n % len(dashes)]}
            _line(ax, means.sort_by("layer"), first_layer, f"{width} layer{'s' * (width != 1)}", style)
        _decorate(ax, table, title or path_label(path))
        ax.xaxis.set_major_locator(LayerTicks(first_layer))
        ax.margins(x=0.02)
        ax.set_ylabel(axis_of(table, center))
        _span(ax)
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handlelength=2.4, title="Window")
    return Drawn(figure, ax)


def save(
    figure: Figure,
    stem: str | Path,
    dpi: int = 200,
    *,
    width: str | float | None = None,
    height: float | None = None,
    font_size: float | None = None,
    font: str | None = None,
) -> list[Path]:
    """Write `stem`.png and `stem`.pdf, each whole or not at all; returns their paths. The figure stays as it is, and
    the same figure gives the same bytes, with the same matplotlib and fonts.

    Args:
        dpi: of the PNG.
        width: inches that both files are wide, or "column" (3.3) or "page" (6.8) of a paper of two columns; a narrow
            figure has its legend below. None: as drawn, without its margins.
        height: inches; None: as drawn, less where the figure gets narrower.
        font_size: points, of axes' names and titles; all else in proportion (9 as drawn). font: "serif", "sans-serif"
            or a font of this machine.

    Raises:
        InputError: no figure, a measure out of range, a font that is not there. RunError: a file cannot be written.
    """
    if not isinstance(figure, Figure):
        raise InputError(f"the figure is {checks.shown(figure)}: pass the first of what a figure function gives")
    dpi = checks.integer("dpi", dpi, 10, 10_000, "give dots an inch, 10 to 10,000 (200 is usual)")
    stem = checks.path("the figure's file", stem)
    measured = [width, height, font_size, font] != [None] * 4
    figure = on_paper(figure, width, height, font_size, font) if measured else untouched(figure)
    box = None if width is not None or height is not None else "tight"
    out = [stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf")]
    with mpl.rc_context(STYLE):
        for path in out:
            # No date in the file: the same rows give the same bytes.
            meta = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
            drawn = io.BytesIO()  # matplotlib itself writes half a PDF where the disk is full
            figure.savefig(drawn, format=path.suffix[1:], dpi=dpi, bbox_inches=box, metadata=meta)
            write_whole(path, drawn.getvalue())
    return out


def _taken(
    given: Any, select: str, center: Center | None, interval: Interval | None
) -> tuple[pa.Table, Center, Interval]:
    """The rows to draw, and how they are averaged where that is not asked for."""
    patched = "site" in getattr(getattr(given, "table", given), "column_names", ())
    table = select_rows(table_with(given, COLUMNS, "avflow.sweep"), select)
    usual: Center = "difference" if patched else default_center(table)
    return table, center or usual, interval or default_interval(usual if patched or center is None else "mean")


def check_first_layer(first_layer: int) -> None:
    if not isinstance(first_layer, int) or first_layer not in (0, 1):
        raise InputError(f"first_layer is {first_layer!r}: 0 (layers count from 0) or 1 (from 1)")


def _is_in(table: pa.Table, paths: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(table["knockout"], value_set=pa.array(list(paths), pa.string()))


def paths_there(table: pa.Table, paths: Sequence[str] | None) -> list[str]:
    """The table's paths. Raises InputError for one of `paths` that is not among them."""
    there = paths_of(table)
    for path in named(paths):
        if path not in there:
            raise InputError(f"no rows of {path!r} in the table: it has {', '.join(there) or 'no rows at all'}")
    return there


def named(paths: Any) -> list[str]:
    """The paths that are asked for by name; none: all."""
    found = [paths] if isinstance(paths, str) else checks.members(paths or (), MOST_PATHS)
    return checks.texts("paths", paths if found is None else found)


def _chosen(table: pa.Table, paths: Sequence[str] | None) -> list[str]:
    """The paths to draw. Raises InputError for one that is not in the table, or if nothing has a value."""
    there = paths_there(table, paths)
    valued = set(paths_of(table.filter(pc.is_valid(table["change_percent"]))))
    chosen = [path for path in (named(paths) or there) if path in valued]
    if not chosen:
        raise InputError(
            f"nothing to draw: {table.num_rows} rows, none with a value (were all samples selected out, or does no "
            "sample have the groups' tokens?)"
        )
    return chosen


def canvas(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    check_axes(ax)
    if ax is not None:
        return cast(Figure, ax.figure), ax
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _lines(ax: Axes, means: pa.Table, paths: Sequence[str], first_layer: int) -> None:
    ax.axhline(0, color="#444444", linewidth=0.8, zorder=1)
    for path, style in zip(paths, distinct_styles(paths), strict=True):
        rows = means.filter(pc.equal(means["knockout"], path)).sort_by("layer")
        _line(ax, rows, first_layer, _counted(path, means), style)
    ax.xaxis.set_major_locator(LayerTicks(first_layer))
    ax.margins(x=0.02)


def _counted(path: str, means: pa.Table) -> str:
    """A path's label, with how many samples its points stand on where those are not all samples of the figure."""
    own = means.filter(pc.equal(means["knockout"], path))["samples"].to_pylist()
    least, most = min(own), max(own)
    if least == max(means["samples"].to_pylist()):
        return path_label(path)
    return f"{path_label(path)} (n = {least if least == most else f'{least} to {most}'})"


def _line(ax: Axes, rows: pa.Table, first_layer: int, label: str, style: dict) -> None:
    """A line of averages with its band; rows of `average_change`, by layer."""
    low, high = (pc.cast(rows[name], pa.float64()).to_numpy() for name in ("low", "high"))
    line_with_band(ax, rows["layer"].to_numpy() + first_layer, rows["change"].to_numpy(), low, high, label, style)


def line_with_band(
    ax: Axes, layer: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, label: str, style: dict
) -> None:
    """One path over the layers, each [L]; a dot where there is one layer."""
    ax.fill_between(layer, low, high, color=style["color"], alpha=0.13, linewidth=0, zorder=2)
    marker = "o" if len(layer) == 1 else None
    ax.plot(layer, middle, label=label, linewidth=1.6, marker=marker, zorder=3, **style)


def _span(ax: Axes) -> None:
    """At least LEAST_SPAN: noise of a hundredth of a percent must not look like an effect."""
    low, high = ax.get_ylim()
    if (more := LEAST_SPAN - (high - low)) > 0:
        ax.set_ylim(low - more / 2, high + more / 2)


def _decorate(ax: Axes, table: pa.Table, title: str | None) -> None:
    ax.set_xlabel("Layer (window centre)")
    ax.tick_params(length=2.5)
    if title is not None:
        ax.set_title(_titled(table, title), loc="left")


def _titled(table: pa.Table, title: str | None) -> str:
    valued = table.filter(pc.is_valid(table["change_percent"]))
    return heading(title, "Information flow", len(pc.unique(valued["prompt"])))
