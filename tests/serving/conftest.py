"""These need vLLM, which has an environment of its own: `make test-vllm`."""

import os

import pytest

from avflow_vllm.compat import installed_version

if installed_version() is None:
    collect_ignore_glob = ["test_served_*.py"]


@pytest.fixture(autouse=True)
def nothing_is_left():
    """An engine sets much of its process for good: variables, signals, threads."""


@pytest.fixture(scope="session")
def asked():
    """Held-out questions about clips with sound, and what avflow itself answers under every schedule."""
    from served import ask

    return ask(int(os.environ.get("AVFLOW_TEST_PROMPTS", 40)))


@pytest.fixture
def engine():
    """Makes engines in this process, one at a time."""
    from served import Engine

    made = []

    def make(**options):
        while made:
            made.pop().close()
        made.append(Engine(**options))
        return made[-1]

    yield make
    while made:
        made.pop().close()
