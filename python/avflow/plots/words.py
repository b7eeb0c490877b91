"""What tokens say, drawn layer by layer: each word's share of a group; how far another model's words are."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import checks
from ..errors import InputError
from ..results.change import bootstrap
from .attention import GROUP_STYLE
from .drawable import heading, table_with
from .drawn import Drawn
from .information_flow import STYLE, canvas, check_first_layer
from .layer_ticks import LayerTicks
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from .style import words as group_words

COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, "#000000")


def word_lines(
    table: pa.Table,
    group: str | None = None,
    *,
    words: Sequence[str] | None = None,
    most: int = 7,
    title: str | None = None,
    first_layer: int = 0,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Of a token lens: the share of a group's tokens, over all samples, that say each word, layer by layer.

    `group`: None where the table has one. `words`: those to draw, by their text; None: the `most` (1 .. 7) that are
    counted most over all layers. Words that `avflow.token_lens` did not keep in a layer count as none there.

    Raises:
        InputError: another table, a group or word that it does not have, or more words than can be told apart.
    """
    check_first_layer(first_layer)
    most = checks.integer("most =", most, low=1, high=len(COLORS))
    table = table_with(table, ("prompt", "group", "layer", "token", "count", "tokens"), "avflow.token_lens")
    there = pc.unique(table["group"]).to_pylist()
    if group is None and len(there) == 1:
        group = there[0]
    if group is None or group not in there:
        known = ", ".join(there) or "no rows"
        raise InputError(f"group {checks.shown(group)}: the table has {known}; name one of them")
    layers, drawn = word_shares(table, group, words, most)
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (5.4, 3.0))
        for (word, shares), color in zip(drawn.items(), COLORS, strict=False):
            marker = "o" if len(layers) == 1 else None
            # A dollar sign would begin a formula.
            ax.plot(
                np.array(layers) + first_layer, shares, color=color, marker=marker, label=repr(word).replace("$", r"\$")
            )
        ax.set_ylim(bottom=0)
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(LayerTicks(first_layer))
        ax.set_xlabel("Layer")
        ax.set_ylabel(f"Share of {group} tokens")
        ax.set_title(heading(title, "Words by the lens", len(pc.unique(table["prompt"]))), loc="left")
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handlelength=2.0)
    return Drawn(figure, ax)


def word_shares(
    table: pa.Table, group: str, words: Sequence[str] | None = None, most: int = 7
) -> tuple[list[int], dict[str, list[float]]]:
    """Layers, and of each word the share of a group's tokens that say it, [layers]. As of `word_lines`.

    Raises:
        InputError: a word that the table does not have, or more words than can be told apart.
    """
    table = table.filter(pc.equal(table["group"], group))
    layers = np.unique(table["layer"].to_numpy()).tolist()
    counted = table.group_by(["token", "layer"]).aggregate([("count", "sum")]).to_pylist()
    total: dict[str, int] = {}
    for row in counted:
        total[row["token"]] = total.get(row["token"], 0) + row["count_sum"]
    ranked = sorted(total, key=lambda word: (-total[word], word))
    drawn = ranked[:most] if words is None else checks.texts("words", words)
    if absent := [word for word in drawn if word not in total]:
        raise InputError(f"the table has no rows of the word {absent[0]!r}: ask for it by words= of avflow.token_lens")
    if len(drawn) > len(COLORS):
        raise InputError(f"{len(drawn)} words are to be drawn, {len(COLORS)} are the most that can be told apart")
    # A prompt's tokens stand in each of its rows: once per prompt and layer.
    sizes = table.group_by(["prompt", "layer"]).aggregate([("tokens", "max")]).group_by("layer")
    tokens = {r["layer"]: r["tokens_max_sum"] for r in sizes.aggregate([("tokens_max", "sum")]).to_pylist()}
    height = {(r["token"], r["layer"]): r["count_sum"] for r in counted}
    return layers, {word: [height.get((word, layer), 0) / tokens[layer] for layer in layers] for word in drawn}


_SHIFTS = {
    "shifted": "Shifted tokens (%)",
    "marginal": "Marginal tokens (%)",
    "unshifted": "Unshifted tokens (%)",
    "kl": "KL to the other model (nats)",
}


def shift_lines(
    table: pa.Table,
    value: str = "shifted",
    *,
    title: str | None = None,
    first_layer: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Of a lens shift: how far every group's words are from the other model's, layer by layer, with bands.

    `value`: "shifted", "marginal" or "unshifted" (see `avflow.lens_shift`), shares of the tokens in percent; "kl", in
    nats. Every sample counts once, by its mean over the group's tokens; a band is over samples, and there is none for
    one.

    Raises:
        InputError: another table, one without rows, or a value out of range.
    """
    check_first_layer(first_layer)
    checks.choice("value", value, _SHIFTS)
    table = table_with(table, ("prompt", "group", "layer", value), "avflow.lens_shift")
    if not table.num_rows:
        raise InputError("nothing to draw: the table has no rows")
    scale = 1 if value == "kl" else 100
    with mpl.rc_context(STYLE):
        figure, ax = canvas(ax, (5.4, 3.0))
        for group in pc.unique(table["group"]).to_pylist():
            own = table.filter(pc.equal(table["group"], group))
            layers, mean, low, high = (np.asarray(v) for v in shift_means(own, value, confidence, seed))
            color, hatch = GROUP_STYLE.get(group, (GREY, ""))
            at = layers + first_layer
            ax.fill_between(at, scale * low, scale * high, color=color, alpha=0.13, linewidth=0)
            look = dict(color=color, linestyle=(0, (4, 1.5)) if hatch else "-", marker="o" if len(at) == 1 else None)
            ax.plot(at, scale * mean, label=group_words(group), **look)
        ax.set_ylim(0, None if value == "kl" else 102)
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(LayerTicks(first_layer))
        ax.set_xlabel("Layer")
        ax.set_ylabel(_SHIFTS[value])
        ax.set_title(heading(title, "Shift of the lens", len(pc.unique(table["prompt"]))), loc="left")
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handlelength=2.0)
    return Drawn(figure, ax)


def shift_means(table: pa.Table, value: str, confidence: float = 0.95, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Layers, and there mean, low and high over prompts (NaN for a lone one), each [layers]."""
    prompts = table["prompt"].combine_chunks().dictionary_encode().indices.to_numpy()
    layers, column = np.unique(table["layer"].to_numpy(), return_inverse=True)
    values = np.full((prompts.max() + 1, len(layers)), np.nan)  # [prompts, layers]
    values[prompts, column] = table[value].to_numpy()
    mean, low, high, _ = bootstrap(values, confidence, 1000, seed)
    return layers, mean, low, high
