"""Figures of attention in two dimensions: a pooled map of a whole prompt, and a map of heads by layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import checks
from ..errors import InputError
from ..experiments.attention_map import AttentionMap
from .attention import GROUP_STYLE
from .drawable import heading, rows_of, table_with
from .drawn import Drawn
from .information_flow import STYLE, canvas, check_first_layer
from .layer_ticks import LayerTicks
from .style import words

# What a prompt's parts are called beside a map; neighbours of one name share a label.
_PARTS = {
    "system": "template",
    "template": "template",
    "question_text": "question",
    "instruction": "question",
    "option_correct": "options",
    "option_incorrect": "options",
    "candidate_correct": "candidates",
    "candidate_incorrect": "candidates",
}
_IN_TURN = ("video", "audio", "video + audio")  # sound and frames that alternate by the second are one part
LEAST_GAP = 0.052  # between labels, of the axis: a line of text
SLOPE = 40  # degrees, of the labels above
MOST_PANELS = 4


def map_image(found: AttentionMap, layer: int, *, first_layer: int = 0, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """A pooled attention map of one layer, colours on a logarithmic scale.

    Every part of the prompt (template, video, audio, question, options, last ...) has a label, which leads to its
    middle; lines stand where parts begin.

    Raises:
        InputError: no map, or a layer that it does not hold.
    """
    check_first_layer(first_layer)
    if not isinstance(found, AttentionMap):
        raise InputError(f"map_image draws what avflow.attention_map gives, got {checks.shown(found)}")
    if layer not in found.layers:
        raise InputError(f"layer {layer} is not in the map: it holds {', '.join(map(str, found.layers))}")
    weight = found.weight[found.layers.index(layer)]
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, ax = canvas(ax, (5.0, 4.4))
        seen = np.ma.masked_less_equal(weight, 0)
        norm = LogNorm(vmin=max(float(seen.min()), 1e-5), vmax=1.0)
        image = ax.pcolormesh(seen, cmap="viridis", norm=norm, rasterized=True)
        ax.invert_yaxis()
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        parts = _parts(found.groups)
        for _, begin, _ in parts[1:]:
            ax.axvline(begin, color="white", linewidth=0.4, alpha=0.6)
            ax.axhline(begin, color="white", linewidth=0.4, alpha=0.6)
        _label_parts(ax, parts, len(weight))
        bar = figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05)
        bar.set_label("Attention to the stretch, mean over rows and heads")
        bar.outline.set_visible(False)
        ax.set_xlabel(f"Layer {layer + first_layer}: keys; rows downwards")
    return Drawn(figure, ax)


def _parts(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """(name, first stretch, end) of the parts, in their order."""
    parts: list[tuple[str, int, int]] = []
    for at, group in enumerate(groups):
        name = _PARTS.get(group) or words(group)
        if parts and parts[-1][0] == name:
            parts[-1] = (name, parts[-1][1], at + 1)
        elif parts and name in _IN_TURN and parts[-1][0] in _IN_TURN:
            parts[-1] = ("video + audio", parts[-1][1], at + 1)
        else:
            parts.append((name, at, at + 1))
    return parts


def _label_parts(ax: Axes, parts: Sequence[tuple[str, int, int]], count: int) -> None:
    """Labels left and above, none over another, each with a line to the middle of its part."""
    middles = [(begin + end) / 2 / count for _, begin, end in parts]
    line = {"arrowstyle": "-", "color": "#7F7F7F", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0}
    how: dict[str, Any] = dict(xycoords="axes fraction", textcoords="axes fraction", fontsize=8, arrowprops=line)
    upwards: dict[str, Any] = dict(ha="left", va="bottom", rotation=SLOPE, rotation_mode="anchor")
    sideways = _apart(middles, LEAST_GAP / np.sin(np.radians(SLOPE)))
    for (name, *_), middle, down, along in zip(parts, middles, _apart(middles, LEAST_GAP), sideways, strict=True):
        ax.annotate(name, (0, 1 - middle), (-0.05, 1 - down), ha="right", va="center", annotation_clip=False, **how)
        ax.annotate(name, (middle, 1), (along, 1.05), annotation_clip=False, **upwards, **how)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Increasing places within 0 .. 1, moved as little as leaves `gap` between two neighbours."""
    gap = min(gap, 1 / max(1, len(places)))
    shift = gap * np.arange(len(places))
    # Nearest non-decreasing values to places - shift: means of the blocks that would cross.
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(places) - shift:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * n + b * m) / (n + m), n + m))
    moved = np.repeat([value for value, _ in blocks], [n for _, n in blocks])
    return (np.clip(moved, 0, 1 - gap * (len(places) - 1)) + shift).tolist()


