"""report.html of run folders, and the figures of a sweep's, from their rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .. import checks
from ..deprecated import renamed_keyword
from ..errors import InputError
from ..files import make_folder, readable, write_whole, writing
from ..plots import information_flow as plots
from ..plots.style import panel_of
from ..results.change import Center
from ..results.default_center import checked_center, default_center, default_interval
from ..results.results import read
from ..results.table import one_width, paths_of, widths_of
from ..results.table import select as select_rows
from ..runs.records import file_name, read_records, videos_of
from .collect import collect
from .headline import headline
from .html import page
from .words import measure_note


@renamed_keyword("which", "select")
def report(
    folder: str | Path,
    *,
    select: str = "all",
    first_layer: int = 0,
    title: str = "Information flow",
    note: str = "",
    media: bool = True,
    center: Center | None = None,
) -> list[Path]:
    """Draw a sweep's figures (PNG and PDF) into its run folder and write report.html; returns the files made.

    One flow figure over all samples, one per task where there are several, and the heat map. A run without a value to
    draw gets a report that says so. `select`: correct, wrong or all samples. `note`: a sentence for the report's head.
    `media`: pictures and waveforms of the samples of the strongest effects, from their files. `center`: the average
    of all figures and of the page, as of `avflow.results.average_change`, no median; by default the mean of the
    percentages, and the difference in points where a sample's clean probability is below 1 % and far below
    another's (`results.default_center`).
    """
    how: dict[str, Any] = {"select": select, "first_layer": first_layer, "title": title, "note": note}
    return report_and_finding(folder, **how, media=media, center=center)[0]


def report_and_finding(
    folder: str | Path,
    *,
    select: str = "all",
    first_layer: int = 0,
    title: str = "Information flow",
    note: str = "",
    media: bool = True,
    center: Center | None = None,
) -> tuple[list[Path], str]:
    """The files of `report`, and the page's first sentence, in a second line what its changes are; "" for none."""
    folder = checks.path("the run folder", folder)
    plots.check_first_layer(first_layer)
    if not isinstance(title, str):
        raise InputError(f"title is {checks.shown(title)}: give the page's heading as text")
    title = readable(title)  # which may be a folder's name
    table = select_rows(read(folder).table, select)
    center = checked_center(center) or default_center(table)
    made: list[Path] = []
    if pc.any(pc.is_valid(table["change_percent"])).as_py():
        drawn: dict[str, plots.Figure] = {}
        widths = widths_of(table)
        cluster = videos_of(read_records(folder), pc.unique(table["prompt"]).to_pylist())  # as the page draws them
        for width in widths:
            how = {"first_layer": first_layer, "center": center}
            drawn |= _drawn(one_width(table, width), title, f"_{width}" if len(widths) > 1 else "", how, cluster)
        with writing(folder / "figures"):
            for stem, figure in drawn.items():
                made += plots.save(figure, folder / "figures" / stem)
    options: dict[str, Any] = {
        "select": select,
        "first_layer": first_layer,
        "title": title,
        "note": note,
        "center": center,
    }
    path, found = _write_page([folder], folder, **options, media=media)
    return [*made, path], f"{headline(found, first_layer)}\n{measure_note(found)}".strip()


@renamed_keyword("which", "select")
def report_together(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    select: str = "all",
    first_layer: int = 0,
    title: str = "Information flow",
    note: str = "",
    media: bool = True,
    center: Center | None = None,
) -> Path:
    """Write `out`/report.html, one page of run folders of any kind.

    Sweeps, looks (share, lens, text), a plan, samples as the demo writes them.

    Args:
        select: correct, wrong or all samples of the sweeps. first_layer: the number of the first layer, 0 or 1.
        title: heading of the page. note: a sentence below it.
        media, center: as of `report`.

    Raises:
        InputError: see collect; first_layer that is neither 0 nor 1.
    """
    how: dict[str, Any] = {"select": select, "first_layer": first_layer, "title": title, "note": note}
    return _write_page(folders, out, **how, media=media, center=center)[0]


def _write_page(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    select: str,
    first_layer: int,
    title: str,
    note: str,
    media: bool,
    center: Center | None,
) -> tuple[Path, dict[str, Any]]:
    """The page's path, and what it shows, as of collect."""
    plots.check_first_layer(first_layer)
    found = collect(folders, select, media, center=checked_center(center))
    out = checks.path("out", out)
    make_folder(out)
    path = out / "report.html"
    write_whole(path, readable(page(found, title, note, first_layer)).encode())
    return path, found


def _drawn(
    table: pa.Table, title: str, end: str, how: dict[str, Any], cluster: dict[str, str]
) -> dict[str, plots.Figure]:
    """The figures of windows of one width. end: of their names, where there are several widths."""
    drawn = {f"flow{end}": _flow(table, title, how, cluster)}
    for task in _tasks(table):
        own = table.filter(pc.equal(table["task"], task))
        drawn[f"flow_{file_name(task)}{end}"] = _flow(own, task.replace("$", r"\$"), how, cluster)  # no formula
    return drawn | {f"heat_map{end}": plots.heat_map(table, title=title, **how)[0]}


def _flow(table: pa.Table, title: str, how: dict[str, Any], cluster: dict[str, str]) -> plots.Figure:
    """One axes for a few paths; panels where more would hide each other."""
    valued = table.filter(pc.is_valid(table["change_percent"]))
    paths = paths_of(valued)
    many = len(paths) > 8 and len({panel_of(path) for path in paths}) > 1
    draw = plots.flow_panels if many else plots.flow
    return draw(table, title=title, interval=default_interval(how["center"]), cluster=cluster, **how)[0]


def _tasks(table: pa.Table) -> list[str]:
    """The tasks that have a value, where there are several."""
    tasks = [t for t in pc.unique(table.filter(pc.is_valid(table["change_percent"]))["task"]).to_pylist() if t]
    return tasks if len(tasks) > 1 else []
