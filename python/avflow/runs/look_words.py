"""What a look that draws no figure found, in words: sinks, and generated text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MOST_LINES = 5


def look_words(experiment: str, table: pa.Table, looked_at: int, options: Mapping[str, Any]) -> list[str]:
    """Lines about the rows of `avflow look sinks` or `text`; none of other looks, which draw.

    looked_at: samples that were measured, also those without a row. options: of the experiment, as they were given.
    """
    if experiment == "sinks":
        return _sinks(table, looked_at, options)
    return _texts(table) if experiment == "text" else []


def _sinks(table: pa.Table, looked_at: int, options: Mapping[str, Any]) -> list[str]:
    among, times = options.get("among", "media"), options.get("times", 10.0)
    if not table.num_rows:
        return [
            f"none: in {looked_at} samples no token of {among} is {times:g} times as long as the median of its group; "
            "a smaller --times finds less distinct ones"
        ]
    samples = len(pc.unique(table["prompt"]))
    tokens = len(table.group_by(["prompt", "position"]).aggregate([]))
    low, high = (f(table["layer"]).as_py() for f in (pc.min, pc.max))
    layers = f"layer {low}" if low == high else f"layers {low} to {high}"
    lines = [f"{tokens} tokens in {samples} of {looked_at} samples, in {layers}"]
    counted = table.group_by(["group", "layer"]).aggregate([("position", "count"), ("drawn", "mean")]).to_pylist()
    counted.sort(key=lambda row: (-row["position_count"], row["group"], row["layer"]))
    lines += [
        f"{row['group']} in layer {row['layer']}: {row['position_count']}, which draw {100 * row['drawn_mean']:.1f} % "
        "of the last token's attention each"
        for row in counted[:MOST_LINES]
    ]
    return lines


def _texts(table: pa.Table) -> list[str]:
    valued = table.filter(pc.is_valid(table["changed"]))
    if not valued.num_rows:
        return ["nothing was cut: the samples have no token of the paths' groups"]
    changed = pc.sum(pc.cast(valued["changed"], pa.int64())).as_py()
    lines = [f"{changed} of {valued.num_rows} answers are worded differently with a path cut"]
    cells = valued.group_by(["knockout", "layer"]).aggregate([("changed", "sum"), ("changed", "count")]).to_pylist()
    most: dict[str, dict[str, Any]] = {}
    for cell in sorted(cells, key=lambda cell: (-cell["changed_sum"] / cell["changed_count"], cell["layer"])):
        most.setdefault(cell["knockout"], cell)
    lines += [
        f"{name}: most around layer {cell['layer']}, {cell['changed_sum']} of {cell['changed_count']}"
        for name, cell in list(most.items())[:MOST_LINES]
        if cell["changed_sum"]
    ]
    return lines
