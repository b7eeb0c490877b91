"""Times of calls, by torch.utils.benchmark: its timer waits for the device's work before and after what it times."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer, timer

Call = Callable[[], object]
# Seconds. The machines are shared and noisy: short turns let every candidate meet the same quiet moments. On a device a
# block this long hides the wait at its end, some 10 us.
TURN = 0.01


def side_by_side(candidates: dict[str, Call], seconds: float = 6.0, turns: int = 3) -> dict[str, float]:
    """Best seconds of one call of each candidate; they take turns for `seconds`, and for `turns` turns at least.

    A turn of a candidate is a Timer.blocked_autorange: a call to warm up and to choose the size of a block, then blocks
    of calls for TURN seconds, one block at least.
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in candidates.items()}
    best = dict.fromkeys(candidates, float("inf"))
    end, done = timer() + seconds, 0
    while done < turns or timer() < end:
        for name, one in timers.items():
            best[name] = min(best[name], *one.blocked_autorange(min_run_time=TURN).times)
        done += 1
    return best


def best_times(
    candidates: dict[str, Call], seconds: float = 1.0, turns: int = 5
) -> tuple[dict[str, float], dict[str, str]]:
    """side_by_side of the candidates that run; and the error of each other one, such as a peer without a kernel."""
    working, errors = {}, {}
    for name, call in candidates.items():
        try:
            call()
            timer()  # what a kernel did wrong shows once it is waited for
            working[name] = call
        except (RuntimeError, NotImplementedError) as error:  # the first includes a full device
            errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return side_by_side(working, seconds, turns) if working else {}, errors


def least_cpu_seconds(candidates: dict[str, Call], turns: int) -> dict[str, float]:
    """Least CPU seconds of this process in one call of each candidate; they take turns, after one call each to warm up.

    For machines that other work shares: it moves wall time by more than what is to be shown.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for call in candidates.values():
        call()
    for _ in range(turns):
        for name, call in candidates.items():
            began = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - began)
    return best


class Clock:
    """Seconds of single calls, and the most memory of the device that the last one held.

    For calls that are too long, or whose results are needed, for blocks of them.
    """

    def __init__(self, device: str) -> None:
        """device: "cpu" or "cuda"."""
        self.on_cuda = device == "cuda"
        self.peak_bytes = 0  # everything that was allocated before the call included; 0 on the CPU

    def __call__(self, call: Call) -> float:
        """Seconds of one call, without a warm-up."""
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats()
        began = timer()
        call()
        seconds = timer() - began
        if self.on_cuda:
            self.peak_bytes = torch.cuda.max_memory_allocated()
        return seconds

    def best(self, call: Call, turns: int) -> float:
        """Best seconds of one call in `turns` turns of blocks, each after a call to warm up."""
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = side_by_side({"call": call}, seconds=0, turns=turns)["call"]
        if self.on_cuda:
            self.peak_bytes = torch.cuda.max_memory_allocated()
        return seconds
