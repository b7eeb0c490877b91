"""report.html of run folders, and the figures of a sweep's, from their rows alone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..files import make_folder, write_whole, writing
from ..plots import information_flow as plots
from ..plots.style import panel_of
from ..results.results import read
from ..results.table import one_width, paths_of, select, widths_of
from ..runs.folder import file_name
from .collect import collect
from .html import html_table, page

__all__ = ["html_figure", "html_page", "html_table", "report", "report_together"]

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2.5em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { text-align: left; padding: .2em 1.2em .2em 0 }
th { border-bottom: 1px solid #999 } td { border-bottom: 1px solid #e5e5e5; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; margin: .6em 0 1.6em }
"""


def report(
    folder: str | Path, *, which: str = "all", first_layer: int = 0, title: str = "Information flow", note: str = ""
) -> list[Path]:
    """Draw a sweep's figures (PNG and PDF) into its run folder and write report.html; returns the files made.

    One flow figure over all samples, one per task where there are several, and the heat map. A run without a value to
    draw gets a report that says so. `note`: a sentence for the head of the report.
    """
    folder = Path(folder)
    plots.check_first_layer(first_layer)
    table = select(read(folder).table, which)
    made: list[Path] = []
    if pc.any(pc.is_valid(table["change_percent"])).as_py():
        drawn, widths = {}, widths_of(table)
        for width in widths:
            drawn |= _drawn(one_width(table, width), title, first_layer, f"_{width}" if len(widths) > 1 else "")
        with writing(folder / "figures"):
            for stem, figure in drawn.items():
                made += plots.save(figure, folder / "figures" / stem)
    return [*made, report_together([folder], folder, which=which, first_layer=first_layer, title=title, note=note)]


def report_together(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    which: str = "all",
    first_layer: int = 0,
    title: str = "Information flow",
    note: str = "",
) -> Path:
    """Write `out`/report.html, one page of run folders of any kind: sweeps, looks (share, lens), a plan, shown samples.

    Raises:
        InputError: see page.collect; first_layer that is neither 0 nor 1.
    """
    plots.check_first_layer(first_layer)
    found = collect(folders, which)
    make_folder(Path(out))
    path = Path(out) / "report.html"
    write_whole(path, page(found, title, note, first_layer).encode())
    return path


def _drawn(table: pa.Table, title: str, first_layer: int, end: str) -> dict[str, plots.Figure]:
    """The figures of windows of one width. end: of their names, where there are several widths."""
    drawn = {f"flow{end}": _flow(table, title, first_layer)}
    for task in _tasks(table):
        own = table.filter(pc.equal(table["task"], task))
        drawn[f"flow_{file_name(task)}{end}"] = _flow(own, task, first_layer)
    return drawn | {f"heat_map{end}": plots.heat_map(table, title=title, first_layer=first_layer)[0]}


def _flow(table: pa.Table, title: str, first_layer: int) -> plots.Figure:
    """One axes for a few paths; panels where more would hide each other."""
    valued = table.filter(pc.is_valid(table["change_percent"]))
    paths = paths_of(valued)
    many = len(paths) > 8 and len({panel_of(path) for path in paths}) > 1
    return (plots.flow_panels if many else plots.flow)(table, title=title, first_layer=first_layer)[0]


def _tasks(table: pa.Table) -> list[str]:
    """The tasks that have a value, where there are several."""
    tasks = [t for t in pc.unique(table.filter(pc.is_valid(table["change_percent"]))["task"]).to_pylist() if t]
    return tasks if len(tasks) > 1 else []


def html_page(title: str, parts: list[str]) -> str:
    """A whole page of these pieces of HTML."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>\n<style>{_CSS}</style>'
    return "\n".join([f'<!doctype html>\n<html lang="en">{head}', *parts, "</html>\n"])


def html_figure(name: str, png: Path) -> str:
    """The picture itself, so that the page is one file."""
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}">'
