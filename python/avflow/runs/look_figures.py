"""The figures of a look, from its rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from ..files import writing
from ..plots import attention as plots_attention
from ..plots import attention_maps
from ..plots import information_flow as plots
from ..plots import words as plots_words
from .records import file_name, read_records, videos_of


def draw_look(out: Path, experiment: str, table: pa.Table, first_layer: int = 0) -> list[Path]:
    """The figures of a look, over all samples and for every task, as PNG and PDF under figures/; none of some looks."""
    if not table.num_rows or experiment not in _FIGURES:
        return []
    tasks = [t for t in pc.unique(table["task"]).to_pylist() if t]
    draw = _FIGURES[experiment]
    if experiment == "patch":  # samples on one file are drawn together, as on the page
        draw = partial(draw, cluster=videos_of(read_records(out), pc.unique(table["prompt"]).to_pylist()))
    parts = {"": table}
    if len(tasks) > 1:
        parts |= {f"_{task}": table.filter(pc.equal(table["task"], task)) for task in tasks}
    made: list[Path] = []
    with writing(out / "figures"):
        for suffix, part in parts.items():
            for name, figure in draw(part, first_layer).items():
                made += plots.save(figure, out / "figures" / (name + file_name(suffix)))
    return made


def _share(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    tokens = sorted(set(table["answer_token"].to_pylist()))
    made = {}
    for t in tokens:
        name = "last" if t == 0 else f"answer_{t}"
        of: Any = dict(token=t, title=_token_title(t), first_layer=first_layer)
        made[f"share_{name}"] = plots_attention.share_bars(table, **of)[0]
        if not table["head"].null_count:
            made[f"share_{name}_heads"] = attention_maps.share_heads(table, **of)[0]
    return made


def _token_title(token: int) -> str:
    return "Attention of the last token" if token == 0 else f"Attention of answer token {token}"


def _lens(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    return {"lens": plots_attention.lens_lines(table, first_layer=first_layer)[0]}


def _tokens(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    groups = pc.unique(table["group"]).to_pylist()
    return {f"tokens_{g}": plots_words.word_lines(table, g, first_layer=first_layer)[0] for g in groups}


def _shift(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    return {
        "shift": plots_words.shift_lines(table, first_layer=first_layer)[0],
        "shift_kl": plots_words.shift_lines(table, "kl", first_layer=first_layer)[0],
    }


def _pathways(table: pa.Table, first_layer: int) -> dict[str, Figure]:
    return {"pathways": plots_attention.pathway_bars(table)[0]}


def _patch(table: pa.Table, first_layer: int, cluster: dict[str, str]) -> dict[str, Figure]:
    if not pc.any(pc.is_valid(table["change_percent"])).as_py():
        return {}
    title = f"Put in: {table['source'][0].as_py()}"
    lines = plots.flow(table, title=title, first_layer=first_layer, cluster=cluster)[0]
    return {"patch": lines, "patch_map": plots.heat_map(table, title=title, first_layer=first_layer)[0]}


_FIGURES: dict[str, Callable[..., dict[str, Figure]]] = {
    "share": _share,
    "lens": _lens,
    "tokens": _tokens,
    "shift": _shift,
    "pathways": _pathways,
    "patch": _patch,
}
