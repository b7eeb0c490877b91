"""Steps of a release: each runs, fails, or says what this machine lacks; the rest goes on, and the end tells of all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(sys.executable).parent  # of the environment of requirements.txt


class CannotRun(Exception):
    """This machine lacks what a step needs; the message says what, and where the step is run."""


class Failed(Exception):
    """What was made is wrong."""


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """What the command prints. Programs of TOOLS are found first.

    Raises:
        Failed: it does not end with 0.
    """
    path = os.pathsep.join([str(TOOLS), os.environ.get("PATH", os.defpath)])
    words = [str(part) for part in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{' '.join(words)}\nended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


class Report:
    """The steps so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = 0
        self.began = time.monotonic()

    def step(self, name: str, work: Callable[[], str | None]) -> bool:
        """Runs `work`, whose answer says what was found; whether it could run, and found nothing wrong."""
        print(f"== {name}", flush=True)
        began = time.monotonic()
        try:
            outcome, text = "passed", work() or ""
        except CannotRun as error:
            outcome, text = "NOT RUN", str(error)
        except Failed as error:
            outcome, text = "FAILED", str(error)
            self.failed += 1
        print(text, flush=True)
        first = text.splitlines()[0] if text else ""
        self.lines.append(f"{outcome:<8} {time.monotonic() - began:5.0f} s  {name}: {first}")
        return outcome == "passed"

    def skip(self, name: str, why: str) -> None:
        """A step that was not asked for."""
        self.lines.append(f"{'NOT RUN':<8} {0:5.0f} s  {name}: {why}")

    def end(self) -> int:
        """Prints all steps; the exit status."""
        print(f"== {self.failed} failed, {time.monotonic() - self.began:.0f} s", *self.lines, sep="\n")
        return 1 if self.failed else 0
