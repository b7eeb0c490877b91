"""The run folder: finished samples on disk at once, resume, merge.

    config.yaml     what was asked: experiment, model, samples ...; a folder with another configuration is refused
    parts/          one Parquet file a finished sample, written whole or not at all
    samples.jsonl   one line a sample: id, status (ok | selected_out | failed), reason, p_clean, correct, seconds
    rows.parquet    all parts, merged when the run ends
    summary.json    counts; of a sweep the strongest mean change of every path, of a plan how it was chosen
    figures/        PNG and PDF, and report.html beside it: made from rows.parquet alone
    plan.parquet    of a plan: what a group's leaving does, over all samples

A part carries its sample's record in its schema, so a run killed between the part and the line in samples.jsonl has
lost nothing: opening the folder writes the line again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from .. import checks
from ..documents import parse_yaml, read_text
from ..errors import InputError
from ..files import FolderLock, append_line, make_folder, reading, remove_leftovers, write_whole, writing
from ..results.results import Results
from ..results.table import (
    SCHEMA,
    checked,
    mean_change,
    meta_of,
    one_width,
    paths_of,
    read_parquet,
    read_parquet_schema,
    table_from_rows,
    widths_of,
    with_meta,
    write_table,
)

STATUSES = ("ok", "selected_out", "failed")


def file_name(text: str) -> str:
    """`text` with what a file name cannot hold quoted: another name for every text, at most 150 characters."""
    name = quote(text, safe=" ").replace("~", "%7E").replace(".", "%2E")
    if len(name) > 150:  # file systems stop at 255 bytes; "~" occurs in no short name
        name = name[:100] + "~" + hashlib.sha256(text.encode()).hexdigest()[:32]
    return name


def part_name(sample_id: str) -> str:
    """File name of a sample's part."""
    return file_name(sample_id) + ".parquet"


