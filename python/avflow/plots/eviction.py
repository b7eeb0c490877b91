"""Figure of an eviction plan: accuracy and answer probability over the last layer that sees a group.

Takes the table of `plan_eviction` (`schedule.plan.table`), returns (figure, axes), in the look of `plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..checks import choice
from ..errors import InputError
from ..results.schemas import PLAN_EVICTION
from .drawable import heading, table_with
from .drawn import Drawn
from .information_flow import STYLE, check_first_layer
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, SOURCE_COLORS, VERMILLION, words

_COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)
_MARKERS = "osD^vP*X"  # with the dashes they tell the groups apart without colour
# What the two panels show, by the plan's measure (planning.measure): a share, and what moves before it does.
_YLABELS = {
    "answers": ("Accuracy (%)", "Probability of the right answer"),
    "kl": ("Prompts within the KL allowed (%)", "exp(mean log p of the next token)"),
    "metric": ("Mean score (%)", ""),
}
_DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (4, 1.5, 1.2, 1.5)), (0, (7, 2, 2, 2)))


def group_looks(groups: list[str]) -> dict[str, dict[str, Any]]:
    """A group's usual colour where nobody else here has it; all groups together are black."""
    free, looks = list(_COLORS), {}
    together = [g for g in groups if "+" in g and set(g.split("+")) >= {h for h in groups if h != g}]
    for number, group in enumerate(groups):
        usual = "#000000" if group in together else SOURCE_COLORS.get(group)
        if usual not in free and usual != "#000000":
            usual = free[0] if free else GREY
        free = [color for color in free if color != usual]
        dashes = (0, (3, 1.2)) if group in together else _DASHES[number % len(_DASHES)]
        looks[group] = {"color": usual, "linestyle": dashes, "marker": _MARKERS[number % len(_MARKERS)]}
    return looks


def eviction_lines(
    table: pa.Table,
    schedule: Mapping[str, int] | None = None,
    *,
    title: str | None = None,
    first_layer: int = 0,
    until: int | None = None,
    measure: str = "answers",
) -> tuple[Figure, list[Axes]]:
    """Accuracy (left) and mean probability of the right answer (right), a line and a band per group.

    The accuracy's band is the interval of the paired change, at the clean accuracy; the clean run is the grey line.

    Args:
        table: as results.schemas.PLAN_EVICTION says. schedule: {group: layer} that was chosen, marked on the lines.
        first_layer: the number the axis gives to the first layer, 0 or 1.
        until: the table is of groups that rest until this layer, 0-based; None: of groups that leave.
        measure: of the plan, `schedule.figures["measure"]`: "answers", "kl" or "metric"; words of the axes.

    Raises:
        InputError: another table, one without rows, or a schedule of groups that it does not have.
    """
    check_first_layer(first_layer)
    ylabels = _YLABELS[choice("measure", measure, tuple(_YLABELS))]
    table = table_with(table, PLAN_EVICTION.names, "plan_eviction (schedule.plan.table)")
    if not table.num_rows:
        raise InputError("nothing to draw: the table has no rows")
    chosen = dict(schedule or {})
    groups, verb = list(dict.fromkeys(table["group"].to_pylist())), "leaves" if until is None else "rests"
    if strangers := [g for g in chosen if g not in groups]:
        raise InputError(f"the schedule has the group {strangers[0]!r}, the table {', '.join(groups)}")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        marks: dict[Axes, list[tuple[float, float, dict[str, Any]]]] = {left: [], right: []}
        for group, look in group_looks(groups).items():
            rows = table.filter(pc.equal(table["group"], group)).sort_by("layer")
            value = {n: pc.cast(rows[n], pa.float64()).to_numpy() for n in rows.column_names if n != "group"}
            clean = value["accuracy_clean"]
            band = clean + value["change_low"], np.minimum(clean + value["change_high"], 1)
            at = value["layer"] + first_layer
            label = words(group)
            if group in chosen:
                when = _when(chosen[group], first_layer)
                rests = f"rests {chosen[group] + first_layer + 1} to {(until or 0) + first_layer}"
                label += f", leaves {when}" if until is None else f", {rests}"
            _line(left, at, 100 * value["accuracy"], [100 * b for b in band], look, label)
            _line(right, at, value["p"], (value["p_low"], value["p_high"]), look, label)
            for row in np.flatnonzero(at == chosen[group] + first_layer) if group in chosen else ():
                marks[left].append((at[row], 100 * value["accuracy"][row], look))
                marks[right].append((at[row], value["p"][row], look))
        for ax, points in marks.items():
            _mark(ax, points)
        for ax, name, scale in ((left, "accuracy_clean", 100), (right, "p_clean", 1)):
            if (level := table[name][0].as_py()) is None:  # with a metric no answer is looked at
                continue
            ax.axhline(scale * level, color="#7F7F7F", linewidth=1.0, zorder=1, label=f"nothing {verb}")
            ax.set_xlabel("Last layer that sees the group")
            ax.tick_params(length=2.5)
            ax.margins(x=0.03)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        for ax, ylabel in zip((left, right), ylabels, strict=True):
            ax.set_ylabel(ylabel)
        right.set_visible(table["p_clean"].null_count == 0)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, handlelength=2.6)
        does = "What dropping tokens does" if until is None else f"Tokens that rest until layer {until + first_layer}"
        titled = heading(title, does, table["prompts"][0].as_py())
        figure.suptitle(titled, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return Drawn(figure, [left, right])


def _when(after: int, first_layer: int) -> str:
    return f"before {first_layer}" if after < 0 else f"after {after + first_layer}"


def _line(
    ax: Axes, at: np.ndarray, mean: np.ndarray, band: Sequence[np.ndarray], look: dict[str, Any], label: str
) -> None:
    style = {k: v for k, v in look.items() if k != "marker"}
    low, high = band
    ax.fill_between(at, low, high, color=look["color"], alpha=0.11, linewidth=0, zorder=2)
    ax.plot(at, mean, linewidth=1.6, marker=look["marker"], markersize=2.6, zorder=3, label=label, **style)


def _mark(ax: Axes, points: Sequence[tuple[float, float, dict[str, Any]]]) -> None:
    """Where each group leaves: (layer, value, look). Of marks on one place the earlier is a ring around the later."""
    near = 0.04 * float(np.ptp(ax.get_ylim()))
    for number, (at, value, look) in enumerate(points):
        within = sum(at == x and abs(value - y) < near for x, y, _ in points[number + 1 :])
        ring: dict[str, Any] = dict(markerfacecolor="none", markeredgecolor=look["color"], markeredgewidth=1.8)
        plain: dict[str, Any] = dict(color=look["color"], markeredgecolor="white")
        style: dict[str, Any] = {"marker": look["marker"], "markersize": 8 + 7 * within, **(ring if within else plain)}
        ax.plot([at], [value], linestyle="none", zorder=5 + number, **style)
