"""The package of benchmarks/, which is not installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def scripts(monkeypatch):
    """Imports a benchmark by its name, such as "cuda/sweep"."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return lambda name: importlib.import_module(f"benchmarks.{name.replace('/', '.')}")
