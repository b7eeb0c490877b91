"""A row's options as a list of texts, from the ways in which data sets write them; and templates that lists fill."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from .. import checks
from ..documents import parse_json
from ..errors import InputError


def as_options(value: Any) -> list[str] | None:
    """From a list, from a list written as JSON or Python, or from a text with one option per line; None for nothing.

    A list may end in nothing (null), as columns of fixed length do.

    Raises:
        InputError: something else, or nothing before another option: leaving it out would move the letters.
    """
    if value is None or value == "":
        return None
    found = _written(value.strip()) if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)):
        raise InputError(f"options must be a list or a text, got {checks.shown(found)}")
    found = list(found)
    while found and _is_nothing(found[-1]):
        found.pop()
    for number, option in enumerate(found):
        if _is_nothing(option) or isinstance(option, (list, tuple, dict, bytes)):
            raise InputError(f"option number {number + 1} is {checks.shown(option)}: give a text or a number")
    return [str(option) for option in found]


def _is_nothing(option: Any) -> bool:
    return option is None or (isinstance(option, float) and math.isnan(option))


def _written(text: str) -> Any:
    """The list that a text holds; else its lines."""
    for read in (parse_json, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, (list, tuple, dict)):
            return found
    lines = [line for line in text.split("\n") if line.strip()]
    # a list that neither reads, over several lines: its brackets would become parts of options
    for opening, closing in ("[]", "{}", "()"):
        if text.startswith(opening) and text.endswith(closing) and lines[0].count(opening) > lines[0].count(closing):
            raise InputError(f"options must be a list or a text, got {checks.shown(text)}: neither JSON nor Python")
    return lines


_BLANK = re.compile(r"<[A-Za-z]\w*>")


def filled(question: Any, values: Any) -> str:
    """The question with its "<Object>", "<FL>" ... replaced by the values, in order.

    values: a list, a list in a text, or nothing.

    Raises:
        InputError: another number of values than there are blanks.
    """
    text = checks.text("the question", question)
    words = as_options(values) or []
    blanks = _BLANK.findall(text)
    if len(blanks) != len(words):
        raise InputError(
            f"the question {checks.shown(text)} has {len(blanks)} blanks ({', '.join(blanks) or 'none'}), its row has "
            f"{len(words)} values for them ({', '.join(words) or 'none'}): give one for each"
        )
    if not all(word.strip() for word in words):
        raise InputError(
            f"the question {checks.shown(text)} has a blank for which its row has an empty value ({words})"
        )
    rest = iter(words)
    return _BLANK.sub(lambda _: next(rest), text)
