"""Files that are there whole or not at all, and the lock of a folder."""

from __future__ import annotations

import errno
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RunError

_MENDS: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another --out folder",
    errno.EACCES: "no permission to write there: choose another --out folder",
    errno.EPERM: "no permission to write there: choose another --out folder",
}


# Those of avflow before 0.2, which bore no mark of its own, by the names of its files.
_BEFORE = r"(.+\.parquet|config\.yaml|samples\.jsonl|summary\.json|report\.html)\.[0-9]+"
_TEMPORARY = re.compile(rf"\.(.+\.[0-9]+\.avflow|{_BEFORE})\.tmp")
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # what flock says where there are none


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.avflow.tmp")
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


def readable(text: str) -> str:
    """`text`, which may name files, for figures and pages, which take whole characters only.

    The name of a file that is no text, by its bytes or by the locale, holds lone surrogates (os.fsdecode): these become
    the UTF-8 that they stand for, and escapes (\\xff), which keep two names apart, where they are none.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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
    """Delete temporary files of `write_whole` whose writers were killed, and no others. Call it with the folder's lock
    held."""
    for temporary in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(temporary.name):
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
    """One writer a folder. The kernel drops the lock when its process dies, so a killed run never blocks the next.

    folder/.lock names the process that writes: while it is held, nobody else may. On a file system without locks
    (Lustre and NFS can be set up so) a warning says that nothing keeps a second writer out.

    Raises:
        RunError: another process writes the folder, or .lock cannot be written, or is a link to another file.
    """

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        # filelock's stand-in for missing locks is a file that stays when its process is killed on another machine.
        self._lock = FileLock(self.path, blocking=False, thread_local=False, fallback_to_soft=False)
        if self.path.is_symlink():
            raise RunError(f"{self.path} is a symbolic link, to {os.readlink(self.path)}: remove it; a lock is a file")
        with writing(self.path):
            try:
                self._lock.acquire()
            except Timeout:
                owner = self._owner() or "another process"
                raise RunError(
                    f"{folder} is being written by {owner}: wait until it ends, or choose another --out folder"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                warnings.warn(f"no locks on this file system ({error}): start one run a folder only", stacklevel=2)
        try:
            with writing(self.path):
                descriptor = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        except RunError:
            self.release()
            raise

    def _owner(self) -> str:
        with suppress(OSError):
            return self.path.read_bytes()[:200].decode(errors="replace").strip()
        return ""

    def release(self) -> None:
        self._lock.release()
