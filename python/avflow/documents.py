"""Text files that users write: UTF-8 whatever the locale, and JSON and YAML with every slip as an InputError."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError


def read_text(path: Path, what: str) -> str:
    """The text of a regular file, as UTF-8 (a byte order mark is dropped), line ends as "\\n".

    Raises:
        InputError: no such file, a pipe or a folder, another encoding; `what` names it, as "the samples file".
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            # opening a pipe would wait for its writer, for ever if there is none
            kind = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
            raise InputError(f"cannot read {what} {path}: it is a {kind}; write its text to a file and name that")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is broken: not UTF-8 text ({error}); save it as UTF-8") from error


def parse_json(text: str, first_line: int = 1) -> Any:
    """The value of a JSON text that begins in line `first_line` of its file.

    Raises:
        InputError: not JSON; a key twice in one object, of which one value would be lost without a word; deeper
            nesting or longer integers than Python reads.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        raise InputError(f"not JSON ({error.msg}, line {line}, column {error.colno})") from error
    except RecursionError:
        raise InputError("not JSON that can be read: it is nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:  # of int: the message tells how many digits there are at most
        raise InputError(f"not JSON that can be read: an integer is too long ({error})") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML (or JSON) text. Raises InputError: not YAML, or more than Python reads."""
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise InputError("not YAML that can be read: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"not YAML ({' '.join(str(error).split())})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the key {twice!r} stands twice in one object: leave one of them out")
    return found
