"""A ctrl-C at one chosen place of the code that runs.

Python looks for signals where a function begins or goes on, behind calls, and at jumps back.
"""

from __future__ import annotations

import dis
import sys
from typing import Any

_LOOKS = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")  # instructions that look for signals when they are done
_TOOL = 4  # of sys.monitoring's tools 0 .. 5, one that no debugger or profiler takes


class CtrlC:
    """From `start` to `stop` raises a KeyboardInterrupt at the n-th place; places in module `beside` do not count."""

    def __init__(self, n: int, beside: str) -> None:
        self.n, self.places, self.beside = n, 0, beside
        self.before: dict[int, str] = {}  # by the id of a frame: the frame would keep alive what an interrupt drops

    if sys.version_info >= (3, 12):  # sys.settrace tells of no instructions there

        def start(self) -> None:
            tool, kinds = sys.monitoring, sys.monitoring.events
            tool.use_tool_id(_TOOL, "ctrl-C")
            for kind in (kinds.PY_START, kinds.PY_RESUME):
                tool.register_callback(_TOOL, kind, lambda code, offset: self._begin(sys._getframe(1)))
            tool.register_callback(
                _TOOL, kinds.INSTRUCTION, lambda code, offset: self._instruction(sys._getframe(1), offset)
            )
            tool.set_events(_TOOL, kinds.PY_START | kinds.PY_RESUME | kinds.INSTRUCTION)

        def stop(self) -> None:
            if sys.monitoring.get_tool(_TOOL):
                sys.monitoring.set_events(_TOOL, 0)
                sys.monitoring.free_tool_id(_TOOL)

    else:

        def start(self) -> None:
            sys.settrace(self._trace)

        def stop(self) -> None:
            sys.settrace(None)

        def _trace(self, frame: Any, event: str, argument: Any) -> Any:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "call":
                self.before[id(frame)] = "CALL"  # raised here, it would pass by the frame's own `try:`
            elif event == "opcode":
                self._instruction(frame, frame.f_lasti)
            return self._trace

    def _begin(self, frame: Any) -> None:
        self.before[id(frame)] = ""
        self._look(frame)

    def _instruction(self, frame: Any, offset: int) -> None:
        before, now = self.before.get(id(frame), ""), dis.opname[frame.f_code.co_code[offset]]
        self.before[id(frame)] = now
        # Python 3.10 does not look where a `try:` begins.
        if before.startswith(_LOOKS) and "NO_INTERRUPT" not in before and not now.startswith("SETUP_"):
            self._look(frame)

    def _look(self, frame: Any) -> None:
        if frame.f_globals.get("__name__") in (self.beside, __name__):
            return
        self.places += 1
        if self.places == self.n:
            self.stop()
            raise KeyboardInterrupt
