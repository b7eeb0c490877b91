"""Figures of what a run pays attention to and would answer: allocation bars, answer lens, pathways.

Every function takes the Results of its experiment, or their table, and returns (figure, axes), in the look of `plots`.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from ..results.change import bootstrap
from .drawable import heading, rows_of, table_with
from .drawn import Drawn
from .information_flow import STYLE, canvas, check_first_layer
from .layer_ticks import LayerTicks
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, words

# Bottom to top. Hatches tell what colour alone would not: text groups are hatched, media are plain.
GROUP_STYLE = {
    "video": (BLUE, ""),
    "image": (SKY, ""),
    "audio": (VERMILLION, ""),
    "sink": ("#000000", ""),
    "candidate_correct": (BLUE, ""),
    "candidate_incorrect": (SKY, ""),
    "reference": (VERMILLION, ""),
    "question_text": (GREEN, ""),
    "instruction": (GREEN, "//"),
    "option_correct": (ORANGE, ""),
    "option_incorrect": ("#F3D9A4", "//"),
    "last": (PURPLE, ""),
    "answer": (PURPLE, "//"),
    "template": ("#C8C8C8", ""),
    "system": ("#E4E4E4", "//"),
}


def _titled(table: pa.Table, title: str | None, default: str) -> str:
    return heading(title, default, len(pc.unique(table["prompt"])))


def share_bars(
    table: pa.Table,
    *,
    token: int | None = None,
    title: str | None = None,
    first_layer: int = 0,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Attention allocation: a stacked bar per layer, the mean share of every token group over prompts and heads.

    `token`: which of the table's tokens (0: the last prompt token; default: all of them, mean). `first_layer`: the
    number the axis gives to the first layer, 0 or 1.

    Raises:
        InputError: another table, one without rows (of this token), or a value out of range.
    """
    check_first_layer(first_layer)
    table = table_with(table, ("prompt", "layer", "answer_token", "group", "share"), "avflow.attention_share")
    table = rows_of(table, token)
    layers, shares = share_means(table)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, ax = canvas(ax, (2.4 + 0.2 * max(len(layers), 12), 3.1))
        bottom = np.zeros(len(layers))
        at = np.array(layers) + first_layer
        for group, values in shares.items():
            color, hatch = GROUP_STYLE.get(group, (GREY, "xx"))
            look: dict[str, Any] = dict(color=color, hatch=hatch, edgecolor="white", linewidth=0.3, label=words(group))
            ax.bar(at, 100 * values, 0.86, 100 * bottom, **look)
            bottom += values
        ax.set_xlabel("Layer")
        ax.set_ylabel("Share of attention (%)")
        ax.set_ylim(0, 100)
        ax.margins(x=0.01)
        ax.xaxis.set_major_locator(LayerTicks(first_layer, 10))
        ax.set_title(_titled(table, title, "Attention allocation"), loc="left")
        handles, labels = ax.get_legend_handles_labels()  # in the order of the stack, from the top
        ax.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return Drawn(figure, ax)


def share_means(table: pa.Table) -> tuple[list[int], dict[str, np.ndarray]]:
    """Layers, and per group, in the order of the stack, its mean share [layers] over all (prompt, token, head)."""
    # A group that a prompt lacks got none of its attention: the mean is over all units of a layer.
    sums = table.group_by(["layer", "group"]).aggregate([("share", "sum")]).to_pylist()
    units = table.group_by(["layer"]).aggregate([("share", "sum")]).to_pylist()  # each unit's shares add up to 1
    total = {row["layer"]: row["share_sum"] for row in units}
    layers = sorted(total)
    height = {(r["layer"], r["group"]): r["share_sum"] / total[r["layer"]] for r in sums}
    groups = sorted({row["group"] for row in sums}, key=_rank)
    return layers, {g: np.array([height.get((layer, g), 0.0) for layer in layers]) for g in groups}


def _rank(group: str) -> tuple[int, str]:
    order = list(GROUP_STYLE)
    return (order.index(group) if group in order else len(order), group)


