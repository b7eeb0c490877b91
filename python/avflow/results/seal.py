"""A checksum within a Parquet file, over all of it: pages, footer and the footer's length.

Parquet has checksums of pages only, so that a bit flipped in the footer can give other numbers. The seal stands in the
gap before the footer, to which no offset points: every Parquet reader takes the file, and one that writes it anew
leaves the seal out.

    pages | MARK, 16 bytes | SHA-256 of all the other bytes, 32 bytes | footer | its length, 4 bytes | "PAR1"
"""

from __future__ import annotations

import hashlib

MARK = b"\navflow:sha-256:"
_DIGEST = 32  # bytes


def sealed(data: bytes) -> bytes:
    """The bytes of a Parquet file, with a seal."""
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # where the footer begins
    return data[:at] + MARK + _sha256(data[:at], MARK, data[at:]) + data[at:]


def is_whole(data: bytes) -> bool:
    """Whether the bytes are those that were sealed; True where there is no seal: another program wrote the file."""
    at = data.rfind(MARK)  # searched for, as the footer's length may be what is damaged
    if at < 0:
        return True
    view, digest = memoryview(data), at + len(MARK)
    return _sha256(view[:digest], view[digest + _DIGEST :]) == data[digest : digest + _DIGEST]


def _sha256(*parts: bytes | memoryview) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()
