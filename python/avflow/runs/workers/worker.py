"""What a worker does: load the model once, then prepare and measure sample by sample."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...errors import AvflowError, RunError


class SampleWorker:
    """One model, and samples measured one after the other; the next sample's media are decoded meanwhile.

    `record` may be called from two threads: each decodes its sample's media in its own, and all walks run in a single
    thread, so that there is one team of compute threads.
    """

    def __init__(self, job: bytes, threads: int, device: str, share: int) -> None:
        """job: a pickled RunJob. threads: for torch. share: how many workers share this host's memory."""
        self._pickled, self._threads, self._device, self._share = job, threads, device, share

    def ready(self) -> int:
        """Loads the model; returns the process's id. Raises whatever the loading raises."""
        import torch  # late: a process sets its number of threads before

        from ...walk.memory import available_bytes

        torch.set_num_threads(self._threads)
        self._job = pickle.loads(self._pickled)
        self._job.device = self._device
        self._model = self._job.load()
        self._job.begin(self._model)
        if self._device == "cpu":
            self._job.limit_memory(available_bytes(torch.device("cpu")) // self._share)
        self._walks = ThreadPoolExecutor(1)
        return os.getpid()

    def record(self, sample: Any) -> dict[str, Any]:
        """The sample's record, as RunFolder.add takes it. What goes wrong with a sample is in its record."""
        prompt, begun = self._job.prepare(self._model, sample)
        return self._walks.submit(self._job.measure, self._model, prompt, begun).result()


def threads_for(workers: int) -> int:
    """Threads for each of `workers` on this machine, so that together they have the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def sendable(error: BaseException) -> Exception:
    """An exception that can be sent to the parent: one of ours as it is, another one with its traceback on stderr."""
    if isinstance(error, AvflowError):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception:  # an exception whose arguments are not its message
            return RunError(str(error))
    sys.stderr.write("".join(traceback.format_exception(error)))
    return RunError(f"a worker failed: {type(error).__name__}: {error}")
