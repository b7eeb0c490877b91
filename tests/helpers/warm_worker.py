"""Processes that have all imports when they start: forked from a server that has them, 4 s of each one's life."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver


def server():
    """A context whose processes come from such a server, started once in this process. They end as spawned ones do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_imports"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server's own
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context
