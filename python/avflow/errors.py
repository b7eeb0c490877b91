"""Every error this package raises on purpose. Each message names the bad value and the mend."""

from __future__ import annotations

import sys
import warnings


class AvflowError(Exception):
    """Anything that avflow itself reports."""


class InputError(AvflowError, ValueError):
    """A value given by the user does not fit: wrong length, unknown name, out of range."""


class MediaError(InputError):
    """A media file is missing, broken, or lacks what was asked of it."""


class UnsupportedModelError(AvflowError, ValueError):
    """The model or checkpoint belongs to no family that avflow knows, or uses a feature that it does not carry."""


class NumericError(AvflowError, RuntimeError):
    """A model produced NaN or infinity where a probability was wanted."""


class RunError(AvflowError, RuntimeError):
    """A run folder cannot be written, or is in use. What was finished before is intact."""


class AvflowWarning(UserWarning):
    """Something that the numbers depend on, and that avflow cannot judge: the message says what to look at."""


def warn_user(message: str) -> None:
    """An `AvflowWarning` at the line outside of this package from which it was reached."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_passed_through(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, AvflowWarning, stacklevel=level)


def _is_passed_through(module: str) -> bool:
    """Whether a frame of this module stands between a user's line and ours: our own, torch's decorators, contexts."""
    return module.split(".")[0] in ("avflow", "torch", "contextlib")
