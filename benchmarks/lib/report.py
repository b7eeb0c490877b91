"""Result files: what the figures were measured on, and a file that grows step by step."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from avflow.models.attention import kernel_name
from benchmarks.lib.device import gpu_facts

T = TypeVar("T")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_json(path: str | Path | None, result: dict[str, Any], quiet: bool = False) -> None:
    """Writes the figures to `path`; does nothing where that is None."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if not quiet:
            print(f"written to {path}")


class Report:
    """A result file that is written after every step, so that a run that is stopped leaves what it has.

    A step that fails, or that would take longer than what is left of the time, leaves its reason in the file, and the
    next one runs.
    """

    def __init__(self, device: str, path: str | None, seconds: float) -> None:
        """device: "cpu" or "cuda"; seconds: for all steps."""
        self.device, self.path, self.seconds = device, path, seconds
        self.last = self.end = time.monotonic() + seconds
        self.lost = ""  # why nothing can run any more
        gpu = gpu_facts() if device == "cuda" else {}
        self.data: dict[str, Any] = {"machine": {**machine(), **gpu}, "dtype": "bfloat16", "budget_seconds": seconds}
        self.data |= {"kernel": kernel_name(torch.device(device)), "date": time.strftime("%Y-%m-%d"), "results": []}
        self.data |= {"step_seconds": {}, "errors": {}, "skipped": {}}
        print(f"{self.data['machine']}, bf16, kernel {self.data['kernel']}")

    @property
    def left(self) -> float:
        """Seconds until the end of all steps, or of the current share."""
        return self.end - time.monotonic()

    def share(self, parts: int) -> None:
        """From here until the next call, the end comes after one of `parts` equal parts of what is left of all."""
        now = time.monotonic()
        self.end = now + (self.last - now) / parts

    def save(self) -> None:
        write_json(self.path, self.data, quiet=True)

    def skip(self, name: str, reason: str) -> None:
        self.data["skipped"][name] = reason
        print(f"    {name}: skipped, {reason}")
        self.save()

    def step(self, name: str, run: Callable[[], T], seconds: float | None = 0.0) -> T | None:
        """Runs it, and gives what it returns; None where it fails or does not fit, and the file has the reason.

        seconds: how long it takes, as far as is known; None for what takes none, and is run in any case.
        """
        if self.lost:
            return self.skip(name, self.lost)
        if seconds is not None and (self.left < seconds or self.left <= 0):
            return self.skip(name, f"needs about {seconds:.0f} s, {max(0, self.left):.0f} s of {self.seconds:.0f} left")
        began = time.monotonic()
        try:
            return run()
        except Exception as error:  # a peer's missing kernel, a full device, a compiler that gives up
            self.data["errors"][name] = f"{type(error).__name__}: {str(error)[:500]}"
            print(f"    {name} failed: {self.data['errors'][name]}")
            return None
        finally:
            self.data["step_seconds"][name] = round(time.monotonic() - began, 3)
            self.save()
            self._clear(name)

    def _clear(self, name: str) -> None:
        """Frees what the step held. After a wrong access nothing runs on the device any more: the rest is skipped."""
        if self.device == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                self.lost = f"the device is lost since {name!r}: {str(error).splitlines()[0][:200]}"

    def finish(self) -> int:
        """Writes the file for the last time; 0 where every step that ran was right, else 1."""
        write_json(self.path, self.data)
        return 1 if self.data["errors"] else 0
