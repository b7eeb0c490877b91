"""Files that are there whole or not at all, and the lock of a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import AvflowError

_MENDS: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another --out folder",
    errno.EACCES: "no permission to write there: choose another --out folder",
    errno.EPERM: "no permission to write there: choose another --out folder",
}


class RunError(AvflowError, RuntimeError):
    """A run folder cannot be written, or is in use. What was finished before is intact."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an OSError about `path` into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError about `path` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno, f"{error.strerror or error}: mend it and run the same command again")
        raise RunError(f"cannot write {path}: {mend}. Samples finished before are kept") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, fsync, rename: nobody ever sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append `line` and fsync. If it does not fit, the file is cut back to what it was."""
    data = (line + "\n").encode()
    with writing(path):
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # the first reason is the one to tell
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if new:
            _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """The folder with its parents; those that are new survive a power cut."""
    with writing(path):
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            _sync_folder(folder.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of writers that were killed. Call it with the folder's lock held."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the rename itself must survive a power cut
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems that sync no folders
            raise
    finally:
        os.close(descriptor)


class FolderLock:
    """One writer a folder. The kernel drops the lock when its process dies, so a killed run never blocks the next."""

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        with writing(self.path):
            self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            self.release()
            raise RunError(
                f"{folder} is being written by {owner}: wait until it ends, or choose another --out folder"
            ) from None
        except OSError as error:
            warnings.warn(f"no locks on this file system ({error}): start one run a folder only", stacklevel=2)
        try:
            with writing(self.path):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except RunError:
            self.release()
            raise

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
