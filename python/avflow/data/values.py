"""Values of a data set's row: by column or template, and as what a Sample takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import checks
from ..errors import InputError
from ..prompts.answer import LETTERS
from ..prompts.media_path import media_path
from .embedded import stored
from .option_lists import as_options

_HOLE = re.compile(r"\{([^{}]+)\}")


class LeftOut(Exception):
    """A row that a mapping does not take. The message says why."""


class Row:
    """A row's values by column name or template."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row

    def text(self, template: str) -> Any:
        """The column's value, of whatever type; or the template filled in: None where an optional hole has no value."""
        if "{" not in template:
            return self._column(template)
        values = {hole: self._column(hole) for hole in _HOLE.findall(template)}
        empty = [hole for hole, value in values.items() if is_missing(value)]
        if wanted := [hole for hole in empty if not hole.endswith("?")]:
            raise InputError(f"the column {wanted[0]!r} holds nothing, but {template!r} needs it")
        return None if empty else _HOLE.sub(lambda hole: str(values[hole[1]]), template)

    def several(self, template: str | Sequence[str]) -> Any:
        return self.text(template) if isinstance(template, str) else [self.text(t) for t in template]

    def _column(self, name: str) -> Any:
        wanted = name.removesuffix("?")
        if wanted not in self.row and wanted == name:
            raise InputError(f"no column {name!r}: there are {[n for n in sorted(self.row) if n[:1] != '_']}")
        return self.row.get(wanted)


def column_names(template: str) -> set[str]:
    """The columns that a column's name or a template reads, "?" and all."""
    return set(_HOLE.findall(template)) if "{" in template else {template}


def is_missing(value: Any) -> bool:
    """Nothing, as a table says it: null, an empty cell, NaN."""
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and math.isnan(value))


def as_name(value: Any, what: str) -> str:
    """An id or a task as text; numbers are taken as they are written, several texts with spaces between them."""
    if is_missing(value):
        return ""
    if what == "task" and isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":  # a list in a text
        value = as_options(value)
    if what == "task" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    if not isinstance(value, (str, int, float)):
        raise InputError(f"{what} must be a text or a number, got {checks.shown(value)}")
    return str(value)


def as_path(name: str, value: Any, media: Path) -> str | None:
    """A path, as text; a file that stands in the row itself is written out first."""
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    if isinstance(value, dict) and not isinstance(value["bytes"], bytes):
        raise InputError(f"{name} holds no bytes, but {checks.shown(value['bytes'])}")
    if isinstance(value, (dict, bytes)):
        return str(stored(value))
    if value is not None and not isinstance(value, str):
        raise InputError(f"a path must be text or a file's bytes, got {checks.shown(value)}")
    return media_path(name, value, media)


def as_seconds(value: Any, name: str) -> float | None:
    try:
        if isinstance(value, bool):
            raise TypeError
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} must be seconds, got {checks.shown(value)}") from None


def as_letter(answer: Any, first: int, options: int) -> str:
    whole = isinstance(answer, float) and answer.is_integer()  # as tables with gaps keep integers
    try:
        if isinstance(answer, (bool, float)) and not whole:
            raise TypeError
        number = int(answer) - first
    except (TypeError, ValueError):
        shown = checks.shown(answer)
        raise InputError(f"answer {shown} is no number, but the mapping has first_answer: {first}") from None
    if not 0 <= number < options:
        raise InputError(
            f"answer {checks.shown(answer)} is none of {first} to {first + options - 1}: mend it, or first_answer"
        )
    return LETTERS[number]


def as_files(value: Any) -> list[Any]:
    return [v for v in (value if isinstance(value, (list, tuple)) else [value]) if not is_missing(v)]
