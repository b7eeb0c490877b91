"""What a worker does: load the model once, then sample by sample prepare and sweep."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class SampleWorker:
    """One model, and samples swept one after the other; the next sample's media are decoded meanwhile.

    `sweep` may be called from two threads: each decodes its sample's media in its own, and all walks run in a single
    thread, so that there is one team of compute threads.
    """

    def __init__(self, job: bytes, threads: int, device: str, share: int) -> None:
        """job: a pickled SweepJob. threads: for torch. share: how many workers share this host's memory."""
        self._pickled, self._threads, self._device, self._share = job, threads, device, share

    def ready(self) -> int:
        """Loads the model; returns the process's id. Raises whatever the loading raises."""
        import torch

        torch.set_num_threads(self._threads)
        self._job = pickle.loads(self._pickled)
        self._job.device = self._device
        self._model = self._job.load()
        self._job.request.windows(self._model)
        if self._job.request.memory is None and self._device == "cpu":
            from ...walk.memory import available_bytes

            self._job.request.memory = available_bytes(torch.device("cpu")) // self._share
        self._walks = ThreadPoolExecutor(1)
        return os.getpid()

    def sweep(self, sample: Any) -> dict[str, Any]:
        """The sample's record, as RunFolder.add takes it. What goes wrong with a sample is in its record."""
        from ..sweep_job import prepared, swept_prompt

        _, prompt, start = prepared(self._model, sample, self._job)
        return self._walks.submit(swept_prompt, self._model, prompt, self._job, start).result()


def threads_for(workers: int) -> int:
    """Threads for each of `workers` on this machine, so that together they have the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers)
