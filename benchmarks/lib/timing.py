"""Side-by-side timing on a noisy machine: candidates take turns, each keeps its best time."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch


def side_by_side(candidates: dict[str, Callable[[], object]], seconds: float = 6.0, least: int = 3) -> dict[str, float]:
    """Best wall time of each candidate in seconds; they take turns for `seconds`, and for `least` rounds at least."""
    best = dict.fromkeys(candidates, float("inf"))
    for run in candidates.values():
        run()  # warm-up: allocation, plans, compilation
    start, rounds = time.perf_counter(), 0
    while rounds < least or time.perf_counter() - start < seconds:
        for name, run in candidates.items():
            before = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - before)
        rounds += 1
    return best


def machine() -> dict:
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


def write_json(path: str | None, result: dict, quiet: bool = False) -> None:
    """Writes the figures where they are asked for."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(result, indent=1) + "\n")
        if not quiet:
            print(f"written to {path}")
