"""The result table: its columns, its file, and what to take of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..checks import shown
from ..deprecated import renamed_keyword
from ..errors import InputError
from ..files import write_whole
from .schemas import OPTIONAL, SWEEP, with_new_names
from .seal import is_whole, sealed

SCHEMA = SWEEP

SELECTIONS = ("correct", "wrong", "all")
_META_KEY = b"avflow"
_PATTERNS = {"correct": True, "wrong": False}


def table_from_rows(
    rows: Iterable[Mapping[str, Any]], meta: Mapping[str, Any] | None = None, schema: pa.Schema = SCHEMA
) -> pa.Table:
    """Table in `schema` from row dicts. Raises InputError naming a missing, an unknown or a wrongly typed column."""
    rows = list(rows)
    names = schema.names
    optional = OPTIONAL if schema == SWEEP else set()
    for index, row in enumerate(rows):
        if missing := [name for name in names if name not in row and name not in optional]:
            raise InputError(f"result row {index} lacks {missing}; a row has the columns {names}")
        if extra := [name for name in row if name not in names]:
            raise InputError(f"result row {index} has the unknown columns {extra}; a row has the columns {names}")
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if pa.types.is_string(column.type):
            values = [None if value is None else str(value) for value in values]
        try:
            columns.append(pa.array(values, column.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"column {column.name!r} must hold {column.type} values: {error}") from error
    return with_meta(pa.table(columns, schema=schema), meta or {})


def with_meta(table: pa.Table, meta: Mapping[str, Any]) -> pa.Table:
    """The same table, carrying `meta` as JSON in its schema (survives Parquet)."""
    return table.replace_schema_metadata({_META_KEY: json.dumps(dict(meta), sort_keys=True).encode()})


def meta_of(table: pa.Table) -> dict[str, Any]:
    """What `with_meta` put in. Raises InputError where it is no JSON object: another program wrote it, or damage."""
    text = (table.schema.metadata or {}).get(_META_KEY, b"{}")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the table's metadata under {_META_KEY.decode()!r} is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise InputError(f"the table's metadata under {_META_KEY.decode()!r} is {type(meta).__name__}, not an object")
    return meta


def checked(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """`table` with the schema's columns in its order and types, old names replaced.

    Raises:
        InputError: a column is missing.
    """
    table = with_new_names(table, schema)
    for column in schema if schema == SWEEP else ():
        if column.name in OPTIONAL and column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise InputError(f"not a result table: it lacks the columns {missing}")
    return table.select(schema.names).cast(schema).replace_schema_metadata(table.schema.metadata)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, whole or not at all, with a checksum of every page and a seal over all of it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(Path(path), sealed(sink.getvalue().to_pybytes()))


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table of a Parquet file, read by this process's own path rules: pyarrow's expand "~" and want UTF-8 names.

    Raises:
        InputError: the file is damaged, or is no Parquet file. OSError: it cannot be opened.
    """

    def parse(source: pa.BufferReader) -> pa.Table:
        # For the few rows of a part, threads and pq.read_table's data set take longer (1.8 ms) than this (1.1 ms).
        file = pq.ParquetFile(source, page_checksum_verification=True)
        return file.read(columns, use_threads=file.metadata.num_rows > 100_000)

    return _parsed(path, parse)


def read_parquet_schema(path: Path) -> pa.Schema:
    """The schema of a Parquet file, all of whose bytes are checked; see `read_parquet`."""
    return _parsed(path, pq.read_schema)


def _parsed(path: Path, parse: Callable[[pa.BufferReader], Any]) -> Any:
    with open(path, "rb") as file:
        data = file.read()
    if not is_whole(data):
        raise InputError(f"{path} is damaged: its bytes are not those that were written (a checksum differs)")
    try:
        return parse(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # what pyarrow finds wrong is of any kind
        raise InputError(f"{path} is not a readable Parquet file: {' '.join(str(error).split())}") from error


def as_table(given: Any) -> pa.Table:
    """The pyarrow table of `Results`; a table as it is.

    Raises:
        InputError: neither of the two.
    """
    table = given if isinstance(given, pa.Table) else getattr(given, "table", None)
    if not isinstance(table, pa.Table):
        raise InputError(f"got {shown(given)}: pass what avflow.sweep or avflow.read gave (Results), or its table")
    return table


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column. Raises InputError where the table lacks it: it is no sweep's."""
    if name not in table.column_names:
        there = ", ".join(table.column_names)
        raise InputError(f"the table lacks the column {name!r}, so it is no sweep's: it has {there or 'none at all'}")
    return table[name]


# Columns of avflow.patch that mean to its table what these of a sweep mean to a sweep's.
_OF_A_PATCH = {
    "site": "knockout",
    "p_base": "p_clean",
    "p_patched": "p_knockout",
    "logp_base": "logp_clean",
    "logp_patched": "logp_knockout",
    "correct_patched": "correct_knockout",
    "top_base": "top_clean",
    "top_patched": "top_knockout",
}


def as_sweep(table: pa.Table) -> pa.Table:
    """The table of `avflow.patch` with a sweep's names for its columns, for statistics and figures; others as is."""
    if not {"site", "p_patched"} <= set(table.column_names):
        return table
    return table.rename_columns([_OF_A_PATCH.get(name, name) for name in table.column_names])


@renamed_keyword("which", "select")
def select(table: Any, select: str = "correct") -> pa.Table:
    """The rows whose clean run is right ("correct"), wrong ("wrong"), or all of them.

    Args:
        table: `Results` or its table.

    Raises:
        InputError: another word.
    """
    table = as_table(table)
    if select not in SELECTIONS:
        raise InputError(f"cannot select {select!r}: choose one of {', '.join(SELECTIONS)}")
    return table if select == "all" else table.filter(pc.equal(column(table, "correct"), _PATTERNS[select]))


_selected = select  # for functions with an argument of that name


def paths_of(table: pa.Table) -> list[str]:
    """Knockout names in the order of first appearance."""
    return pc.unique(column(table, "knockout")).to_pylist()


def widths_of(table: pa.Table) -> list[int]:
    """The widths of the windows in the table, increasing."""
    return sorted(pc.unique(column(table, "window")).to_pylist())


def one_width(table: pa.Table, width: int | None = None) -> pa.Table:
    """The rows of windows of one width; None: the table's only one.

    Raises:
        InputError: it has several, or not this one.
    """
    there = widths_of(table)
    if width is None and len(there) > 1:
        raise InputError(f"the table has windows of {there} layers: choose one with avflow.results.one_width(table, 7)")
    if width is None or there == [width]:
        return table
    if width not in there:
        raise InputError(f"no window of {width} layers in the table: it has {there}")
    return table.filter(pc.equal(table["window"], width))
