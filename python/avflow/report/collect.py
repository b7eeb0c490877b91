"""Run folders, of whatever kind, as the one dict that the page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .. import checks
from ..deprecated import renamed_keyword
from ..documents import parse_json, read_text
from ..errors import InputError
from ..experiments.answer_lens import SCHEMA as LENS
from ..experiments.attention_share import SCHEMA as SHARE
from ..experiments.cheaper import described
from ..experiments.lens_shift import SCHEMA as SHIFT
from ..experiments.patch import SCHEMA as PATCH
from ..experiments.sweep_text import SCHEMA as TEXT
from ..experiments.token_lens import SCHEMA as TOKENS
from ..results.change import Center
from ..results.default_center import default_center
from ..results.results import read
from ..results.schemas import PLAN_EVICTION
from ..results.table import checked, one_width, read_parquet, widths_of
from ..results.table import select as select_rows
from ..runs.folder import read_config
from ..runs.records import read_records
from ..runs.summary import summarize, worst_check
from ..runs.told import read_told
from .each import add_media, each_sample, texts_of
from .flow import flow_data
from .names import folder_names
from .patching import patch_data
from .samples import FILE as SAMPLES
from .samples import read_sample_views
from .tables import lens_data, plan_data, share_data, shift_data, tokens_data


def kind_of(folder: str | Path) -> str:
    """What a folder holds: "sweep", "plan", "samples", or what `avflow look` looked at ("share", "lens", ...)."""
    folder = checks.path("the run folder", folder)
    if (folder / SAMPLES).is_file():
        return "samples"
    if not (folder / "config.yaml").is_file():
        return "sweep"  # rows that were saved without a run; `read` says what is wrong with any other folder
    config = read_config(folder)
    return "plan" if "evict" in config else str(config.get("experiment", "sweep"))


@renamed_keyword("which", "select")
def collect(
    folders: Sequence[str | Path],
    select: str = "all",
    media: bool = False,
    brief: bool = False,
    center: Center | None = None,
) -> dict[str, Any]:
    """What the folders hold, as JSON values; a key is absent where no folder has it.

    sweeps, one for every width of window: [{name, flow (see flow_data), each (see each_sample), layers, finished, ids,
    counts, failed, strongest, rows}]; share, lens, tokens, shift, plan (see tables.py), patch (see patching.py), text
    (see texts_of), samples (see samples.py); folders: [{name, kind, config, versions}].

    Args:
        select: correct, wrong or all samples of the sweeps. media: read the files of some samples (see add_media).
        brief: as of `each_sample`. center: as of `flow_data`; one for all sweeps of the page.

    Raises:
        InputError: a folder that cannot be read or has nothing for a page, two of one kind but sweeps.
    """
    found: dict[str, Any] = {"folders": []}
    names, shown = folder_names(folders), set[str]()
    named = [(Path(folder), name, kind_of(folder)) for folder, name in zip(folders, names, strict=True)]
    swept = {name: swept_rows(folder, name, select) for folder, name, kind in named if kind == "sweep"}
    center = center or default_center(*(rows.table for parts in swept.values() for rows in parts))
    for folder, name, kind in named:
        if kind == "sweep":
            found["folders"].append(_swept_folder(folder, name, swept[name]))
            own = [_sweep(rows, brief, center) for rows in swept[name]]
            found.setdefault("sweeps", []).extend(own)
            if media:
                add_media(own[0]["each"], read_told(folder), shown)
            continue
        if kind not in _READERS:
            raise InputError(
                f"{folder} holds a run of {kind!r}: a report shows sweep, plan and {', '.join(_LOOKS)} runs"
            )
        if kind in found:
            raise InputError(f"{folder} is the second run of {kind!r}: a report takes one, and any number of sweeps")
        found[kind] = _READERS[kind](folder)
        if kind == "text" and media:
            add_media(found[kind], read_told(folder), shown)
        config = read_config(folder) if kind != "samples" else {}
        found["folders"].append({"name": name, "kind": kind, "config": config, "versions": {}, "check": _check(folder)})
    return found


@dataclass
class SweptRows:
    """The rows of a sweep, of one width of window. told: of `read_told`. meta: of the rows."""

    name: str
    table: pa.Table
    records: list[dict[str, Any]]
    told: dict[str, dict[str, Any]]
    meta: dict[str, Any]


def swept_rows(folder: Path, name: str, select: str) -> list[SweptRows]:
    """A run folder's sweeps, one for every width of window."""
    results, records, told = read(folder), read_records(folder), read_told(folder)
    table = select_rows(results.table, select)
    widths = widths_of(table)
    if len(widths) < 2:
        return [SweptRows(name, table, records, told, results.meta)]
    parts = [(f"{name}, window {width}", one_width(table, width)) for width in widths]
    return [SweptRows(called, part, records, told, results.meta) for called, part in parts]