def share_heads(
    table: pa.Table,
    groups: Sequence[str] | None = None,
    *,
    token: int | None = None,
    title: str | None = None,
    first_layer: int = 0,
) -> tuple[Figure, list[Axes]]:
    """Attention of every head: a panel per group, a row per head, a column per layer, the mean share as colour.

    Args:
        table: of `avflow.attention_share(heads=True)`.
        groups: those to draw, at most four; None: those whose share differs most from head to head.
        token: which of the table's tokens (0: the last prompt token); None: all of them, mean.
        first_layer: the number the axis gives to the first layer, 0 or 1.

    Raises:
        InputError: rows without heads, a group that the table lacks, no rows.
    """
    check_first_layer(first_layer)
    table = table_with(table, ("prompt", "layer", "answer_token", "head", "group", "share"), "avflow.attention_share")
    table = rows_of(table, token)
    if table["head"].null_count:
        raise InputError("the table has means over heads: ask for attention_share(heads=True), or look share --heads")
    layers, maps = _head_means(table)
    if groups is None:
        spread = {group: float(np.ptp(values, 0).max()) for group, values in maps.items()}
        ranked = sorted(spread, key=lambda group: -spread[group])[:MOST_PANELS]
        groups = list(dict.fromkeys(group for group in (*GROUP_STYLE, *sorted(maps)) if group in ranked))
    groups = checks.texts("groups", groups)
    if strangers := [group for group in groups if group not in maps]:
        raise InputError(f"no rows of the group {strangers[0]!r}: the table has {', '.join(maps)}")
    if not 1 <= len(groups) <= MOST_PANELS:
        raise InputError(f"{len(groups)} groups are to be drawn: name 1 to {MOST_PANELS}")
    heads = next(iter(maps.values())).shape[0]
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        height = 0.9 + lines * (0.75 + min(0.16 * heads, 3.2))
        figure = Figure(figsize=(1.2 + 2.9 * columns, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel().tolist()
        most = max(float(maps[group].max()) for group in groups)
        gaps = layers != list(range(layers[0], layers[0] + len(layers)))
        begin = 0 if gaps else layers[0] + first_layer
        edges = np.arange(len(layers) + 1) - 0.5 + begin, np.arange(heads + 1) - 0.5
        for ax, group in zip(panels, groups, strict=False):
            image = ax.pcolormesh(*edges, 100 * maps[group], cmap="viridis", vmin=0, vmax=100 * most, rasterized=True)
            ax.set_title(words(group), loc="left")
            ax.set_xlabel("Layer")
            ax.set_ylabel("Head")
            ax.xaxis.set_major_locator(LayerTicks(first_layer))
            ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            if gaps:
                ax.set_xticks(range(len(layers)), [str(layer + first_layer) for layer in layers])
        for ax in panels[len(groups) :]:
            ax.set_visible(False)
        panels[0].invert_yaxis()  # shared by all
        bar = figure.colorbar(image, ax=panels, pad=0.02, fraction=0.05)
        bar.set_label("Share of attention (%)")
        bar.outline.set_visible(False)
        titled = heading(title, "Attention by head", len(pc.unique(table["prompt"])))
        figure.suptitle(titled, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return Drawn(figure, panels[: len(groups)])


def _head_means(table: pa.Table) -> tuple[list[int], dict[str, np.ndarray]]:
    """Layers; per group the mean share [heads, layers] over prompts and tokens. What a prompt lacks got none of it."""
    sums = table.group_by(["layer", "head", "group"]).aggregate([("share", "sum")]).to_pylist()
    totals = table.group_by(["layer", "head"]).aggregate([("share", "sum")]).to_pylist()  # a unit's shares add up to 1
    layers, heads = sorted({row["layer"] for row in totals}), sorted({row["head"] for row in totals})
    total = {(row["layer"], row["head"]): row["share_sum"] for row in totals}
    maps = {row["group"]: np.zeros((len(heads), len(layers))) for row in sums}
    for row in sums:
        at = heads.index(row["head"]), layers.index(row["layer"])
        maps[row["group"]][at] = row["share_sum"] / total[row["layer"], row["head"]]
    return layers, maps
