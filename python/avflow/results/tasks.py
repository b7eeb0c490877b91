"""Where a sweep's tasks differ: samples of one against other samples of another, which nothing pairs."""

from __future__ import annotations

import itertools
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import checks
from ..errors import InputError
from ..statistics import intervals
from ..statistics.ratios import Ratios
from ..statistics.two_groups import differences
from .change import Cells, Clusters
from .table import one_width
from .table import select as select_rows

EXCHANGES = 1000
PerSample = Literal["mean", "difference"]  # averages of what every sample says by itself


def between_tasks(
    table: Any,
    *,
    select: str = "all",
    center: PerSample = "mean",
    cluster: Clusters | None = None,
    confidence: float = 0.95,
    exchanges: int = EXCHANGES,
    seed: int = 0,
) -> pa.Table:
    """Of every two tasks of a sweep, path and layer: how much their mean changes differ, and how sure that is.

    Columns: task, other, knockout, layer, change, change_other (means, percent), difference (percentage points), low,
    high (Welch's interval, of each cell by itself), p, samples, samples_other. p is corrected for all paths and layers
    (which sample is of which task is exchanged, and the largest t kept: `avflow.statistics.two_groups`) and for the
    number of pairs of tasks (Bonferroni); null where a task has fewer than six samples (clusters).

    Args:
        table: `Results` of a sweep, or their table, with windows of one width. select: as of `average_change`.
        center: "mean", of the percentages; "difference", all of it in points of probability.
        cluster: as of `average_change`; a cluster counts once a task, by its mean, and is taken for another in each.
        exchanges: partings that are drawn: p is no smaller than one over them.

    Raises:
        InputError: fewer than two tasks, two runs' rows in one table, a value out of range.
    """
    intervals.check(confidence, seed=seed)
    exchanges = checks.integer("exchanges", exchanges, low=20, mend="pass at least 20 (1000 is usual)")
    table = one_width(select_rows(table, select))
    tasks = [task for task in pc.unique(table["task"]).to_pylist() if task]
    if len(tasks) < 2:
        raise InputError(f"the table has the tasks {tasks}: their difference takes two or more")
    pairs = list(itertools.combinations(tasks, 2))
    checks.choice("center", center, get_args(PerSample))
    found = Cells.of(table, ["change_percent", "p_clean", "p_knockout"])
    changes = found.columns["change_percent"]
    if center == "difference":
        changes = 100 * (found.columns["p_knockout"] - found.columns["p_clean"])
    of = dict(zip(table["prompt"].to_pylist(), table["task"].to_pylist(), strict=True))
    labels = found.labels(cluster)
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        sides, samples = [], []
        for task in pair:
            at = [n for n, prompt in enumerate(found.prompts) if of[prompt] == task]
            values = changes[at]
            sides.append(Ratios.of_means(values, None if labels is None else [labels[n] for n in at]))
            samples.append((~np.isnan(values)).sum(0))
        far, low, high, p = differences(sides[0], sides[1], confidence, exchanges, seed)
        for n in np.flatnonzero((samples[0] > 0) & (samples[1] > 0)):
            knockout, layer = found.cells[n]
            numbers = {"difference": far[n], "low": low[n], "high": high[n], "p": np.minimum(1.0, p[n] * len(pairs))}
            rows.append(
                {
                    "task": pair[0],
                    "other": pair[1],
                    "knockout": knockout,
                    "layer": layer,
                    "change": float(sides[0].estimate[n]),
                    "change_other": float(sides[1].estimate[n]),
                    **{name: None if np.isnan(value) else float(value) for name, value in numbers.items()},
                    "samples": int(samples[0][n]),
                    "samples_other": int(samples[1][n]),
                }
            )
    return pa.Table.from_pylist(rows, SCHEMA)


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "other", "knockout")),
        ("layer", pa.int32()),
        *((name, pa.float64()) for name in ("change", "change_other", "difference", "low", "high", "p")),
        ("samples", pa.int32()),
        ("samples_other", pa.int32()),
    ]
)