def _swept_folder(folder: Path, name: str, found: Sequence[SweptRows]) -> dict[str, Any]:
    meta = found[0].meta
    about = {"name": name, "kind": "sweep", "config": meta.get("config") or {}, "versions": meta.get("versions") or {}}
    kernels = sorted(set(read(folder).table["kernel"].to_pylist()) - {None, ""})
    return {**about, "check": worst_check(found[0].records), "kernels": kernels}


def _sweep(rows: SweptRows, brief: bool, center: Center) -> dict[str, Any]:
    table, records, meta = rows.table, rows.records, rows.meta
    summary = summarize(table, records)
    return {
        "name": rows.name,
        "flow": flow_data(table, records, center),
        "layers": (pc.max(table["layer"]).as_py() or 0) + 1 if table.num_rows else 0,
        "finished": bool(meta.get("finished")),
        "counts": summary["samples"] if records else {},
        "ids": pc.unique(table["prompt"]).to_pylist(),
        "each": each_sample(table, records, rows.told, brief, center),
        "rows": table.num_rows,
        "failed": summary["failed"],
        "strongest": summary["paths"],
        "thinned": _thinned(meta.get("config") or {}, summary.get("media_check")),
    }


def _thinned(config: dict[str, Any], found: dict[str, Any] | None) -> list[str]:
    """In sentences, what of a sweep is an estimate, or was run on a part of the samples."""
    out = []
    if config.get("media_until") is not None:
        text = described(config["media_until"], found)
        out.append(f"{text[0].upper()}{text[1:]}.")
    if config.get("spread", 1) > 1:
        out.append(
            f"Of the paths within the media each sample ran one in {config['spread']} cells: their points stand on "
            "fewer samples; how many is said at each."
        )
    return out


def _rows(folder: Path, schema: pa.Schema) -> pa.Table:
    """rows.parquet of a look. Raises InputError where it is missing or empty."""
    path = folder / "rows.parquet"
    if not path.is_file():
        raise InputError(f"{folder} has no rows.parquet: its run is not finished, run the same command again")
    table = checked(read_parquet(path), schema)
    if not table.num_rows:
        raise InputError(f"{path} has no rows: every sample failed, see {folder / 'samples.jsonl'}")
    return table


def _plan(folder: Path) -> dict[str, Any]:
    path = folder / "plan.parquet"
    if not path.is_file():
        raise InputError(f"{folder} has no plan.parquet: its run is not finished, run avflow plan again")
    summary = parse_json(read_text(folder / "summary.json", "the summary"))
    return plan_data(checked(read_parquet(path), PLAN_EVICTION), summary)


def _check(folder: Path) -> dict[str, Any] | None:
    """How near the run came to the model's own forward; a plan's summary knows of its test too."""
    path = folder / "summary.json"
    summary = parse_json(read_text(path, "the summary")) if path.is_file() else {}
    return summary.get("check") or worst_check(read_records(folder))


def _patch(folder: Path) -> list[dict[str, Any]]:
    direction = str(read_config(folder).get("direction", "noise"))
    return patch_data(_rows(folder, PATCH), direction, read_records(folder))


_LOOKS = {
    "share": lambda folder: share_data(_rows(folder, SHARE)),
    "lens": lambda folder: lens_data(_rows(folder, LENS)),
    "text": lambda folder: texts_of(_rows(folder, TEXT), read_told(folder)),
    "tokens": lambda folder: tokens_data(_rows(folder, TOKENS)),
    "shift": lambda folder: shift_data(_rows(folder, SHIFT)),
    "patch": _patch,
}
_READERS = {**_LOOKS, "plan": _plan, "samples": read_sample_views}
