"""Which transformers avflow works with. Imports neither it nor torch, so that `avflow doctor` can say what is wrong."""

from __future__ import annotations

import re
from importlib import metadata

from .errors import UnsupportedModelError

OLDEST_TRANSFORMERS = (5, 17)


def transformers_problem() -> str | None:
    """What is wrong with the installed transformers, and the mend; None where nothing is."""
    oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
    mend = f"pip install 'transformers>={oldest},<6'"
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return f"transformers is not installed: {mend}"
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_TRANSFORMERS:
        return f"transformers {version} is too old, avflow needs {oldest} or later: {mend}"
    return None


def check_transformers() -> None:
    """Raises UnsupportedModelError where the installed transformers is none that models are loaded with."""
    if (problem := transformers_problem()) is not None:
        raise UnsupportedModelError(problem)
