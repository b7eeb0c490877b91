"""Values that users give, checked one by one: each function returns the value, or raises an InputError that names it.

Every option, field and argument goes through these, so that a wrong type or an absurd size is told in one line before
anything runs, and not as a TypeError or OverflowError from within it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import InputError

MOST_LAYERS = 10_000  # no decoder has as many; a number above is a slip
MOST_STEPS = 10_000  # of a schedule
MOST_TOKENS = 1_000_000  # of an answer; a number above is a slip
_SHOWN = 120


def shown(value: Any) -> str:
    """repr(value), cut to a line's length; also of what has no repr, such as an integer of 5,000 digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits, or deeper, than Python prints
        text = f"a very long {type(value).__name__}"
    text = re.sub(r"\s*\n\s*", " ", text)  # arrays
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def text(name: str, value: Any) -> str:
    """A str that UTF-8 can hold.

    Raises:
        InputError: another type; a lone surrogate, which no file or terminal takes.
    """
    if not isinstance(value, str):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        mend = f': write "{shown(value)}"' if number else ""
        raise InputError(f"{name} must be text, got {shown(value)}{mend}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds half a character ({ascii(value[error.start])}, a lone surrogate) at place {error.start}: "
            "write the whole character"
        ) from None
    return value


def texts(name: str, value: Any) -> list[str]:
    """A list of str, from any sequence of them, or from one alone. Raises InputError."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (Sequence, set, frozenset)) or isinstance(value, (bytes, bytearray)):
        raise InputError(f"{name} must be texts, got {shown(value)}")
    return [text(name, one) for one in value]


def each(value: Any) -> Iterator[Any] | None:
    """The values that a collection holds, one by one; None for one value, which a text and an array without axes are.

    (Such arrays have `__iter__`, so that isinstance(value, Iterable) takes them for collections.)
    """
    if isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        return iter(value)
    except TypeError:
        return None


def members(value: Any, most: int) -> list[Any] | None:
    """The same as a list, of `most + 1` at most: range(10**9) is short only to write."""
    found = each(value)
    return None if found is None else list(islice(found, most + 1))


def integer(name: str, value: Any, low: int = 0, high: int = 2**63 - 1, mend: str = "") -> int:
    """An int of low .. high; a numpy integer too. bool is none."""
    try:
        found = None if isinstance(value, bool) else value.__index__()
    except (AttributeError, TypeError, ValueError):  # the last two: an array or a tensor of several values
        found = None
    if found is None or not low <= found <= high:
        raise InputError(f"{_is(name)} {shown(value)}: {mend or f'give an integer of {_span(low, high)}'}")
    return found


def number(
    name: str, value: Any, low: float = 0.0, above: bool = False, high: float = math.inf, mend: str = ""
) -> float:
    """A finite float of low .. high (`above`: not low itself); from an int too. bool, NaN and infinity are none."""
    mend = mend or f"give a number {'above' if above else 'of at least'} {low:g}" + (
        "" if high == math.inf else f" and at most {high:g}"
    )
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{_is(name)} {shown(value)}: {mend}") from None
    if not math.isfinite(found) or not low <= found <= high or (above and found == low):
        raise InputError(f"{_is(name)} {shown(value)}: {mend}")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False themselves: "no", 0 and 1 are refused, not taken for one of them."""
    if not isinstance(value, bool):
        raise InputError(f"{_is(name)} {shown(value)}: use true or false")
    return value


def choice(name: str, value: Any, choices: Collection[str]) -> str:
    """One of the words."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} = {shown(value)}: pass one of {', '.join(choices)}")
    return value


def path(name: str, value: Any) -> Path:
    """A path, "~" expanded; see `expanded`."""
    return Path(expanded(name, value))


def expanded(name: str, value: Any) -> str:
    """A path as text, as it was given but for "~" at its start: this is the one place where that is expanded.

    Bytes that are no UTF-8 stand in a str as the surrogates that os.fsdecode makes of them, and are taken.

    Raises:
        InputError: another type, nothing, or what no file system can hold.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise InputError(f"{name} must be a path, got {shown(value)}")
    found = os.fspath(value)
    if not found:
        raise InputError(f"{name} is empty: give a path")
    check_path(name, found)
    return os.path.expanduser(found)


def check_path(name: str, value: str) -> None:
    """Raises InputError for a text that cannot be a path: it holds a NUL character or a lone surrogate."""
    if "\0" in value:
        raise InputError(f"{name} is {shown(value)}: a path holds no NUL character")
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} is {shown(value)}: it holds half a character ({ascii(value[error.start])}, a lone surrogate)"
        ) from None


def _is(name: str) -> str:
    """An argument's name ends in "=" ("TopK.share ="), a field of a file has "is" behind it."""
    return name if name.endswith("=") else f"{name} is"


def _span(low: int, high: int) -> str:
    return f"{low} or more" if high >= 2**63 - 1 else f"{low} .. {high}"
