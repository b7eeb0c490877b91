"""Fuzzers: inputs made at random, against one rule each. `make fuzz FUZZ_MINUTES=120` runs them for two hours.

In CI each tries the same handful of examples every time, so that it does not fail by chance. With FUZZ_MINUTES they try
random ones, round after round, each for its share of the time; a failure is printed with its example, which is kept in
.hypothesis/ and tried first in the next run. What a fuzzer finds becomes an ordinary test in its room's folder.
"""

from __future__ import annotations

import time

import pytest
from fuzzing import MINUTES

HERE = __file__.rpartition("/")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """With FUZZ_MINUTES a fuzzer is called again and again; this hook sees the tests of this folder alone."""
    if not MINUTES:
        return None
    fuzzers = [item for item in pyfuncitem.session.items if str(item.path).startswith(HERE)]
    end = time.monotonic() + 60 * MINUTES / len(fuzzers)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
    return True
