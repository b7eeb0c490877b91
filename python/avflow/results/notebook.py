"""What a notebook shows of results: what they are, how many, and of a sweep the paths that matter most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from .change import average_change
from .default_center import SMALL, highest_p
from .table import widths_of

MOST_PATHS, MOST_ROWS, MOST_COLUMNS, LONGEST = 8, 5, 12, 60  # of a table; characters of a cell
_MINUS = "−"


def as_html(experiment: str, table: pa.Table, finished: bool = True) -> str:
    """A small HTML table with a line above it; everything that comes from the data is escaped."""
    try:
        shown = _strongest(table) if experiment == "sweep" and table.num_rows else None
    except InputError:  # rows that have no average, such as two runs in one table: they are shown as they are
        shown = None
    return f"<div><p><b>{escape(_headline(experiment, table, finished))}</b></p>{shown or _first_rows(table)}</div>"


def _headline(experiment: str, table: pa.Table, finished: bool) -> str:
    parts = [
        f"{_count(table, column)} {word}{'s' if _count(table, column) != 1 else ''}"
        for column, word in (("prompt", "sample"), ("task", "task"), ("knockout", "path"), ("layer", "layer"))
        if column in table.column_names and _count(table, column)
    ]
    rows = f"{table.num_rows:,} row{'s' if table.num_rows != 1 else ''}"
    return f"avflow.{experiment}: {', '.join([*parts, rows])}{'' if finished else ', not finished'}"


def _count(table: pa.Table, column: str) -> int:
    return len(pc.unique(table[column].drop_null()))


def _strongest(table: pa.Table) -> str:
    """Every path at its strongest layer, the strongest first."""
    widths = widths_of(table)
    widest = table.filter(pc.equal(table["window"], max(widths)))
    found = average_change(widest, center="difference", interval="percentile", resamples=500)
    if not found.num_rows:
        return "<p>No row has a value: see the column status.</p>"
    best: dict[str, dict[str, Any]] = {}
    for cell in found.to_pylist():
        if cell["knockout"] not in best or abs(cell["change"]) > abs(best[cell["knockout"]]["change"]):
            best[cell["knockout"]] = cell
    ranked = sorted(best.values(), key=lambda cell: -abs(cell["change"]))
    lines = [
        [cell["knockout"].replace("->", "→"), cell["layer"], _points(cell["change"]), _ends(cell), cell["samples"]]
        for cell in ranked[:MOST_PATHS]
    ]
    head = ["Path", "Strongest layer", "Answer's probability, points", "95 % interval", "Samples"]
    more = len(ranked) - MOST_PATHS
    notes = [f"{more} weaker path{'s' if more > 1 else ''} not shown"] if more > 0 else []
    notes.append(f"windows of {max(widths)} layers{'' if len(widths) == 1 else ', the widest'}")
    right = table["correct"].combine_chunks()
    if pc.any(pc.invert(right)).as_py():
        notes.append("with samples that are answered wrong")
    if highest_p(widest) < SMALL:
        notes.append("no sample's answer had a clean probability of 1 %, so none can lose a point")
    return _table(head, lines) + f"<p><small>{escape('; '.join(notes))}.</small></p>"


def _points(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", _MINUS)


def _ends(cell: dict[str, Any]) -> str:
    return "" if cell["low"] is None else f"[{_points(cell['low'])}, {_points(cell['high'])}]"


def _first_rows(table: pa.Table) -> str:
    names = table.column_names[:MOST_COLUMNS]
    rows = table.slice(0, MOST_ROWS).select(names).to_pylist()
    left = [f"{table.num_rows - MOST_ROWS:,} more rows"] if table.num_rows > MOST_ROWS else []
    left += [f"columns {', '.join(table.column_names[MOST_COLUMNS:])}"] if len(table.column_names) > len(names) else []
    note = f"<p><small>{escape('; '.join(left))}</small></p>" if left else ""
    return _table(names, ([_cell(row[name]) for name in names] for row in rows)) + note


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _table(head: Sequence[Any], lines: Iterable[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(cells, "td") for cells in lines)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
