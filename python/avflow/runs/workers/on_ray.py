"""Workers as Ray actors, one for each GPU or CPU slot of a cluster."""

from __future__ import annotations

import pickle
from typing import Any

from ...errors import InputError
from .dispatch import IN_FLIGHT, Event
from .worker import SampleWorker, sendable


class RayPool:
    """Actors on a Ray cluster. pids: worker -> process id, of those that are ready.

    Args:
        job: a RunJob. With device "cuda" each actor has one GPU of its own.
        address: "local" starts Ray here; "auto" or an address connects to a running cluster.
        size: how many; None: as many as there are GPUs, or on the CPU CPUs.

    Raises:
        InputError: Ray is not installed, not reachable, or has no such slot.
    """

    def __init__(self, job: Any, address: str, size: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("--ray needs Ray, which is not installed: pip install 'avflow[ray]'") from error
        self._ray = ray
        self._workers: dict[int, Any] = {}
        self._waiting: dict[Any, tuple[int, str | None]] = {}  # reference -> worker, sample (None: ready)
        self._started = 0
        self.pids: dict[int, int] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"no Ray cluster at {address!r}: {reason}; start one here with --ray local") from error
        resources = ray.cluster_resources()
        gpu = job.device.startswith("cuda")
        slots = int(resources.get("GPU" if gpu else "CPU", 0))
        cpus = int(resources.get("CPU", 1))
        self.size = size or slots
        if not 1 <= self.size <= slots:
            kind = "GPUs" if gpu else "CPUs"
            self.close()
            raise InputError(f"{self.size} workers on a Ray cluster with {slots} {kind}: use {max(1, slots)} at most")
        threads = max(1, cpus // self.size)
        hosts = max(1, sum(node["Alive"] for node in ray.nodes()))
        # Ray restarts nothing and retries nothing: what is lost is dispatch's to give to another.
        options = dict(num_cpus=threads, num_gpus=int(gpu), max_concurrency=IN_FLIGHT, max_restarts=0)
        self._actor = ray.remote(SampleWorker).options(max_task_retries=0, **options)
        self._arguments = (pickle.dumps(job), threads, "cuda" if gpu else job.device, -(-self.size // hosts))

    def start(self) -> int:
        number = self._started
        self._started += 1
        actor = self._workers[number] = self._actor.remote(*self._arguments)
        self._waiting[actor.ready.remote()] = (number, None)
        return number

    def send(self, worker: int, sample: Any) -> None:
        self._waiting[self._workers[worker].record.remote(sample)] = (worker, sample.id)

    def wait(self) -> list[Event]:
        done, _ = self._ray.wait(list(self._waiting), num_returns=1)
        return [event for reference in done if (event := self._event(reference))]

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()
            return
        for actor in self._workers.values():
            self._ray.kill(actor)

    def _event(self, reference: Any) -> Event | None:
        number, sample = self._waiting.pop(reference)
        if number not in self._workers:
            return None  # another message of a worker whose loss is known
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return Event("refused", number, value=sendable(error.cause))
        except self._ray.exceptions.RayError as error:  # the actor or its node died
            del self._workers[number]
            self.pids.pop(number, None)
            return Event("lost", number, value=" ".join(str(error).split())[:200])
        if sample is None:
            self.pids[number] = value
            return Event("ready", number, value=value)
        return Event("done", number, sample, value)
