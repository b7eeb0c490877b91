"""Rows of a data set, whatever it is kept in: JSON, JSONL, CSV, TSV, Parquet, a folder of these, Hugging Face."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import checks
from ..documents import parse_json, read_text
from ..errors import InputError
from .mapping import DataMapping

FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
HUB = "hf:"


def is_hub(source: Any) -> bool:
    """Is it a Hugging Face data set ("hf:owner/name")?"""
    return str(source).startswith(HUB)


def read_rows(source: str | Path, mapping: DataMapping) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """(where, row) of every row: `where` names it in messages. Rows are read as they are asked for.

    What is no row, while those after it can be read, comes as the error that says so.

    Raises:
        InputError: nothing there, or not of the format that its ending promises.
    """
    if is_hub(source):
        yield from _hub_rows(str(source)[len(HUB) :], mapping)
        return
    path = checks.path("samples", source)
    if path.is_dir() and any((path / n).is_file() for n in ("dataset_info.json", "dataset_dict.json")):
        yield from _saved_rows(path, mapping)
        return
    for file in _files(path):
        for number, row in enumerate(_file_rows(file, mapping)):
            where = f"{file}, row {number}"
            if isinstance(row, InputError):
                yield where, row
            elif not isinstance(row, dict):
                yield where, InputError(f"{where} holds {type(row).__name__}, not an object with columns")
            else:
                yield where, {"_file": file.stem, "_row": number, **row}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in FILES)
        if not found:
            raise InputError(f"the folder {path} holds no file of samples ({', '.join(FILES)})")
        return found
    if path.exists() and not path.is_file():
        raise InputError(f"cannot read the samples {path}: it is a pipe or a device; write the rows to a file first")
    if not path.is_file():
        raise InputError(f"cannot read the samples {path}: no such file or folder (a data set of the hub: {HUB}{path})")
    if path.suffix.lower() not in FILES:
        raise InputError(f"cannot read the samples {path}: its ending is none of {', '.join(FILES)}")
    return [path]


def _file_rows(path: Path, mapping: DataMapping) -> Iterator[Any]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        try:
            yield from _parquet_rows(path, mapping)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read the samples {path}: {error}") from error
        return
    text = read_text(path, "the samples file")
    if kind in (".csv", ".tsv"):
        yield from _table_rows(text, path, "\t" if kind == ".tsv" else ",")
        return
    if kind == ".json":
        yield from _json_rows(_parsed(text, path), path, mapping)
        return
    yield from _inner_rows(_lines(text, path), mapping.nested, keyed=False)


def _lines(text: str, path: Path) -> Iterator[Any]:
    """The value of every line; what is none as the error that says so."""
    for line, part in enumerate(text.split("\n"), start=1):
        if part.strip():
            try:
                yield _parsed(part, path, line)
            except InputError as error:
                yield error


def _parsed(text: str, path: Path, line: int = 1) -> Any:
    try:
        return parse_json(text, line)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _table_rows(text: str, path: Path, delimiter: str) -> Iterator[dict[str, str] | InputError]:
    """Rows of a CSV or TSV text. Only line ends end a row, and each row has as many cells as the first line.

    A cell that holds the delimiter without quotes, or a line end, would move the others into wrong columns: such a row
    comes as an error.
    """
    csv.field_size_limit(2**27)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = next(reader, [])
        if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
            raise InputError(f"{path}: the column {twice[0]!r} stands twice: give each its own name")
        number = 0
        for cells in reader:
            if not cells:
                continue  # an empty line
            if len(cells) != len(columns):
                yield InputError(
                    f"{path}, row {number} (to line {reader.line_num}) has {len(cells)} cells, the first line names "
                    f'{len(columns)} columns: put cells with a delimiter or a line end in "quotes"'
                )
            else:
                yield dict(zip(columns, cells, strict=True))
            number += 1
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not {path.suffix[1:].upper()} ({error})") from error


def _json_rows(value: Any, path: Path, mapping: DataMapping) -> Iterator[Any]:
    """Rows of a list of objects, or of objects under keys, with rows nested in them or not."""
    if isinstance(value, list):
        yield from _inner_rows(value, mapping.nested, keyed=False)
        return
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise InputError(f"{path} holds {type(value).__name__}: write a list of objects, or objects under keys")
    yield from _inner_rows([{mapping.key: key, **outer} for key, outer in value.items()], mapping.nested, keyed=True)


def _inner_rows(outers: Iterable[Any], nested: str | None, keyed: bool) -> Iterator[Any]:
    """The rows within these, each with what the outer one has beside them, and `index`, its number: a list under the
    name `nested`, or, of objects under keys, the objects whose names begin with it. Without such rows the outer ones
    themselves, but for objects under keys, which are no rows then."""
    number = 0
    for outer in outers:
        if nested is None or not isinstance(outer, dict) or not (keyed or isinstance(outer.get(nested), list)):
            yield outer
            continue
        rows = {k: v if isinstance(v, list) else [v] for k, v in outer.items() if _holds_rows(k, v, nested)}
        shared = {k: v for k, v in outer.items() if k not in rows}
        for row in (row for several in rows.values() for row in several):
            yield {"index": number, **shared, **row} if isinstance(row, dict) else row
            number += 1


def _holds_rows(key: str, value: Any, nested: str) -> bool:
    return (key == nested and isinstance(value, list)) or (key.startswith(nested) and isinstance(value, dict))


def _parquet_rows(path: Path, mapping: DataMapping) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    # Only what is read: data sets carry whole videos in columns that a mapping may not want.
    columns = _wanted(file.schema_arrow.names, mapping, str(path))
    batches = file.iter_batches(batch_size=32, columns=columns)
    yield from _inner_rows((row for batch in batches for row in batch.to_pylist()), mapping.nested, keyed=False)


def _wanted(there: list[str], mapping: DataMapping, where: str) -> list[str]:
    """The columns that the mapping reads. Raises InputError for one that is missing."""
    asked = mapping.columns()
    if mapping.nested in there:  # what the rows within it hold, each of them tells
        plain = {column.removesuffix("?") for column in asked}
        return [name for name in there if name in plain or name == mapping.nested]
    if missing := sorted(name for name in asked if name not in (*there, "_file", "_row") and not name.endswith("?")):
        raise InputError(f"{where}: no column {missing[0]!r}: there are {sorted(there)}")
    return [name for name in there if name in {column.removesuffix("?") for column in asked}]


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "Hugging Face data sets need the package datasets, which is not installed: pip install 'avflow[data]'"
        ) from error
    return datasets


def _hub_rows(name: str, mapping: DataMapping) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of "owner/name[/config][:split]"; without a split, that called test, or the only one."""
    datasets = _datasets()
    name, _, split = name.partition(":") if not Path(name).exists() else (name, "", "")
    owner_name, config = (name, None) if Path(name).is_dir() else _with_config(name)
    try:
        found = datasets.load_dataset(owner_name, config, split=split or None)
    except Exception as error:  # its own errors share no base class
        raise InputError(f"cannot load the data set {HUB}{name}: {' '.join(str(error).split())}") from error
    yield from _split_rows(found, f"{HUB}{name}", mapping)


def _with_config(name: str) -> tuple[str, str | None]:
    parts = name.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InputError(f"{HUB}{name}: write {HUB}owner/name, {HUB}owner/name/config or {HUB}owner/name:split")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def _saved_rows(path: Path, mapping: DataMapping) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        found = _datasets().load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the data set {path}: {' '.join(str(error).split())}") from error
    yield from _split_rows(found, str(path), mapping)


def _split_rows(found: Any, where: str, mapping: DataMapping) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(found, dict):
        if "test" not in found and len(found) > 1:
            raise InputError(f"{where} has the splits {sorted(found)}: name one, as {HUB}owner/name:split")
        found = found["test"] if "test" in found else next(iter(found.values()))
    columns = _wanted(found.column_names, mapping, where)
    # As arrow: media columns stay files, nothing is decoded here.
    found = found.select_columns(columns).with_format("arrow")
    stem = Path(where.removeprefix(HUB)).name
    rows = (row for batch in found.iter(batch_size=32) for row in batch.to_pylist())
    for number, row in enumerate(_inner_rows(rows, mapping.nested, keyed=False)):
        yield f"{where}, row {number}", {"_file": stem, "_row": number, **row}
