"""What a run of `avflow look patch` holds, for the page: points of probability per site and layer."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..plots.style import distinct_styles
from ..results.change import average_change, significance
from ..results.table import as_sweep, paths_of
from ..runs.records import videos_of
from .flow import line_of


def patch_data(table: pa.Table, direction: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for all samples (task ""), then one per task where there are several.

    Each: task, samples, source, direction, panels: [{title, lines: [{path, label, color, dashes, points}]}] as of
    `flow_data`. A point is [layer, difference, low, high, samples, p] in points of probability (100 times the
    difference), with BCa's interval: a percentage of a probability next to nothing says little. p is corrected for all
    sites and layers, of the tasks' entries for all tasks too.

    Args:
        direction: "noise" or "denoise", as of `avflow.patch`. records: of the run; samples on one file are drawn
            together.
    """
    source = table["source"][0].as_py()
    table = as_sweep(table.filter(pc.is_valid(table["p_patched"])))
    tasks = [task for task in pc.unique(table["task"]).to_pylist() if task]
    cluster = videos_of(records, pc.unique(table["prompt"]).to_pylist())
    out = []
    for task in ["", *(tasks if len(tasks) > 1 else [])]:
        rows = table if not task else table.filter(pc.equal(table["task"], task))
        if not rows.num_rows:
            continue
        tested = significance(table, center="difference", by_task=bool(task), cluster=cluster).to_pylist()
        p = {(row["knockout"], row["layer"]): row["p"] for row in tested if row["task"] == task}
        points: dict[str, list[list]] = {}
        for row in average_change(rows, center="difference", interval="bca", cluster=cluster).to_pylist():
            point = [row["layer"], row["change"], row["low"], row["high"], row["samples"]]
            points.setdefault(row["knockout"], []).append([*point, p[row["knockout"], row["layer"]]])
        sites = paths_of(rows)
        lines = [line_of(site, style, points[site]) for site, style in zip(sites, distinct_styles(sites), strict=True)]
        entry = {"task": task, "samples": len(pc.unique(rows["prompt"])), "source": source, "direction": direction}
        out.append({**entry, "panels": [{"title": "", "lines": lines}]})
    return out
