"""Figures and report.html of a run folder, made from its rows alone."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from . import plots
from .files import write_whole, writing
from .path_style import panel_of, path_label
from .results import paths_of, read, select
from .runs import file_name, read_records, summarize

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2.5em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { text-align: left; padding: .2em 1.2em .2em 0 }
th { border-bottom: 1px solid #999 } td { border-bottom: 1px solid #e5e5e5; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; margin: .6em 0 1.6em }
"""


def report(
    folder: str | Path, *, which: str = "all", first_layer: int = 0, title: str = "Information flow", note: str = ""
) -> list[Path]:
    """Draw a run folder's figures (PNG and PDF) and write report.html; returns the files made.

    One flow figure over all samples, one per task where there are several, and the heat map. A run without a value to
    draw gets a report that says so. `note`: a sentence for the head of the report.
    """
    folder = Path(folder)
    results = read(folder)
    table = select(results.table, which)
    made: list[Path] = []
    shown: list[tuple[str, Path]] = []
    if pc.any(pc.is_valid(table["change_percent"])).as_py():
        drawn = {"flow": _flow(table, title, first_layer)}
        for task in _tasks(table):
            drawn[f"flow_{file_name(task)}"] = _flow(table.filter(pc.equal(table["task"], task)), task, first_layer)
        drawn["heat_map"] = plots.heat_map(table, title=title, first_layer=first_layer)[0]
        with writing(folder / "figures"):
            for stem, figure in drawn.items():
                files = plots.save(figure, folder / "figures" / stem)
                made += files
                shown.append((stem, files[0]))
    page = _page(folder, table, results.meta, shown, title, note)
    write_whole(folder / "report.html", page.encode())
    return [*made, folder / "report.html"]


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


def _page(folder: Path, table: pa.Table, meta: dict, figures: list[tuple[str, Path]], title: str, note: str) -> str:
    records = read_records(folder)
    summary = summarize(table, records)
    counts = summary["samples"] if records else {}
    parts = [f"<h1>{escape(title)}</h1>"]
    if note:
        parts.append(f"<p><strong>{escape(note)}</strong></p>")
    if not meta.get("finished"):
        parts.append(
            "<p><strong>This run is not finished: the numbers are those of the samples done so far.</strong></p>"
        )
    told = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts.items())
    parts.append(f"<p>{escape(told or str(len(pc.unique(table['prompt']))) + ' samples')}; {table.num_rows} rows.</p>")
    if not figures:
        parts.append("<p>No row has a value, so there is nothing to draw.</p>")
    parts += [html_figure(stem, path) for stem, path in figures]
    strongest = [
        [
            escape(path_label(path)),
            _number(found and found["mean_change_percent"], "+.2f"),
            _number(found and found["layer"]),
        ]
        for path, found in summary["paths"].items()
    ]
    if strongest:
        parts.append("<h2>Strongest mean change of every path</h2>")
        parts.append(html_table(["path", "change (%)", "layer"], strongest))
    if failed := summary["failed"]:
        rows = [[escape(name), escape(reason)] for name, reason in failed.items()]
        parts.append(f"<h2>{len(failed)} samples failed</h2>" + html_table(["sample", "reason"], rows))
    if config := meta.get("config"):
        rows = [[escape(str(key)), escape(_text(value))] for key, value in config.items()]
        parts.append("<h2>Configuration</h2>" + html_table(["key", "value"], rows))
    return html_page(title, parts)


def html_page(title: str, parts: list[str]) -> str:
    """A whole page of these pieces of HTML."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>\n<style>{_CSS}</style>'
    return "\n".join([f'<!doctype html>\n<html lang="en">{head}', *parts, "</html>\n"])


def html_figure(name: str, png: Path) -> str:
    """The picture itself, so that the page is one file."""
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}">'


def _text(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value, form: str = "") -> str:
    return "no token" if value is None else format(value, form)


def html_table(head: list[str], rows: list[list[str]]) -> str:
    """HTML of escaped cells; numbers stand right."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = "".join(f"<td{' class=number' if cell[:1] in '+-0123456789' else ''}>{cell}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"
