"""What an experiment gives back, and reading it from a run folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import checks
from ..deprecated import renamed_keyword
from ..documents import parse_yaml, read_text
from ..errors import InputError
from .change import Center, average_change, mean_change, significance
from .export import strongest_latex, write_csv
from .notebook import as_html
from .refine import cells_to_refine
from .schemas import SCHEMAS, SWEEP, column_now, experiment_name, schema_of
from .table import checked, meta_of, read_parquet, select, table_from_rows, with_meta, write_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(repr=False)
class Results:
    """The table of one or more runs of an experiment.

    Attributes:
        table: pyarrow.Table; its columns are those of the experiment, see `avflow.results.schemas`.
        meta: how the rows were made, as JSON can hold it; "experiment" names the function that made them.

    For one release it also answers to the methods of pyarrow.Table, with a DeprecationWarning: use `.table`.
    """

    table: pa.Table
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, Any]], meta: Mapping[str, Any] | None = None, schema: pa.Schema = SWEEP
    ) -> Results:
        """From dicts with the schema's columns. Raises InputError naming a column that is missing or does not fit."""
        return cls(table_from_rows(rows, meta, schema), dict(meta or {}))

    @classmethod
    def from_tuples(cls, experiment: str, rows: Iterable[Sequence[Any]], **meta: Any) -> Results:
        """The rows of a known experiment, their values in the order of its columns; `meta`: what it was asked for.

        Raises:
            InputError: an experiment whose columns are not known.
        """
        schema, rows, meta = schema_of(experiment), list(rows), {"experiment": experiment, **meta}
        if schema is None:
            known = ", ".join(SCHEMAS)
            raise InputError(
                f"experiment {experiment!r} is none of {known}: pass its columns to avflow.results.register first"
            )
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
        return cls(with_meta(table, meta), meta)

    @property
    def experiment(self) -> str:
        """Name of the function that made the rows; "sweep" where nothing says."""
        return experiment_name(self.meta.get("experiment", "sweep"))

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        columns = ", ".join(self.table.column_names)
        return f"avflow.Results({self.experiment}, {len(self)} rows: {columns})"

    def _repr_html_(self) -> str:
        return as_html(self.experiment, self.table, self.meta.get("finished") is not False)

    def to_pandas(self) -> pd.DataFrame:
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
        """Write `folder`/rows.parquet (whole or not at all); returns its path. avflow.read(folder) reads it back.

        Raises:
            InputError: the folder holds a run of another experiment. RunError: it cannot be written.
        """
        path = checks.path("the folder", folder) / "rows.parquet"
        there = _experiment_of(_config(path.parent))
        if there is not None and there != self.experiment:
            raise InputError(f"{folder} holds a run of {there}: save these rows of {self.experiment} in another folder")
        write_table(with_meta(_in_schema(self.table, self.experiment), self.meta), path)
        return path

    @renamed_keyword("which", "select")
    def select(self, select: str = "correct") -> Results:
        """The rows whose clean run is right ("correct"), wrong ("wrong"), or all.

        Raises:
            InputError: another word.
        """
        if not isinstance(select, str):  # pyarrow's own: columns
            _warn("select", stacklevel=4)
            return self.table.select(select)
        return Results(_selected(self.table, select), self.meta)

    @renamed_keyword("which", "select")
    def mean_change(self, *, select: str = "all", **options: Any) -> pa.Table:
        """Of a sweep: see `avflow.results.mean_change`."""
        return mean_change(self.table, select=select, **options)

    def average_change(self, *, select: str = "all", **options: Any) -> pa.Table:
        """Of a sweep: see `avflow.results.average_change`."""
        return average_change(self.table, select=select, **options)

    def significance(self, *, select: str = "all", **options: Any) -> pa.Table:
        """Of a sweep: see `avflow.results.significance`."""
        return significance(self.table, select=select, **options)

    def cells_to_refine(self, count: int, *, select: str = "all") -> list[tuple[str, int]]:
        """Of a sweep: see `avflow.results.cells_to_refine`."""
        return cells_to_refine(self.table, count, select)

    def to_csv(self, path: str | Path) -> Path:
        """Writes the table as CSV, whole or not at all; text that a spreadsheet would run begins with a '.

        Raises:
            RunError: it cannot be written.
        """
        return write_csv(self.table, checks.path("the CSV file", path))

    def to_latex(self, *, select: str = "all", center: Center = "mean", **options: Any) -> str:
        """Of a sweep: a table (booktabs) with a row per path: its strongest layer, the change there with its interval,
        and p corrected for all paths and layers. The caption's words say which average and interval they are.

        Args:
            center, options: as of `average_change`, which gives the numbers.

        Raises:
            InputError: as `average_change`; no row has a value.
        """
        return strongest_latex(self.table, select=select, center=center, **options)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "table" or not hasattr(pa.Table, name):
            raise AttributeError(f"avflow.Results has no attribute {name!r}: .table is a pyarrow.Table")
        _warn(name, stacklevel=3)
        value = getattr(self.table, name)
        return self._equals if name == "equals" else value

    def _equals(self, other: Any, **options: Any) -> bool:
        return self.table.equals(other.table if isinstance(other, Results) else other, **options)

    def __getitem__(self, key: Any) -> Any:
        new = column_now(self.experiment, key) if isinstance(key, str) else None
        if new is not None:  # 0.1's column, which the table has under another name, and another one may have its name
            text = f"{self.experiment}'s column {key!r} is now {new!r}: write .table[{new!r}]; [{key!r}] goes with 0.3"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return self.table[new]
        _warn(f"[{key!r}]", stacklevel=3)
        return self.table[key]


