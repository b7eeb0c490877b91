"""Records of samples: a line each in samples.jsonl, and the one that every part carries; the parts' names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import checks
from ..errors import InputError
from ..fingerprints import changed, of_file
from ..results.table import meta_of, read_parquet_schema

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
    media = record.get("media")
    if media is not None and not (isinstance(media, dict) and all(map(_is_state, media.values()))):
        return False
    known = isinstance(status, str) and status in STATUSES and (status != "failed" or record.get("reason") is not None)
    return known and numbers and words and record.get("correct") in (None, True, False)


def _is_state(value: Any) -> bool:
    """Whether a value is one as `media_state` gives them."""
    return (
        isinstance(value, list)
        and [type(v) for v in value] == [int, int, str]
        and re.fullmatch("[0-9]+-[0-9a-f]{16}", value[2]) is not None
    )


def videos_of(records: Iterable[Mapping[str, Any]], ids: Iterable[str]) -> dict[str, str]:
    """{sample: the files it was asked about, as one label} of these samples: a run's clusters.

    Two samples belong together where all their files are the same; one without files, or a record, is its own.
    """
    files = {r["id"]: "\n".join(sorted(r["media"])) for r in records if r.get("media")}
    return {name: files.get(name, name) for name in ids}


def videos(folder: str | Path) -> dict[str, str]:
    """{sample: label of its files} of a run folder, for `cluster=` of `avflow.results.average_change` and others; a
    sample without files is its own.

    Raises:
        InputError: the folder holds no records.
    """
    records = read_records(folder)
    if not records:
        raise InputError(f"{folder} has no samples.jsonl: pass the folder of a run")
    return videos_of(records, [r["id"] for r in records])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def record_of_part(path: Path) -> dict[str, Any]:
    """The record in a part's schema. Raises InputError: the file is damaged, or is no part of that name."""
    record: dict[str, Any] | None = meta_of(read_parquet_schema(path).empty_table()).get("record")
    if record is None or not _is_record(record) or part_name(record["id"]) != path.name:
        raise InputError(f"{path} is no part of a run: it carries no record of its sample")
    return record


def media_state(paths: Iterable[str]) -> dict[str, list[Any]]:
    """{path: [bytes, time of the last change in ns, fingerprint]} of the files that are there."""
    found: dict[str, list[Any]] = {}
    for path in paths:
        try:
            status = Path(path).stat()
            found[path] = [status.st_size, status.st_mtime_ns, of_file(path)]
        except (OSError, ValueError):  # decoding it tells why
            continue
    return found


def changed_media(media: Mapping[str, list[Any]]) -> str:
    """Of what `media_state` gave, the first file that is another one now, in words; "" where none is.

    A file of the same size and time is the same; one of another time is read: it may have been copied. One that is
    gone has not changed: a run may outlive its media.
    """
    for path, (size, time, was) in media.items():
        try:
            status = Path(path).stat()
            if (status.st_size, status.st_mtime_ns) != (size, time) and (now := of_file(path)) != was:
                return f"its file {path} has changed since ({changed(was, now)})"
        except (OSError, ValueError):
            continue
    return ""
