"""Workers that start quickly."""

import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def warm():
    """A context of multiprocessing whose processes have all imports when they start."""
    if sys.platform != "linux":
        pytest.skip("a server of processes needs fork")
    import warm_worker

    return warm_worker.server()


@pytest.fixture
def quick_workers(monkeypatch):
    """Workers are such processes; without this they are spawned, as users' are."""
    if sys.platform == "linux":
        import warm_worker

        from avflow.runs.workers import processes

        context = warm_worker.server()
        monkeypatch.setattr(processes, "multiprocessing", SimpleNamespace(get_context=lambda _: context))