_NO_TABLES = (".json", ".jsonl", ".yaml", ".csv", ".html", ".png", ".pdf")  # what else commands write

_selected = select  # for methods with an argument of that name


def _warn(used: str, stacklevel: int) -> None:
    shown = used if used.startswith("[") else f".{used}"
    text = f"experiments give back avflow.Results: write .table{shown}, the result itself loses {shown} with avflow 0.3"
    warnings.warn(text, DeprecationWarning, stacklevel)


def _in_schema(table: pa.Table, experiment: str) -> pa.Table:
    """The table with its experiment's columns; as it is where they are not known."""
    schema = schema_of(experiment)
    return table if schema is None else checked(table, schema)


def read(folder: str | Path) -> Results:
    """Results of a run folder of whatever experiment, finished (rows.parquet) or not (its parts); or of one file.

    `meta["finished"]` says which. Raises InputError if there is nothing to read.
    """
    folder = checks.path("the run folder", folder)
    if folder.is_file():
        if folder.suffix in _NO_TABLES:
            raise InputError(
                f"{folder} holds no table of results: give a run folder, or its rows.parquet (a schedule's rows are in "
                "the folder of the same name without .json, or where --run said)"
            )
        return _results([folder], finished=True)
    if not folder.is_dir():
        raise InputError(f"no such run folder: {folder}")
    rows, parts = folder / "rows.parquet", sorted((folder / "parts").glob("*.parquet"))
    experiment = _experiment_of(_config(folder))
    if rows.is_file():
        merged = _results([rows], finished=True, experiment=experiment)
        # A run that is being extended has more parts than its last merge knew of.
        if len(parts) <= merged.meta.get("parts", len(parts)):
            return merged
    if not parts:
        raise InputError(f"{folder} has no rows.parquet and no finished sample in parts/: run `avflow sweep` first")
    return _results(parts, finished=False, experiment=experiment)


def _config(folder: Path) -> dict[str, Any]:
    """config.yaml of a run folder; nothing where it has none that can be read."""
    try:
        config = parse_yaml(read_text(folder / "config.yaml", "the configuration"))
    except InputError:
        return {}
    return config if isinstance(config, dict) else {}


def _experiment_of(config: Mapping[str, Any]) -> str | None:
    """What a config says was run; avflow 0.1 named looks only, and a plan has "evict"."""
    name = config.get("experiment") or ("plan" if "evict" in config else None)
    return None if name is None else experiment_name(str(name))


def _results(paths: Sequence[Path], finished: bool, experiment: str | None = None) -> Results:
    tables = []
    for path in paths:
        try:
            tables.append(read_parquet(path))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        except InputError as error:
            raise InputError(f"{error}; run the command that made it again, which makes it anew") from error
    meta = {**meta_of(tables[0]), "finished": finished}
    meta.pop("record", None)  # of a part: about that one sample
    named = meta.get("experiment") or experiment or _experiment_of(meta.get("config") or {})
    if named is not None:
        meta["experiment"] = experiment_name(named)
    tables = [_in_schema(t, named or "sweep").replace_schema_metadata(None) for t in tables]
    return Results(with_meta(pa.concat_tables(tables), meta), meta)