class RunFolder:
    """A run being written. Use as a context manager: it holds the folder's lock.

    `config`: JSON-like values that decide the numbers (model, samples, knockouts, window, ...). Opening a folder made
    with other values raises InputError that names the keys; a folder in use raises RunError. `schema`: of the rows.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], schema: pa.Schema = SCHEMA):
        self.schema = schema
        self.path = checks.path("the run folder", path)
        self.config = json.loads(json.dumps(dict(config)))  # tuples become lists, as they will be in the file
        with writing(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"{self.path} is a file: --out must name a folder")
        make_folder(self.path)
        self._refuse_foreign_folder()
        self._lock = FolderLock(self.path)
        try:
            self._check_config()
            make_folder(self.parts)
            with writing(self.parts):
                remove_leftovers(self.path)
                remove_leftovers(self.parts)
            with reading(self.path):
                self.records = self._recover()
        except BaseException:
            self._lock.release()
            raise

    @property
    def parts(self) -> Path:
        return self.path / "parts"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def finished(self, sample_id: str, digest: str | None = None) -> bool:
        """Is this sample done (ok or selected out)? Failed samples are tried again.

        `digest` (any text that changes when the sample does): raises InputError if the finished sample had another.
        """
        record = self.records.get(sample_id)
        if record is None or record["status"] == "failed":
            return False
        if digest is not None and record.get("digest") not in (None, digest):
            raise InputError(
                f"sample {sample_id!r} was finished in {self.path} and has changed since: choose another --out folder"
            )
        return True

    def add(
        self,
        sample_id: str,
        rows: Iterable[Mapping[str, Any]] = (),
        *,
        status: str = "ok",
        reason: str = "",
        p_clean: float | None = None,
        correct: bool | None = None,
        seconds: float | None = None,
        digest: str | None = None,
        check: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Put a sample on disk: its rows (status ok) and its record. Durable when this returns."""
        if status not in STATUSES:
            raise InputError(f"status {status!r} is none of {', '.join(STATUSES)}")
        record: dict[str, Any] = dict(
            id=sample_id, status=status, reason=reason, p_clean=p_clean, correct=correct, seconds=seconds
        )
        if digest is not None:
            record["digest"] = digest
        if check is not None:
            record["check"] = check
        if notes:
            record["notes"] = list(notes)
        if self.finished(sample_id):
            raise InputError(f"sample {sample_id!r} is finished in {self.path} already: ids must differ")
        if status == "ok":
            table = table_from_rows(rows, {"record": record}, self.schema)
            if strangers := set(pc.unique(table["prompt"]).to_pylist()) - {sample_id}:
                raise InputError(f"rows of {sorted(strangers)} given as those of sample {sample_id!r}")
            write_table(table, self.parts / part_name(sample_id))
        append_line(self.path / "samples.jsonl", json.dumps(record))
        self.records[sample_id] = record

    def merge(
        self, order: Iterable[str] = (), info: Mapping[str, Any] | None = None
    ) -> tuple[pa.Table, dict[str, Any]]:
        """All parts in one (samples in `order` first, the others after), written to rows.parquet; and its meta."""
        rank = {sample_id: index for index, sample_id in enumerate(order)}
        done = [r["id"] for r in self.records.values() if r["status"] == "ok"]
        done.sort(key=lambda sample_id: rank.get(sample_id, len(rank)))
        parts = (checked(read_parquet(self.parts / part_name(i)), self.schema) for i in done)
        tables = [part.replace_schema_metadata(None) for part in parts]
        meta = {"experiment": experiment_of(self.config), "config": self.config, "parts": len(done), **(info or {})}
        meta["check"] = worst_check(self.records.values())
        table = with_meta(pa.concat_tables(tables) if tables else self.schema.empty_table(), meta)
        write_table(table, self.path / "rows.parquet")
        return table, meta

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json, with the time at which it was written."""
        value = {**summary, "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_whole(self.path / "summary.json", (json.dumps(value, indent=2) + "\n").encode())

    def finish(self, order: Iterable[str] = (), info: Mapping[str, Any] | None = None) -> Results:
        """Merge the parts into rows.parquet and write summary.json."""
        table, meta = self.merge(order, info)
        self.write_summary({**summarize(table, self.records.values()), **meta})
        return Results(table, {**meta, "finished": True})

    def _refuse_foreign_folder(self) -> None:
        if (self.path / "config.yaml").exists():
            return
        with writing(self.path):
            found = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        if found:
            raise InputError(
                f"{self.path} is not a run folder (no config.yaml, but {', '.join(found[:3])}"
                f"{', ...' if len(found) > 3 else ''}): choose a new --out folder"
            )

    def _check_config(self) -> None:
        path = self.path / "config.yaml"
        # With nothing recorded there is nothing to protect: a first try that failed over its options may be mended.
        if not path.exists() or not (read_records(self.path) or any(self.parts.glob("*.parquet"))):
            write_whole(path, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True).encode())
            return
        there, now = ({**c, "experiment": experiment_of(c)} for c in (read_config(self.path), self.config))
        if there != now:
            keys = [k for k in {**there, **now} if there.get(k, ...) != now.get(k, ...)]
            other = "; ".join(f"{k}: {there.get(k, 'absent')!r} there, {now.get(k, 'absent')!r} now" for k in keys)
            raise InputError(f"{self.path} holds a run with another configuration ({other}): choose a new --out folder")

    def _recover(self) -> dict[str, dict]:
        """Records by id. The parts are the truth about finished samples, samples.jsonl about the others."""
        path = self.path / "samples.jsonl"
        text = path.read_text(errors="replace") if path.exists() else ""
        records = {record["id"]: record for record in read_records(self.path)}
        with_part = {}
        for part in sorted(self.parts.glob("*.parquet")):
            record = _record_of_part(part)
            if record is not None:
                with_part[record["id"]] = record
        kept = {i: with_part.get(i, r) for i, r in records.items() if r["status"] != "ok" or i in with_part}
        kept |= {i: r for i, r in with_part.items() if i not in kept}
        self._refuse_lost_parts(set(with_part))
        whole = "".join(json.dumps(record) + "\n" for record in kept.values())
        if whole != text:
            write_whole(path, whole.encode())
        return kept

    def _refuse_lost_parts(self, there: set[str]) -> None:
        rows = self.path / "rows.parquet"
        if not rows.exists():
            return
        merged = set(pc.unique(read_parquet(rows, columns=["prompt"])["prompt"]).to_pylist())
        if lost := sorted(merged - there):
            raise InputError(
                f"{rows} holds {len(lost)} samples (such as {lost[0]!r}) whose files in parts/ are gone; going "
                "on would lose them: restore parts/ or choose a new --out folder"
            )


def read_records(folder: str | Path) -> list[dict]:
    """The records in samples.jsonl, the last one of every sample; none where there is no such file."""
    path = checks.path("the run folder", folder) / "samples.jsonl"
    text = path.read_text(errors="replace") if path.is_file() else ""
    return list({record["id"]: record for record in map(_record, text.split("\n")) if record}.values())


def _record(line: str) -> dict | None:
    """A line of samples.jsonl; None for one that a kill cut short, or that is no record: its sample is done again."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(record: Any) -> bool:
    """Whether `record` is one as `RunFolder.add` writes them."""
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        return False
    status, text = record.get("status"), (str, type(None))
    numbers = all(_is_number(record.get(name)) for name in ("p_clean", "seconds"))
    words = isinstance(record.get("reason"), text) and isinstance(record.get("digest"), text)
    known = isinstance(status, str) and status in STATUSES and (status != "failed" or record.get("reason") is not None)
    return known and numbers and words and record.get("correct") in (None, True, False)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _record_of_part(path: Path) -> dict | None:
    """The record in a part's schema; None (the sample is done again) where the file is damaged."""
    try:
        schema = read_parquet_schema(path)
    except (pa.ArrowInvalid, OSError):
        return None
    record = meta_of(schema.empty_table()).get("record")
    return record if _is_record(record) else None


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.yaml of a run folder. Raises InputError if it is missing or no mapping."""
    path = checks.path("the run folder", folder) / "config.yaml"
    if not path.exists():
        raise InputError(f"{folder} is not a run folder: it has no config.yaml")
    text = read_text(path, "the configuration")
    try:
        config = parse_yaml(text)
    except InputError as error:
        raise InputError(f"{path} is {error}; choose a new --out folder") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a mapping of keys to values; choose a new --out folder")
    return config


def experiment_of(config: Mapping[str, Any]) -> str:
    """The experiment of a config.yaml. Version 0.1 named those of `avflow look` only."""
    return str(config.get("experiment") or ("plan" if "evict" in config else "sweep"))


def worst_check(records: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of what the records say of clean runs beside the model's own forward (`models.proof.figures`), the nearest to its
    bound, with the kinds and numbers of all of them; None where none says anything."""
    found = [r["check"] for r in records if r.get("check")]
    if not found:
        return None
    worst = max(found, key=lambda check: check["difference"] / max(check["bound"], 1e-30))
    kinds = max(check.get("kinds", 1) for check in found)  # of one process
    return {**worst, "kinds": kinds, "compared": sum(check.get("compared", 1) for check in found)}


