"""Where a sample's medium lies: a path. Whatever else may be meant (an address, bytes, an array) is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .. import checks
from ..errors import InputError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_DATA = re.compile(r"^data:[\w.+-]*(/[\w.+-]+)?(;[\w.=+-]+)*,", re.IGNORECASE)


def media_path(name: str, value: Any, folder: Path | None = None) -> str | None:
    """The path as text, relative ones within `folder`; None for nothing. file:// is read as the path that it names.

    Raises:
        InputError: bytes, an array, a list; an address such as https://, a data: URL; what no file system can hold.
    """
    if value is None or (isinstance(value, str) and value == ""):
        return None
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        mend = "" if isinstance(value, (int, float, dict)) else ": write media that are in memory to files"
        raise InputError(f"{name} must be one path, got {checks.shown(value)}{mend}")
    text = os.fspath(value)
    checks.check_path(name, text)
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() == "file":
        text = _local(name, text)
    elif scheme:
        raise InputError(f"{name} is the address {checks.shown(text)}, not a file: download it first")
    elif _DATA.match(text):
        raise InputError(f"{name} is a data: URL ({checks.shown(text)}), not a file: write its bytes to a file")
    return text if folder is None else str(folder / text)


def _local(name: str, text: str) -> str:
    parts = urlsplit(text)
    path = unquote(parts.path, errors="surrogateescape")
    if parts.netloc not in ("", "localhost") or not path or parts.query or parts.fragment:
        raise InputError(f"{name} is {checks.shown(text)}: write the path itself, or file:///PATH of this machine")
    checks.check_path(name, path)
    return path
