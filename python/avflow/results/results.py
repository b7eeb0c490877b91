"""What a sweep gives back, and reading it from a run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from .table import checked, mean_change, meta_of, select, table_from_rows, with_meta, write_table


@dataclass
class Results:
    """Rows of one or more sweeps. `table` [rows] in SCHEMA; `meta`: how they were made."""

    table: pa.Table
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], meta: Mapping[str, Any] | None = None) -> Results:
        return cls(table_from_rows(rows, meta), dict(meta or {}))

    def __len__(self) -> int:
        return self.table.num_rows

    def to_pandas(self):
        """pandas.DataFrame of the table. Raises ImportError with the mend where pandas is not installed."""
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "to_pandas() needs pandas, which is not installed: pip install 'avflow[pandas]' "
                "(or use .table, a pyarrow.Table, as it is)"
            ) from error
        return self.table.to_pandas()

    def save(self, folder: str | Path) -> Path:
        """Write `folder`/rows.parquet (whole or not at all); returns its path. avflow.read(folder) reads it back."""
        path = Path(folder) / "rows.parquet"
        write_table(with_meta(checked(self.table), self.meta), path)
        return path

    def select(self, which: str = "correct") -> Results:
        return Results(select(self.table, which), self.meta)

    def mean_change(self, **options) -> pa.Table:
        return mean_change(self.table, **options)


def read(folder: str | Path) -> Results:
    """Results of a run folder, finished (rows.parquet) or not (its parts); or of one .parquet file.

    `meta["finished"]` says which. Raises InputError if there is nothing to read.
    """
    folder = Path(folder)
    if folder.is_file():
        return _results([folder], finished=True)
    if not folder.is_dir():
        raise InputError(f"no such run folder: {folder}")
    rows, parts = folder / "rows.parquet", sorted((folder / "parts").glob("*.parquet"))
    if rows.is_file():
        merged = _results([rows], finished=True)
        # A run that is being extended has more parts than its last merge knew of.
        if len(parts) <= merged.meta.get("parts", len(parts)):
            return merged
    if not parts:
        raise InputError(f"{folder} has no rows.parquet and no finished sample in parts/: run `avflow sweep` first")
    return _results(parts, finished=False)


def _results(paths: Sequence[Path], finished: bool) -> Results:
    tables = []
    for path in paths:
        try:
            tables.append(checked(pq.read_table(path)))
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file: {error}; delete it and run again") from error
    meta = {**meta_of(tables[0]), "finished": finished}
    meta.pop("record", None)  # of a part: about that one sample
    return Results(with_meta(pa.concat_tables([t.replace_schema_metadata(None) for t in tables]), meta), meta)