def summarize(table: pa.Table, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json says of the rows and of all records of a folder, as JSON-like values.

    Of a sweep: counts of samples by status, and per path the layer of the strongest mean change (percent).
    """
    records = list(records)
    failed = {r["id"]: r["reason"] for r in records if r["status"] == "failed"}
    if "change_percent" not in table.column_names:
        return {"samples": len(records), "rows": table.num_rows, "failed": failed, "check": worst_check(records)}
    counts = {status: sum(r["status"] == status for r in records) for status in STATUSES}
    strongest: dict[str, Any] = {}
    widths = widths_of(table)
    for width, path in ((w, p) for w in widths for p in paths_of(table)):
        means = mean_change(one_width(table, width), resamples=1)
        rows = means.filter(pc.equal(means["knockout"], path)).to_pylist()
        path = path if len(widths) == 1 else f"{path} (window {width})"
        if rows:
            row = max(rows, key=lambda r: abs(r["mean"]))
            strongest[path] = {"layer": row["layer"], "mean_change_percent": row["mean"], "samples": row["samples"]}
        else:
            strongest[path] = None  # no sample has the tokens for it
    return {
        "samples": counts,
        "failed": failed,
        "correct": sum(r.get("correct") is True for r in records),
        "rows": table.num_rows,
        "check": worst_check(records),
        "kernels": sorted(k for k in pc.unique(table["kernel"]).to_pylist() if k),
        "seconds": sum(r.get("seconds") or 0.0 for r in records),
        "paths": strongest,
    }
