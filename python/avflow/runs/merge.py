"""Several runs in one: of other samples, with the same configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from .. import checks
from ..errors import InputError, warn_user
from ..files import reading
from ..fingerprints import changed_files
from ..results.results import Results
from ..results.schemas import schema_of
from ..results.table import SCHEMA, checked, read_parquet
from .folder import DATA, RunFolder, experiment_of, read_config
from .records import part_name, read_records
from .told import read_told

_RANK = {"ok": 0, "selected_out": 0, "failed": 1}  # a failed sample gives way to the same one where it went well


def merge(out: str | Path, runs: Sequence[str | Path]) -> Results:
    """Write the samples of `runs` into the run folder `out`, with rows.parquet and summary.json.

    A sample that several runs hold must be the same in all, or have failed in the others. `out` is a run folder as any
    other: where a merge was interrupted, the same merge again goes on.

    Runs of any experiment merge; of plans the rows do, and `avflow plan --run OUT` chooses from them.

    Raises:
        InputError: fewer than two runs, another configuration, or a sample that differs; with keys and ids.
    """
    folders, out = [checks.path("a run folder", run) for run in runs], checks.path("out", out)
    if len(folders) < 2:
        raise InputError("give two or more run folders to merge")
    if Path(out).absolute() in [folder.absolute() for folder in folders]:
        raise InputError(f"{out} is one of the runs: merge into a folder of its own")
    config = _common_config(folders)
    chosen: dict[str, tuple[dict, Path]] = {}
    for folder in folders:
        with reading(folder):
            records = read_records(folder)
        for record in records:
            other = chosen.get(record["id"])
            if other is None or _RANK[record["status"]] < _RANK[other[0]["status"]]:
                chosen[record["id"]] = (record, folder)
            elif _RANK[record["status"]] == _RANK[other[0]["status"]] == 0:
                _check_same(other, (record, folder))
    schema = schema_of(experiment_of(config)) or SCHEMA
    prompts = {folder: read_told(folder) for folder in folders}
    with RunFolder(out, config, schema) as merged:
        for sample_id, (record, folder) in chosen.items():
            if not merged.finished(sample_id, record.get("digest")):
                rows = _rows(folder, sample_id, schema) if record["status"] == "ok" else []
                own = {k: v for k, v in record.items() if k != "id"}
                merged.add(sample_id, rows, **own, prompt=prompts[folder].get(sample_id))
        return merged.finish(chosen, {"merged": [str(folder.absolute()) for folder in folders]})


def _common_config(folders: Sequence[Path]) -> dict[str, Any]:
    """The configuration that all have; where they differ in the data, a list of each one's."""
    configs = [read_config(folder) for folder in folders]
    if any("experiment" in config for config in configs):  # those of version 0.1 do not all say it
        configs = [{**config, "experiment": experiment_of(config)} for config in configs]
    fingerprint = _common_fingerprint(folders, configs)
    configs = [{k: v for k, v in config.items() if k != "fingerprint"} for config in configs]
    first = configs[0]
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        keys = [k for k in {**first, **config} if k not in DATA and first.get(k, ...) != config.get(k, ...)]
        if keys:
            other = "; ".join(f"{k}: {first.get(k, 'absent')!r}, {config.get(k, 'absent')!r}" for k in keys)
            raise InputError(f"{folders[0]} and {folder} have different configurations ({other}): they do not merge")
    common = dict(first) if fingerprint is None else {**first, "fingerprint": fingerprint}
    for key in DATA:
        values = [config.get(key) for config in configs]
        if any(value != values[0] for value in values):
            flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
            common[key] = [v for n, v in enumerate(flat) if v not in flat[:n]]
    return common


def _common_fingerprint(folders: Sequence[Path], configs: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """Of the weights of all; None where one does not say. Raises InputError where two are of other weights."""
    found = [(folder, config.get("fingerprint")) for folder, config in zip(folders, configs, strict=True)]
    known = [(folder, fingerprint) for folder, fingerprint in found if fingerprint]
    for folder, fingerprint in known[1:]:
        if other := changed_files(known[0][1], fingerprint):
            raise InputError(
                f"{known[0][0]} and {folder} were measured with other weights or settings of the model ({other}): they "
                "do not merge"
            )
    if known and len(known) < len(found):
        silent = next(folder for folder, fingerprint in found if not fingerprint)
        warn_user(f"{silent} does not say which weights its rows are of (avflow before 0.2), nor will the merged run")
    return known[0][1] if len(known) == len(found) else None


def _rows(folder: Path, sample_id: str, schema: pa.Schema) -> list[dict[str, Any]]:
    return checked(_part(folder, sample_id), schema).to_pylist()


def _part(folder: Path, sample_id: str) -> pa.Table:
    path = folder / "parts" / part_name(sample_id)
    try:
        return read_parquet(path)
    except (OSError, InputError) as error:
        raise InputError(f"{path} cannot be read ({error}): run that sweep again") from error


def _check_same(one: tuple[dict, Path], two: tuple[dict, Path]) -> None:
    """Both finished a sample of this id."""
    (record, folder), (other, elsewhere) = one, two
    sample_id, what = record["id"], None
    if None not in (record.get("digest"), other.get("digest")) and record["digest"] != other["digest"]:
        what = "is another sample"
    elif path := _other_medium(record.get("media", {}), other.get("media", {})):
        what = f"is of another file {path}"
    elif record["status"] != other["status"]:
        what = f"is {record['status']} in the one and {other['status']} in the other"
    elif record["status"] == "ok" and _part(folder, sample_id).to_pylist() != _part(elsewhere, sample_id).to_pylist():
        what = "has other rows"
    if what:
        raise InputError(f"sample {sample_id!r} stands in {folder} and {elsewhere}, and {what}: keep one of them")


def _other_medium(media: dict[str, list[Any]], others: dict[str, list[Any]]) -> str:
    """The first file that was another one when the other run read it; "" where none was."""
    return next((path for path, state in media.items() if path in others and others[path][2] != state[2]), "")
