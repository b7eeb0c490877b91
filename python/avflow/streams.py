"""Standard output and error that may be closed, full, or without a reader: none of it ends a run."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# C0 and C1 controls, line and paragraph separators, what turns the direction of writing, lone surrogates.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class _Tolerant(io.FileIO):
    """Writes to a descriptor; where that fails, the descriptor leads to the null device from then on."""

    failure: OSError | None = None

    def write(self, data):  # type: ignore[no-untyped-def]  # FileIO's own signature
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for what libraries write to it by themselves too
            os.close(null)
            return len(data)


def printable(text: str) -> str:
    """`text` on one line, its control characters as escapes: an id from a file can neither forge a line nor steer a
    terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def tolerant_streams() -> Iterator[list[OSError]]:
    """Within the block sys.stdout and sys.stderr never raise. For a program's own process, not for a library.

    Descriptors 0, 1 and 2 that are closed are opened on the null device: else the next file that is opened gets their
    number, and what a library prints is written into it.

    Gives a list, which after the block holds why stdout could not be written; a reader that has gone is no failure.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    raws = [_wrapped("stdout", 1), _wrapped("stderr", 2)]
    failures: list[OSError] = []
    try:
        yield failures
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        failure = raws[0].failure
        if failure is not None and failure.errno != errno.EPIPE:
            failures.append(failure)


def _wrapped(name: str, descriptor: int) -> _Tolerant:
    """Puts a tolerant stream in the place of sys.stdout or sys.stderr, with the encoding of the one there."""
    old = getattr(sys, name)
    raw = _Tolerant(descriptor, "w", closefd=False)
    if old is not None:
        with suppress(OSError):
            old.flush()
    new = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors="backslashreplace",  # a file name that is no UTF-8 can be shown too
        line_buffering=name == "stderr" or bool(getattr(old, "line_buffering", False)),
        write_through=bool(getattr(old, "write_through", False)),
    )
    setattr(sys, name, new)
    return raw
