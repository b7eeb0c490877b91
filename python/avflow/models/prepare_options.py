"""What `model.prepare` may be told about sampling and wording, checked before a medium is opened."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .. import checks
from ..errors import InputError
from ..media.timing import TIMINGS
from .wording import PromptStyle

_MOST = 2**31 - 1  # frames and pixels are counted in int32 by the models' processors


def check_taken(prepare: Callable[..., Any], options: Mapping[str, Any], family: str) -> None:
    """Raises InputError for an option that a family's `prepare` does not name."""
    parameters = inspect.signature(prepare).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.name not in ("model", "sample")]
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"{unknown[0]} = {checks.shown(options[unknown[0]])}: {family} takes {', '.join(known)}")


def check_prepare_options(options: Mapping[str, Any]) -> None:
    """Raises InputError for a value that no family takes. Names that are not known here are the family's own."""
    for name, value in options.items():
        if value is None:
            continue  # the family's default, or its own error
        if name == "fps":
            checks.number(name, value, above=True, high=1e6, mend="sample more than 0 frames per second")
        elif name in ("min_frames", "max_frames", "min_pixels", "max_pixels"):
            checks.integer(name, value, low=1, high=_MOST)
        elif name in ("use_audio_in_video", "question_first"):
            checks.flag(name, value)
        elif name == "timing":
            checks.choice(name, value, TIMINGS)
        elif name in ("system", "instruction"):
            checks.text(name, value)
        elif name == "prompt_style":
            PromptStyle.of(value)