def lens_lines(
    table: pa.Table,
    *,
    title: str | None = None,
    first_layer: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Answer lens: mean probability of true and false options (or of the answer) after every layer, with bands.

    The false options of a prompt are averaged first, so that every prompt counts once.

    Raises:
        InputError: another table, one without rows, or a value out of range.
    """
    check_first_layer(first_layer)
    table = table_with(table, ("prompt", "layer", "kind", "p"), "avflow.answer_lens")
    if not table.num_rows:
        raise InputError("nothing to draw: the table has no rows")
    looks = {"true option": (BLUE, "-"), "false option": (VERMILLION, (0, (4, 1.5))), "answer": (BLUE, "-")}
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (4.8, 2.9))
        for kind, points in lens_means(table, confidence, seed).items():
            layers, mean, low, high = np.array(points, np.float64).T  # None becomes NaN
            at, (color, dashes) = layers + first_layer, looks[kind]
            ax.fill_between(at, low, high, color=color, alpha=0.13, linewidth=0)
            marker = "o" if len(at) == 1 else None
            ax.plot(at, mean, color=color, linestyle=dashes, linewidth=1.6, marker=marker, label=kind)
        ax.set_ylim(bottom=0)
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(LayerTicks(first_layer))
        ax.set_xlabel("Layer")
        ax.set_ylabel("Probability after the layer")
        ax.set_title(_titled(table, title, "Answer lens"), loc="left")
        ax.legend(frameon=False, loc="best")
    return Drawn(figure, ax)


def lens_means(table: pa.Table, confidence: float = 0.95, seed: int = 0) -> dict[str, list[list]]:
    """Per kind of token [layer, mean, low, high] of its probability over prompts; no band (None) for a lone prompt."""
    means = table.group_by(["prompt", "kind", "layer"]).aggregate([("p", "mean")])
    there = set(table["kind"].to_pylist())
    out = {}
    for kind in [k for k in ("true option", "false option", "answer") if k in there]:
        rows = means.filter(pc.equal(means["kind"], kind))
        prompts = rows["prompt"].combine_chunks().dictionary_encode().indices.to_numpy()
        layers, column = np.unique(rows["layer"].to_numpy(), return_inverse=True)
        values = np.full((prompts.max() + 1, len(layers)), np.nan)  # [prompts, layers]
        values[prompts, column] = rows["p_mean"].to_numpy()
        mean, low, high, _ = (v.tolist() for v in bootstrap(values, confidence, 1000, seed))
        bands = [[None if np.isnan(v) else v for v in pair] for pair in zip(low, high, strict=True)]
        out[kind] = [[layer, m, *band] for layer, m, band in zip(layers.tolist(), mean, bands, strict=True)]
    return out


def pathway_bars(table: pa.Table, *, title: str | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Effective pathways: accuracy of the full model, of the pathways and of the random controls together.

    Raises:
        InputError: another table, or one without rows.
    """
    table = table_with(table, ("prompt", "run", "edges_kept", "correct"), "avflow.pathways")
    if not table.num_rows:
        raise InputError("nothing to draw: the table has no rows")
    runs = ["full", "pathways", "random"]
    names = [name.split(" ")[0] for name in table["run"].to_pylist()]
    correct, edges = table["correct"].to_numpy(zero_copy_only=False), table["edges_kept"].to_numpy()
    there = [run for run in runs if run in names]
    picks = [np.array([name == run for name in names]) for run in there]
    labels = [f"{run}\n{100 * edges[pick].mean():.0f} % of edges" for run, pick in zip(there, picks, strict=True)]
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (3.4, 2.8))
        heights = [100 * correct[pick].mean() for pick in picks]
        bars = ax.bar(labels, heights, 0.62, color=[GREY, BLUE, ORANGE][: len(there)])
        ax.bar_label(bars, fmt="%.1f", padding=2, fontsize=8.5)
        ax.set_ylim(0, 108)
        ax.set_ylabel("Accuracy (%)")
        ax.set_title(_titled(table, title, "Effective pathways"), loc="left")
    return Drawn(figure, ax)
