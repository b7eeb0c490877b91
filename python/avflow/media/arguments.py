"""What readers of files are given, checked before a file is opened: this room stands beside `checks`, not above it."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import Any

from ..errors import InputError

LONGEST = 1e7  # seconds, four months: more is a slip, and would be as many samples of silence
_SHOWN = 60  # characters of a value


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises InputError for what is none of the words."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {_shown(value)}: pass one of {', '.join(choices)}")


def check_flag(name: str, value: Any) -> None:
    """Raises InputError for what is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {_shown(value)}: pass True or False")


def check_seconds(name: str, value: Any, low: float = -LONGEST) -> None:
    """Raises InputError for what is neither None nor a number of seconds from `low` on."""
    if value is not None and not (_is_number(value) and low <= value <= LONGEST):
        raise InputError(f"{name} is {_shown(value)}: pass seconds, {low:g} to {LONGEST:g}, or None")


def check_span(span: Any) -> None:
    """Raises InputError for what is no pair of seconds or None."""
    if not isinstance(span, tuple | list) or len(span) != 2:
        raise InputError(f"span is {_shown(span)}: pass (first second, last second), each of which may be None")
    for one in span:
        check_seconds("span", one)


def check_sampling(fps: Any, min_frames: Any, max_frames: Any) -> None:
    """Raises InputError for a rate and limits of frames that make no sense."""
    if not _is_number(fps) or not fps > 0:
        raise InputError(f"fps is {_shown(fps)}: sample more than 0 frames per second")
    if not (_is_number(min_frames) and _is_number(max_frames) and 2 <= min_frames <= max_frames):
        raise InputError(
            f"min_frames {_shown(min_frames)} and max_frames {_shown(max_frames)}: need 2 <= min_frames <= max_frames"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
