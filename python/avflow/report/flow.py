"""What a sweep's run folder holds, for the page: mean change per task, path and layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..plots.style import PANELS, distinct_styles, panel_of, path_label
from ..results.change import Center, average_change, axis_of, significance, target_of
from ..results.default_center import default_center, default_interval, faint_samples, highest_p, unit_of
from ..results.table import paths_of
from ..runs.records import videos_of
from .colors import dashes, ink

LEAST = 5.0  # percent of the clean probability, or points: a smaller change is none


def flow_data(table: pa.Table, records: list[dict[str, Any]], center: Center | None = None) -> list[dict[str, Any]]:
    """One entry for all samples (task ""), then one per task where there are several.

    center: of `results.average_change`, no median; None: `results.default_center`.

    Each: center, unit ("%" or "points"), axis (in words), faint and highest_p (of `results.default_center`), task,
    samples, right and known (answers of the clean run, over the samples of the table), panels: [{title, lines: [{path,
    label, color, dashes, points}]}]. A point is [layer, mean, low, high, samples, p]: those of
    results.average_change as they are, in the unit, low and high None for a lone sample; and p of results.significance,
    corrected for all paths and layers, of the tasks' entries for all tasks too; None where it cannot be sure.

    A line that shows no effect, its intervals included, says so by `quiet`: the page draws such lines as one band.

    Where the changes are those of the model's own answer (target="own"), `own` says so.

    Samples on one file (the questions on one video) are drawn, and flipped, together.
    """
    valued = table.filter(pc.is_valid(table["change_percent"]))
    tasks = [t for t in pc.unique(valued["task"]).to_pylist() if t]
    entries = [("", valued)]
    if len(tasks) > 1:
        entries += [(task, valued.filter(pc.equal(valued["task"], task))) for task in tasks]
    cluster = videos_of(records, pc.unique(valued["prompt"]).to_pylist())
    center = center or default_center(valued)
    p = _p_values(valued, cluster, center, False) | (_p_values(valued, cluster, center, True) if tasks[1:] else {})
    return [_entry(task, rows, records, cluster, center, p) for task, rows in entries if rows.num_rows]


def _p_values(
    table: pa.Table, cluster: dict[str, str], center: Center, by_task: bool
) -> dict[tuple[str, str, int], float | None]:
    """{(task, path, layer): p}"""
    if not table.num_rows:
        return {}
    found = significance(table, center=center, by_task=by_task, cluster=cluster).to_pylist()
    return {(row["task"], row["knockout"], row["layer"]): row["p"] for row in found}


def _entry(
    task: str,
    rows: pa.Table,
    records: list[dict[str, Any]],
    cluster: dict[str, str],
    center: Center,
    p: dict[tuple[str, str, int], float | None],
) -> dict[str, Any]:
    ids = set(pc.unique(rows["prompt"]).to_pylist())
    known = [r["correct"] for r in records if r["id"] in ids and r.get("correct") is not None]
    points: dict[str, list[list]] = {}
    for row in average_change(rows, center=center, interval=default_interval(center), cluster=cluster).to_pylist():
        ends = [row["low"], row["high"]]
        if None in ends or not np.isfinite(ends).all():  # of a geometric mean an end may lie beyond all numbers
            ends = [None, None]
        point = [row["layer"], row["change"], *ends, row["samples"]]
        point.append(p[task, row["knockout"], row["layer"]])
        points.setdefault(row["knockout"], []).append(point)
    paths = [path for path in paths_of(rows) if path in points]
    panels = []
    for title in PANELS:
        members = [path for path in paths if panel_of(path) == title]
        lines = [
            line_of(path, style, points[path]) | ({"quiet": True} if quiet(points[path]) else {})
            for path, style in zip(members, distinct_styles(members), strict=True)
        ]
        if lines:
            panels.append({"title": title, "lines": lines})
    own = {"own": True} if target_of(rows) == "own" else {}
    counted = {"samples": len(ids), "right": sum(known), "known": len(known)}
    measure: dict[str, Any] = {"center": center, "unit": unit_of(center), "axis": axis_of(rows, center)}
    measure |= {"faint": faint_samples(rows), "highest_p": highest_p(rows)}
    return {"task": task, **measure, **counted, "panels": panels, **own}


def quiet(points: list[list]) -> bool:
    """Is every change of a line small, its interval included? Without one, a small change shows nothing."""
    return all(p[2] is not None and max(abs(p[1]), abs(p[2]), abs(p[3])) < LEAST for p in points)


def lines_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """All lines of an entry, panel after panel."""
    return [line for panel in entry["panels"] for line in panel["lines"]]


def line_of(path: str, style: dict[str, Any], points: list[list]) -> dict[str, Any]:
    """A path's line as the page draws it. style: of `plots.style.distinct_styles`. points: [layer, value ..]."""
    look = {"color": ink(style["color"]), "dashes": dashes(style["linestyle"])}
    return {"path": path, "label": path_label(path), **look, "points": sorted(points)}
