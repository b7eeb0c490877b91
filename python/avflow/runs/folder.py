"""The run folder: finished samples on disk at once, resume, merge.

    config.yaml     what was asked: experiment, model and its files, samples ...; another configuration is refused
    parts/          one Parquet file a finished sample, written whole or not at all
    samples.jsonl   one line a sample: id, status (ok | selected_out | failed), reason, p_clean, correct, seconds, media
    rows.parquet    all parts, merged when the run ends
    summary.json    counts; of a sweep the strongest mean change of every path, of a plan how it was chosen
    figures/        PNG and PDF, and report.html beside it: made from rows.parquet alone
    bad_rows.jsonl  rows of the samples file that make no sample, and why; only where there are some
    plan.parquet    of a plan: what a group's leaving does, over all samples

A part carries its sample's record in its schema, so a run killed between the part and the line in samples.jsonl has
lost nothing: opening the folder writes the line again.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from .. import checks
from ..documents import parse_yaml, read_text
from ..errors import InputError, RunError, warn_user
from ..files import FolderLock, append_line, make_folder, reading, remove_leftovers, write_whole, writing
from ..fingerprints import changed_files
from ..results.results import Results
from ..results.table import SCHEMA, checked, read_parquet, table_from_rows, with_meta, write_table
from .records import STATUSES, changed_media, part_name, read_records, record_of_part
from .summary import summarize, worst_check
from .told import FILE as TOLD
from .told import line_of

DATA = ("samples", "data")  # what runs that are merged may differ in; config.yaml then has a list of each one's
_MEND = "choose a new --out folder, or begin anew with --restart"


class RunFolder:
    """A run being written. Use as a context manager: it holds the folder's lock.

    `config`: JSON-like values that decide the numbers (model, samples, knockouts, window, ...). Opening a folder made
    with other values raises InputError that names the keys; a folder in use raises RunError. "fingerprint" among them
    ({file: size and hash}) is compared file by file. `schema`: of the rows. `restart`: what is there is set aside.

    Attributes:
        aside: where that went; None where there was nothing.
    """

    def __init__(
        self, path: str | Path, config: Mapping[str, Any], schema: pa.Schema = SCHEMA, *, restart: bool = False
    ):
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
            self.aside = self._set_aside() if restart else None
            self._check_config()
            make_folder(self.parts)
            with writing(self.parts):
                for folder in (self.path, self.parts, self.figures):
                    remove_leftovers(folder)
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

    def know_model(self, fingerprint: Mapping[str, str]) -> None:
        """Of a model that has no files, once it is loaded: compared with the run's, or noted where nothing is recorded.

        Raises:
            InputError: the run's samples were measured with another model.
        """
        was = self.config.get("fingerprint")
        if was is not None:
            self._refuse_other_model(was, fingerprint)
        elif not self.records:
            self.config["fingerprint"] = dict(fingerprint)
            self._write_config()

    def finished(self, sample_id: str, digest: str | None = None) -> bool:
        """Is this sample done (ok or selected out)? Failed samples are tried again.

        `digest` (any text that changes when the sample does): raises InputError if the finished sample had another, or
        one of its media files is another one now.
        """
        record = self.records.get(sample_id)
        if record is None or record["status"] == "failed":
            return False
        other = "has changed since" if digest is not None and record.get("digest") not in (None, digest) else ""
        if digest is not None and not other and (told := changed_media(record.get("media", {}))):
            other = told
        if other:
            raise InputError(f"sample {sample_id!r} was finished in {self.path} and {other}: {_MEND}")
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
        media: Mapping[str, list[Any]] | None = None,
        notes: Sequence[str] = (),
        media_check: Sequence[Sequence[Any]] = (),
        prompt: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a sample on disk: its rows (status ok), its record, and what `told` says of its prompt. Durable when this
        returns."""
        if status not in STATUSES:
            raise InputError(f"status {status!r} is none of {', '.join(STATUSES)}")
        record: dict[str, Any] = dict(
            id=sample_id, status=status, reason=reason, p_clean=p_clean, correct=correct, seconds=seconds
        )
        if digest is not None:
            record["digest"] = digest
        if media:
            record["media"] = dict(media)
        if check is not None:
            record["check"] = check
        if notes:
            record["notes"] = list(notes)
        if media_check:
            record["media_check"] = [list(one) for one in media_check]
        if self.finished(sample_id):
            raise InputError(f"sample {sample_id!r} is finished in {self.path} already: ids must differ")
        if status == "ok":
            table = table_from_rows(rows, {"record": record}, self.schema)
            if strangers := set(pc.unique(table["prompt"]).to_pylist()) - {sample_id}:
                raise InputError(f"rows of {sorted(strangers)} given as those of sample {sample_id!r}")
            write_table(table, self.parts / part_name(sample_id))
        if prompt is not None:
            append_line(self.path / TOLD, line_of(sample_id, dict(prompt)))
        append_line(self.path / "samples.jsonl", json.dumps(record))
        self.records[sample_id] = record

    def merge(
        self, order: Iterable[str] = (), info: Mapping[str, Any] | None = None
    ) -> tuple[pa.Table, dict[str, Any]]:
        """All parts in one (samples in `order` first, the others after), written to rows.parquet; and its meta."""
        self._one_line_each()
        rank = {sample_id: index for index, sample_id in enumerate(order)}
        done = [r["id"] for r in self.records.values() if r["status"] == "ok"]
        done.sort(key=lambda sample_id: rank.get(sample_id, len(rank)))
        tables = [self._part(sample_id).replace_schema_metadata(None) for sample_id in done]
        meta = {"experiment": experiment_of(self.config), "config": self.config, "parts": len(done), **(info or {})}
        meta["check"] = worst_check(self.records.values())
        table = with_meta(pa.concat_tables(tables) if tables else self.schema.empty_table(), meta)
        write_table(table, self.path / "rows.parquet")
        return table, meta

    def _part(self, sample_id: str) -> pa.Table:
        path = self.parts / part_name(sample_id)
        try:
            return checked(read_parquet(path), self.schema)
        except (OSError, InputError) as error:  # changed by another hand while this run was going on
            told = error.strerror if isinstance(error, OSError) else error
            raise RunError(
                f"the part of sample {sample_id!r}, {path}, was whole when it was written and cannot be read now "
                f"({told}): run the same command again, which measures that sample anew"
            ) from error

    def write_bad_rows(self, bad: Mapping[str, str]) -> None:
        """bad_rows.jsonl: {row: why it makes no sample}; no such file where there are none."""
        path = self.path / "bad_rows.jsonl"
        if not bad:
            path.unlink(missing_ok=True)
            return
        lines = (json.dumps({"row": row, "reason": reason}, ensure_ascii=False) + "\n" for row, reason in bad.items())
        write_whole(path, "".join(lines).encode(errors="backslashreplace"))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json, with the time at which it was written."""
        value = {**summary, "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_whole(self.path / "summary.json", (json.dumps(value, indent=2) + "\n").encode())

    def finish(self, order: Iterable[str] = (), info: Mapping[str, Any] | None = None) -> Results:
        """Merge the parts into rows.parquet and write summary.json."""
        table, meta = self.merge(order, info)
        self.write_summary({**summarize(table, self.records.values()), **meta})
        return Results(table, {**meta, "finished": True})

    def _set_aside(self) -> Path | None:
        """Renames the folder, whole, where it holds samples: "run" becomes "run.before-1". Locks a new one."""
        if not (read_records(self.path) or any(self.parts.glob("*.parquet"))):
            return None
        here = self.path.resolve()  # a link stays a link
        number = next(n for n in itertools.count(1) if not here.with_name(f"{here.name}.before-{n}").exists())
        aside = here.with_name(f"{here.name}.before-{number}")
        with writing(aside):
            here.rename(aside)
        self._lock.release()
        make_folder(here)
        self._lock = FolderLock(self.path)
        return aside

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
            self._write_config()
            return
        there, now = ({**c, "experiment": experiment_of(c)} for c in (read_config(self.path), self.config))
        for key in DATA:  # of a merged run: one of its files goes on
            if isinstance(there.get(key), list) and now.get(key) in there[key]:
                now[key] = self.config[key] = there[key]
        was, found = there.pop("fingerprint", None), now.pop("fingerprint", None)
        if there != now:
            keys = [k for k in {**there, **now} if there.get(k, ...) != now.get(k, ...)]
            other = "; ".join(f"{k}: {there.get(k, 'absent')!r} there, {now.get(k, 'absent')!r} now" for k in keys)
            raise InputError(f"{self.path} holds a run with another configuration ({other}): {_MEND}")
        if was is not None and found is not None:
            self._refuse_other_model(was, found)
        if found is not None and was is None:
            warn_user(
                f"{self.path} does not say which weights and media files its rows are of (avflow before 0.2): whether "
                "they are those of today cannot be checked"
            )
        if was is None:
            self.config.pop("fingerprint", None)  # what is merged is said to be of no weights that nobody checked
        else:
            self.config["fingerprint"] = was

    def _write_config(self) -> None:
        text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
        write_whole(self.path / "config.yaml", text.encode())

    def _refuse_other_model(self, was: Mapping[str, str], now: Mapping[str, str]) -> None:
        if other := changed_files(was, now):
            raise InputError(f"{self.path} was measured with other weights or settings of the model ({other}): {_MEND}")

    def _recover(self) -> dict[str, dict]:
        """Records by id. The parts are the truth about finished samples, samples.jsonl about the others."""
        records = {record["id"]: record for record in read_records(self.path)}
        with_part, broken = {}, {}
        for part in sorted(self.parts.glob("*.parquet")):
            try:
                record = record_of_part(part)
            except InputError as error:
                broken[part] = str(error)
            else:
                with_part[record["id"]] = record
        merged = self._merged()
        with_part |= {r["id"]: r for part, told in broken.items() if (r := self._restored(part, told, merged, records))}
        kept = {i: with_part.get(i, r) for i, r in records.items() if r["status"] != "ok" or i in with_part}
        kept |= {i: r for i, r in with_part.items() if i not in kept}
        if lost := sorted(set() if merged is None else set(pc.unique(merged["prompt"]).to_pylist()) - set(with_part)):
            raise InputError(
                f"{self.path / 'rows.parquet'} holds {len(lost)} samples (such as {lost[0]!r}) whose files in parts/ "
                "are gone; going on would lose them: restore parts/ or choose a new --out folder"
            )
        self._one_line_each(kept)
        return kept

    def _one_line_each(self, records: Mapping[str, dict] | None = None) -> None:
        """samples.jsonl anew, where it has other lines: torn ones, or two of a sample that was tried again."""
        path = self.path / "samples.jsonl"
        text = path.read_text(errors="replace") if path.exists() else ""
        kept = self.records if records is None else records
        whole = "".join(json.dumps(record) + "\n" for record in kept.values())
        if whole != text:
            write_whole(path, whole.encode())

    def _merged(self) -> pa.Table | None:
        """rows.parquet of the last merge; None where there is none, or none that can be read."""
        rows = self.path / "rows.parquet"
        if not rows.exists():
            return None
        try:
            return checked(read_parquet(rows), self.schema)
        except InputError as error:
            warn_user(f"{error}. It is made anew from parts/ at the end of this run")
            return None

    def _restored(self, part: Path, told: str, merged: pa.Table | None, records: Mapping[str, dict]) -> dict | None:
        """The record of a damaged part that is written again from rows.parquet; None: its sample is measured again."""
        record = next((r for r in records.values() if r["status"] == "ok" and part_name(r["id"]) == part.name), None)
        rows = None if merged is None or record is None else merged.filter(pc.equal(merged["prompt"], record["id"]))
        if not rows:
            warn_user(f"{told}. Its sample is measured again")
            return None
        write_table(with_meta(rows, {"record": record}), part)
        warn_user(f"{told}. It is restored from rows.parquet")
        return record


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
