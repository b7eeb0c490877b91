"""Names of run folders on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checks
from ..errors import InputError
from ..files import readable

MOST = 10_000  # folders of a page; more is a slip


def several(folders: Any) -> list[str | Path]:
    """The folders of a list. Raises InputError for one alone, and for what is none."""
    found = checks.members(folders, MOST)
    if found is None:
        raise InputError(f"folders = {checks.shown(folders)}: pass a list of run folders")
    for folder in found:
        checks.path("a run folder", folder)
    return found


def folder_names(folders: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, in their order.

    Raises:
        InputError: no folder, or one that is given twice.
    """
    folders = several(folders)
    if not folders:
        raise InputError("no run folder is given: name one or more")
    parts = [[readable(part) for part in Path(folder).absolute().parts] for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("a run folder is given twice: name each once")
