"""Encoders that take the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Whatever runs within, this thread goes on as an ordinary one.

    SVT-AV1 gives the thread that encodes real-time priority where it may, as root, and all that it starts later inherit
    it: a browser takes every core, and nothing else runs.
    """
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
