"""Several runs side by side (models, sizes, tasks), from their rows alone: a table, figures, one page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import checks
from ..deprecated import renamed_keyword
from ..errors import InputError
from ..files import make_folder, readable, write_whole, writing
from ..plots import information_flow as plots
from ..plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, path_label
from ..results.change import AXES, Center, average_change, difference, significance, target_of
from ..results.default_center import checked_center, default_center, default_interval
from ..results.export import csv_text
from ..results.results import read
from ..results.table import paths_of
from ..results.table import select as select_rows
from ..results.tasks import PerSample, between_tasks
from ..runs.records import read_records, videos_of
from .html import comparison_page
from .names import folder_names, several

LEAST_SPAN = 5.0  # points that the axis of a comparison spans at least
_COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)
_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))


@dataclass
class ComparedRun:
    """A run in a comparison. table: its rows. records: of its samples."""

    name: str
    model: str
    table: pa.Table
    records: list[dict[str, Any]]
    finished: bool

    @property
    def clusters(self) -> dict[str, str]:
        """Of its prompts, as `runs.records.videos_of` gives them."""
        return videos_of(self.records, pc.unique(self.table["prompt"]).to_pylist())

    @property
    def last_layer(self) -> int:
        return pc.max(self.table["layer"]).as_py() or 0


@renamed_keyword("which", "select")
def read_runs(folders: Sequence[str | Path], select: str = "all") -> list[ComparedRun]:
    """The runs, each under the shortest name that tells it from the others. select: correct, wrong or all samples.

    Raises:
        InputError: a run that cannot be read, or is given twice.
    """
    runs = []
    for folder, name in zip(folders, folder_names(folders), strict=True):
        results = read(folder)
        own = ", own answer" if target_of(results.table) == "own" else ""
        model = str((results.meta.get("config") or {}).get("model", ""))
        table = select_rows(results.table, select)
        runs.append(
            ComparedRun(
                f"{name}{own}", Path(model).name or model, table, read_records(folder), results.meta["finished"]
            )
        )
    return runs


def comparison_rows(runs: Sequence[ComparedRun], center: Center = "mean") -> list[dict[str, Any]]:
    """One row per run, task ("all" first) and path: how many samples, how many right, where the path is strongest.

    accuracy: share of the samples asked for that the clean model answers right, or None where that is not recorded;
    of one task, of those that were swept. change_percent: mean over samples, at `layer`, with its 95 % interval low to
    high (another `center`: that average; "difference": change_points), and p, corrected for all paths and layers of
    that run and task. depth: layer / last layer.
    """
    out, name = [], "change_points" if center == "difference" else "change_percent"
    for run in runs:
        cluster = run.clusters
        tasks = sorted({t for t in pc.unique(run.table["task"]).to_pylist() if t})
        for task in ["all", *(tasks if len(tasks) > 1 else [])]:
            table = run.table if task == "all" else run.table.filter(pc.equal(run.table["task"], task))
            how: dict[str, Any] = {"center": center, "cluster": cluster}
            means = average_change(table, interval=default_interval(center), **how)
            p = {(r["knockout"], r["layer"]): r["p"] for r in significance(table, **how).to_pylist()}
            samples, accuracy = _accuracy(run, table, task)
            for path in paths_of(table):
                rows = means.filter(pc.equal(means["knockout"], path)).to_pylist()
                top = max(rows, key=lambda r: abs(r["change"])) if rows else None
                out.append(
                    {
                        "run": run.name,
                        "model": run.model,
                        "task": task,
                        "samples": samples,
                        "accuracy": accuracy,
                        "path": path,
                        "layer": top and top["layer"],
                        "depth": top and round(top["layer"] / max(1, run.last_layer), 3),
                        name: top and round(top["change"], 4),
                        "low": _rounded(top and top["low"]),
                        "high": _rounded(top and top["high"]),
                        "p": _rounded(top and p[path, top["layer"]]),
                    }
                )
    return out


def difference_rows(runs: Sequence[ComparedRun], center: PerSample = "mean") -> list[dict[str, Any]]:
    """One row per two runs and path that both have: where they differ most, sample by sample, and how sure that is.

    Only of runs with samples in common. difference: of the first less the second, in percentage points, at `layer` of
    the first, and of the same relative depth in the second, with a band that holds all layers and paths at once; p,
    corrected for them. center: "mean", of the percentages, or "difference", in points of probability.
    """
    out = []
    for a, b in itertools.combinations(runs, 2):
        try:
            found = difference(a.table, b.table, center=center, depth=a.last_layer != b.last_layer, cluster=a.clusters)
        except InputError:  # nothing in common
            continue
        for path in paths_of(found):
            rows = found.filter(pc.equal(found["knockout"], path)).to_pylist()
            top = min(rows, key=lambda r: (1.0 if r["p"] is None else r["p"], -abs(r["difference"])))
            numbers = ("change_a", "change_b", "difference", "low", "high", "p")
            row = {"run": a.name, "other": b.name, "path": path, "layer": top["layer"], "samples": top["samples"]}
            out.append(row | {name: _rounded(top[name]) for name in numbers})
    return out


def task_rows(runs: Sequence[ComparedRun], center: PerSample = "mean") -> list[dict[str, Any]]:
    """One row per run, two of its tasks and path: where the two differ most, and how sure that is (`between_tasks`).

    None of runs with one task.
    """
    out = []
    for run in runs:
        if len([task for task in pc.unique(run.table["task"]).to_pylist() if task]) < 2:
            continue
        strongest: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row in between_tasks(run.table, center=center, cluster=run.clusters).to_pylist():
            key = (row["task"], row["other"], row["knockout"])
            order = (1.0 if row["p"] is None else row["p"], -abs(row["difference"]))
            if key not in strongest or order < strongest[key]["order"]:
                strongest[key] = {**row, "order": order}
        numbers = ("change", "change_other", "difference", "low", "high", "p")
        for (task, other, path), row in strongest.items():
            named = {"run": run.name, "task": task, "other": other, "path": path, "layer": row["layer"]}
            counts = {"samples": row["samples"], "samples_other": row["samples_other"]}
            out.append({**named, **counts, **{name: _rounded(row[name]) for name in numbers}})
    return out


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _accuracy(run: ComparedRun, table: pa.Table, task: str) -> tuple[int, float | None]:
    ids = set(pc.unique(table["prompt"]).to_pylist())
    known = [r["correct"] for r in run.records if r.get("correct") is not None and (task == "all" or r["id"] in ids)]
    return len(ids), round(sum(known) / len(known), 4) if known else None


def compare_path(
    runs: Sequence[ComparedRun],
    path: str,
    *,
    relative: bool = True,
    confidence: float = 0.95,
    center: Center | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """One path in several runs: average change over the layer, a line and a band per run.

    center: as of `avflow.plots.flow`, one for all runs.

    relative: the layer as a share of the run's last layer, so that models of several depths fit one axis. The other
    axis spans at least 5 points.
    """
    center = center or default_center(*(run.table for run in runs))
    with mpl.rc_context(plots.STYLE):
        if ax is None:
            figure = Figure(figsize=(6.0, 3.1), layout="constrained")
            ax = figure.subplots()
        ax.axhline(0, color="#444444", linewidth=0.8, zorder=1)
        for number, run in enumerate(runs):
            rows = run.table.filter(pc.equal(run.table["knockout"], path))
            how: dict[str, Any] = {"center": center, "interval": default_interval(center), "cluster": run.clusters}
            means = average_change(rows, confidence=confidence, **how).sort_by("layer")
            if not means.num_rows:
                continue
            x = means["layer"].to_numpy() / (max(1, run.last_layer) if relative else 1)
            low, high = (pc.cast(means[name], pa.float64()).to_numpy() for name in ("low", "high"))
            style: dict[str, Any] = {
                "color": _COLORS[number % len(_COLORS)],
                "linestyle": _DASHES[number // len(_COLORS) % len(_DASHES)],
            }
            ax.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0, zorder=2)
            marker = "o" if len(x) == 1 else None
            label = f"{run.name} ({np.max(means['samples'].to_numpy())})"
            ax.plot(x, means["change"].to_numpy(), label=label, linewidth=1.6, marker=marker, zorder=3, **style)
        low, high = ax.get_ylim()
        if (short := LEAST_SPAN - (high - low)) > 0:  # noise looks like noise
            ax.set_ylim(low - short / 2, high + short / 2)
        ax.set_title(path_label(path), loc="left")
        ax.set_xlabel("Layer / last layer (window centre)" if relative else "Layer (window centre)")
        ax.set_ylabel(AXES[center])
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, title="run (samples)")
    return cast(Figure, ax.figure), ax


@renamed_keyword("which", "select")
def compare(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    select: str = "all",
    title: str = "Runs",
    center: Center | None = None,
) -> list[Path]:
    """Write comparison.csv, differences.csv (where runs have samples in common), tasks.csv (where a run has several
    tasks), comparison.html and a figure per path (PNG and PDF) into `out`; returns the files made.

    center: as of `report.write.report`. Two runs are compared sample by sample, and tasks by their samples: in points
    where the average is of probabilities themselves ("ratio_of_means", "log_ratio").

    Raises:
        InputError: fewer than two runs, one that cannot be read, or no path with a value in any.
    """
    if len(several(folders)) < 2:
        raise InputError("give two or more run folders to compare: one has a page by avflow report")
    runs, out = read_runs(folders, select), checks.path("out", out)
    valued = [run.table.filter(pc.is_valid(run.table["change_percent"])) for run in runs]
    paths = list(dict.fromkeys(path for table in valued for path in paths_of(table)))
    if not paths:
        raise InputError("nothing to compare: no row of these runs has a value")
    relative = len({run.last_layer for run in runs}) > 1
    make_folder(out)
    center = checked_center(center) or default_center(*(run.table for run in runs))
    single: PerSample = "mean" if center == "mean" else "difference"
    rows = comparison_rows(runs, center)
    write_whole(out / "comparison.csv", csv_text(list(rows[0]), (list(row.values()) for row in rows)).encode())
    made, figures, unlike = [out / "comparison.csv"], [], difference_rows(runs, single)
    if unlike:
        text = csv_text(list(unlike[0]), (list(row.values()) for row in unlike))
        write_whole(out / "differences.csv", text.encode())
        made.append(out / "differences.csv")
    if apart := task_rows(runs, single):
        text = csv_text(list(apart[0]), (list(row.values()) for row in apart))
        write_whole(out / "tasks.csv", text.encode())
        made.append(out / "tasks.csv")
    with writing(out / "figures"):
        for number, path in enumerate(paths):
            figure, _ = compare_path(runs, path, relative=relative, center=center)
            files = plots.save(figure, out / "figures" / f"compare_{number:02d}")
            made += files
            figures.append((path, files[0]))
    unfinished = [run.name for run in runs if not run.finished]
    write_whole(
        out / "comparison.html", readable(comparison_page(title, rows, unlike, figures, unfinished, single)).encode()
    )
    return [*made, out / "comparison.html"]
