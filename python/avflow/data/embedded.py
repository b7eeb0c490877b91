"""Media that stand within a data set's rows: written out once, under a name that their content gives them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_whole

# What a file begins with -> its ending; decoders go by content, the roles of a Sample by the ending.
_BEGINNINGS = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"\xff\xf1", ".aac"),
    (b"\x1aE\xdf\xa3", ".mkv"),
)


def media_cache() -> Path:
    """Where such media go: avflow/media in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avflow" / "media"


def stored(value: bytes | Mapping[str, Any]) -> Path:
    """The file of bytes, or of {"bytes", "path"} as Hugging Face data sets hold it. The same bytes, the same path."""
    data, name = (value, "") if isinstance(value, bytes) else (value["bytes"], value.get("path") or "")
    suffix = _suffix(data) or Path(name).suffix.lower()
    if not suffix:
        raise InputError(f"a file of {len(data)} bytes in the data set is of no known kind (begins with {data[:8]!r})")
    path = media_cache() / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if not (path.is_file() and path.stat().st_size == len(data)):
        write_whole(path, data)
    return path


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF":
        return {b"WAVE": ".wav", b"WEBP": ".webp", b"AVI ": ".avi"}.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return ".m4a" if data[8:11] == b"M4A" else ".mp4"
    return next((suffix for beginning, suffix in _BEGINNINGS if data.startswith(beginning)), "")
