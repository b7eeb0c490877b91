"""What `model.prepare` may be told about sampling and wording, checked before a medium is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import checks
from ..media.timing import TIMINGS
from .wording import PromptStyle

_MOST = 2**31 - 1  # frames and pixels are counted in int32 by the models' processors


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
