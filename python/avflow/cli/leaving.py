"""Once the program's exit code is known, ctrl-C does not change it: to unload torch takes some tenths of a second."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress


class Leaving:
    """What ctrl-C does while the program ends."""

    def __init__(self) -> None:
        self._ours = False

    def begin(self) -> None:
        """This process is the program, whose ctrl-C is ours to answer. Called in its main thread, before its work."""
        in_main = threading.current_thread() is threading.main_thread()
        self._ours = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not after `nohup`
        if self._ours:
            # Called after what is registered later. Then Python gives its handlers up, and ctrl-C would kill it.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)

    def with_code(self, code: int) -> None:
        """From here on ctrl-C ends the program at once and with this code: something may hang, such as a thread."""
        if self._ours:
            signal.signal(signal.SIGINT, lambda *_: _end(code))


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


leaving = Leaving()
