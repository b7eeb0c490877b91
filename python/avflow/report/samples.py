"""shown.json of a folder of its own: samples as the report shows them (`demo.sample_view` makes them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import make_folder, write_whole

FILE, VERSION = "shown.json", 1


def write_sample_views(
    folder: str | Path, samples: list[dict[str, Any]], schedule: dict[str, int] | None = None
) -> Path:
    """Write folder/shown.json.

    Args:
        samples: as `demo.sample_view.sample_view` gives them; each may have "answers" (see `answers` there).
        schedule: {group: last layer that sees it}, of the answers.
    """
    folder = Path(folder)
    make_folder(folder)
    value = {"format": "avflow-shown", "version": VERSION, "schedule": schedule, "samples": samples}
    write_whole(folder / FILE, json.dumps(value, ensure_ascii=False).encode())
    return folder / FILE


def read_sample_views(folder: str | Path) -> dict[str, Any]:
    """Raises InputError for a file of another format or a newer version."""
    path = Path(folder) / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict) or value.get("format") != "avflow-shown":
        raise InputError(f"{path} is no file of a report's samples: run avflow demo again")
    if value.get("version") != VERSION:
        raise InputError(f"{path} is of version {value.get('version')!r}, this avflow reads {VERSION}: make it anew")
    return value
