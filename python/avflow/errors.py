"""Every error this package raises on purpose. Each message names the bad value and the mend."""


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
