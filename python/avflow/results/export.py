"""Tables as other programs take them: CSV for spreadsheets, LaTeX for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import InputError
from ..files import readable, write_whole
from .change import Center, average_change, significance

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"} | {"<": r"\textless{}", ">": r"\textgreater{}"}


def csv_text(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A header and rows as CSV; no cell of it is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_inert, names))
    writer.writerows(map(_inert, row) for row in rows)
    return readable(text.getvalue())


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that begins as one has a ' before it. Numbers are as is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_csv(table: pa.Table, path: Path) -> Path:
    """Writes a table as CSV, whole or not at all; returns the path."""
    columns = [column.to_pylist() for column in table.columns]
    write_whole(path, csv_text(table.column_names, zip(*columns, strict=True)).encode())
    return path


def strongest_latex(table: pa.Table, *, select: str, center: Center, **options: Any) -> str:
    """See `Results.to_latex`."""
    changes = average_change(table, select=select, center=center, **options)
    if not changes.num_rows:
        raise InputError("no row has a value: nothing to tabulate")
    shared = {name: options[name] for name in ("cluster", "seed") if name in options}
    tested = [] if center == "median" else significance(table, select=select, center=center, **shared).to_pylist()
    p = {(row["knockout"], row["layer"]): row["p"] for row in tested}
    strongest: dict[str, dict[str, Any]] = {}
    for row in changes.to_pylist():
        if row["knockout"] not in strongest or abs(row["change"]) > abs(strongest[row["knockout"]]["change"]):
            strongest[row["knockout"]] = row
    unit = "points" if center == "difference" else r"\%"
    lines = [
        f"% center: {center}; interval: {options.get('interval', 'bootstrap-t')}, "
        f"{100 * options.get('confidence', 0.95):g} %; p corrected for all paths and layers",
        r"\begin{tabular}{lrrlrr}",
        r"\toprule",
        rf"Path & Layer & Change ({unit}) & Interval & $p$ & Samples \\",
        r"\midrule",
    ]
    for name, row in strongest.items():
        ends = "--" if row["low"] is None else f"[{_number(row['low'])}, {_number(row['high'])}]"
        cells = [_escaped(name.replace("->", "→")), str(row["layer"]), _number(row["change"]), ends]
        lines.append(" & ".join([*cells, _p(p.get((name, row["layer"]))), str(row["samples"])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _number(value: float) -> str:
    return f"${value:.1f}$"


def _p(value: float | None) -> str:
    if value is None:
        return "--"
    return "$<0.001$" if value < 0.001 else f"${value:.3f}$"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("→", r"$\rightarrow$")
