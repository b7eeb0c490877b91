"""The paths of the CPU's ops: those that are built need not run on this processor."""

from __future__ import annotations

from avflow_ext import capabilities
from avflow_ext._load import _C


def runs(path: str) -> bool:
    before = _C.cpu_isa()
    try:
        _C.set_cpu_isa(path)
    except ValueError:
        return False
    _C.set_cpu_isa(before)
    return True


def running() -> list[str]:
    """Those that this build has and this processor runs, the fastest first."""
    return [path for path in capabilities()["cpu_built"] if runs(path)]
