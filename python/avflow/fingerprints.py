"""What tells one file from another of the same name: its size, and a hash of its content.

Not its time: a copied folder has other times and the same content. Small files are hashed whole. Of a large one the
hash is over blocks spread through it, and over the header and the begin, middle and end of every tensor where it is a
safetensors file: a model that was trained on, merged or quantised, and a video that was cut or encoded anew, differ in
nearly all of them. A few bytes that were edited by hand between two blocks are not seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_WHOLE = 1 << 20  # bytes; a file up to this size is read whole
_BLOCK, _BLOCKS = 1 << 16, 16  # of a larger one: bytes of a block, how many
_WHOLE_WEIGHTS = 1 << 24
_OF_TENSOR = 1 << 12  # bytes at the begin, the middle and the end of each tensor
_LONGEST_HEADER = 10**8  # of a safetensors file, by its format


def of_file(path: str | Path) -> str:
    """Such as "6834-0f1e2d3c4b5a6978": size in bytes, hash. Raises OSError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        spans = [(0, size)]
        if size > _WHOLE:
            spans = [(i * (size - _BLOCK) // (_BLOCKS - 1), _BLOCK) for i in range(_BLOCKS)]
        return _of_spans(file, size, spans)


def of_weights(path: str | Path) -> str:
    """As `of_file`; of a large safetensors file every tensor counts. Raises OSError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        spans = [(0, size)]
        if size > _WHOLE_WEIGHTS:
            spans = _tensor_spans(file, size)
        if spans:
            return _of_spans(file, size, spans)
    return of_file(path)


def _tensor_spans(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """(begin, bytes) in a safetensors file: the header, three pieces of every tensor; nothing where it is none."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size, _LONGEST_HEADER):
        return []
    try:
        header = json.loads(file.read(length))
        offsets = sorted(v["data_offsets"] for k, v in header.items() if k != "__metadata__")
        spans = [(0, 8 + length)]
        for begin, end in offsets:
            last = max(begin, end - _OF_TENSOR)
            spans += [(8 + length + at, min(_OF_TENSOR, end - begin)) for at in (begin, (begin + last) // 2, last)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return spans


def _of_spans(file: BinaryIO, size: int, spans: list[tuple[int, int]]) -> str:
    found = hashlib.sha256()
    for begin, length in spans:
        file.seek(begin)
        while length > 0 and (data := file.read(min(length, _WHOLE))):
            found.update(data)
            length -= len(data)
    return f"{size}-{found.hexdigest()[:16]}"


def changed(was: str, now: str) -> str:
    """In words, how a file of fingerprint `was` became one of fingerprint `now`."""
    (before, _), (after, _) = was.split("-"), now.split("-")
    return f"it had {before} bytes and has {after}" if before != after else f"other content in the same {after} bytes"


def changed_files(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In words, in which files two sets of {file: fingerprint} differ; "" where in none."""
    other = []
    for name in sorted({*was, *now}):
        if name not in now or name not in was:
            other.append(f"{name} {'is gone' if name in was else 'is new'}")
        elif was[name] != now[name]:
            sized = was[name].count("-") == now[name].count("-") == 1
            other.append(f"{name}: {changed(was[name], now[name]) if sized else f'{was[name]} there, {now[name]} now'}")
    return "; ".join(other)
