"""Names of run folders on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import readable


def folder_names(folders: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, in their order.

    Raises:
        InputError: no folder, or one that is given twice.
    """
    if not folders:
        raise InputError("no run folder is given: name one or more")
    parts = [[readable(part) for part in Path(folder).absolute().parts] for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("a run folder is given twice: name each once")
