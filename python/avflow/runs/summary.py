"""What summary.json says of a run: counts, failures, and of a sweep the strongest change of every path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..experiments.cheaper import check_summary
from ..results.change import mean_change
from ..results.table import as_sweep, one_width, paths_of, widths_of
from .records import STATUSES


def worst_check(records: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of what the records say of clean runs beside the model's own forward (`models.proof.figures`), the nearest to its
    bound, with the kinds and numbers of all of them; None where none says anything."""
    found = [r["check"] for r in records if r.get("check")]
    if not found:
        return None
    worst = max(found, key=lambda check: check["difference"] / max(check["bound"], 1e-30))
    kinds = max(check.get("kinds", 1) for check in found)  # of one process
    return {**worst, "kinds": kinds, "compared": sum(check.get("compared", 1) for check in found)}


def summarize(table: pa.Table, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json says of the rows and of all records of a folder, as JSON-like values.

    Of a sweep and of patching: counts of samples by status, and per path or site the layer of the strongest mean change
    (percent).
    """
    records = list(records)
    failed = {r["id"]: r["reason"] for r in records if r["status"] == "failed"}
    if "change_percent" not in table.column_names:
        return {"samples": len(records), "rows": table.num_rows, "failed": failed, "check": worst_check(records)}
    counts = {status: sum(r["status"] == status for r in records) for status in STATUSES}
    strongest: dict[str, Any] = {}
    table = as_sweep(table)
    widths = widths_of(table)
    for width, path in ((w, p) for w in widths for p in paths_of(table)):
        means = mean_change(one_width(table, width), resamples=1)
        rows = means.filter(pc.equal(means["knockout"], path)).to_pylist()
        path = path if len(widths) == 1 else f"{path} (window {width})"
        if rows:
            row = max(rows, key=lambda r: abs(r["mean"]))
            strongest[path] = {"layer": row["layer"], "mean_change_percent": row["mean"], "samples": row["samples"]}
        else:
            strongest[path] = None  # no sample has the tokens for it
    estimated = check_summary(one for r in records if r["status"] == "ok" for one in r.get("media_check") or ())
    return {
        "samples": counts,
        "failed": failed,
        "correct": sum(r.get("correct") is True for r in records),
        "rows": table.num_rows,
        "check": worst_check(records),
        "kernels": sorted(k for k in pc.unique(table["kernel"]).to_pylist() if k),
        "seconds": sum(r.get("seconds") or 0.0 for r in records),
        "paths": strongest,
        **({} if estimated is None else {"media_check": estimated}),
    }
