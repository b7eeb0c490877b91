"""The small trained models of the package avflow-models: `avflow.load("tiny-omni")`. avflow runs without it."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from .errors import InputError

NAMES = ("tiny-omni", "tiny-salmonn")
SERIES = 1  # of avflow-models: with another first number the weights are others, and so is what the pages say of them
GET = f"pip install 'avflow-models>={SERIES},<{SERIES + 1}'"


def installed() -> Path | None:
    """The folder of the package avflow-models, whatever its version; None where there is none."""
    spec = importlib.util.find_spec("avflow_models")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def other_series() -> str | None:
    """What is wrong with the installed avflow-models, and the mend; None where it will do, or there is none."""
    try:
        version = metadata.version("avflow-models")
    except metadata.PackageNotFoundError:  # also a bare folder on the path, of a checkout
        return None
    if version.partition(".")[0] == str(SERIES):
        return None
    return f"avflow-models {version} has other weights than this avflow was tested with: {GET}"


def folder(name: str) -> Path:
    """The checkpoint folder of one of NAMES.

    Raises:
        InputError: the package avflow-models is not installed, or has weights of another series.
    """
    if (home := installed()) is None:
        raise InputError(
            f"model {name!r} is in a package of its own, which is not installed: "
            f"pip install ./avflow-models in a checkout, else {GET}"
        )
    if (wrong := other_series()) is not None:
        raise InputError(f"model {name!r}: {wrong}")
    return home / name
