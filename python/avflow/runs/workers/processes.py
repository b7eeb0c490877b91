"""Workers as processes of this machine. Each has a pipe of its own: a killed one leaves no lock behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ...streams import tolerant_streams
from .dispatch import IN_FLIGHT, Event
from .worker import SampleWorker, sendable, threads_for


class ProcessPool:
    """`size` spawned processes. pids: worker -> process id, of those that run.

    Args:
        job: a RunJob; device "cuda" is spread over the devices that there are.
    """

    def __init__(self, job: Any, size: int) -> None:
        self.size = size
        self._job, self._device = pickle.dumps(job), job.device
        self._threads = threads_for(size)
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[Any, Connection]] = {}
        self._started = 0

    @property
    def pids(self) -> dict[int, int]:
        return {number: process.pid for number, (process, _) in self._workers.items()}

    def start(self) -> int:
        number = self._started
        self._started += 1
        here, there = self._context.Pipe()
        arguments = (there, self._job, self._threads, _device(self._device, number), self.size)
        process = self._context.Process(target=_work, args=arguments, name=f"avflow-worker-{number}", daemon=True)
        process.start()
        there.close()  # the worker has the only other end, so its death closes the pipe
        self._workers[number] = (process, here)
        return number

    def send(self, worker: int, sample: Any) -> None:
        with suppress(OSError):  # a worker that died: wait() tells
            self._workers[worker][1].send(sample)

    def wait(self) -> list[Event]:
        numbers = {connection: number for number, (_, connection) in self._workers.items()}
        events = []
        for connection in wait(list(numbers)):
            assert isinstance(connection, Connection)
            number = numbers[connection]
            try:
                kind, sample, value = connection.recv()
            except (EOFError, OSError):  # also: killed in the middle of a message
                events.append(Event("lost", number, value=self._end(number)))
            else:
                events.append(Event(kind, number, sample, value))
        return events

    def close(self) -> None:
        for _, connection in self._workers.values():
            connection.close()  # tells the worker to end
        for number in list(self._workers):
            self._end(number)

    def _end(self, number: int) -> str:
        """Takes a worker out; how it ended, in words."""
        process, connection = self._workers.pop(number)
        connection.close()
        process.join(10)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _device(device: str, number: int) -> str:
    if device != "cuda":
        return device
    import torch

    return f"cuda:{number % max(1, torch.cuda.device_count())}"


def _work(pipe: Connection, job: bytes, threads: int, device: str, share: int) -> None:
    """A worker process. It ends when the pipe does, at once in the middle of a sample: none outlives a killed run."""
    with tolerant_streams():  # what a library prints while nobody reads it must not lose the worker
        _serve(pipe, job, threads, device, share)


def _serve(pipe: Connection, job: bytes, threads: int, device: str, share: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, which ends its workers
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported: for the threads of media decoding too
    lock = threading.Lock()

    def send(kind: str, sample: str | None, value: Any) -> None:
        with lock:
            try:
                pipe.send((kind, sample, value))
            except OSError:
                os._exit(1)

    worker = SampleWorker(job, threads, device, share)
    try:
        pid = worker.ready()
    except Exception as error:
        send("refused", None, sendable(error))
        return
    send("ready", None, pid)

    def measure(sample: Any) -> None:
        try:
            message: tuple[str, str | None, Any] = ("done", sample.id, worker.record(sample))
        except Exception as error:  # with debug a sample's exception ends the run
            message = ("refused", None, sendable(error))
        send(*message)

    begun: list[Future[None]] = []
    with ThreadPoolExecutor(IN_FLIGHT) as threads_of_samples:
        while True:
            try:
                sample = pipe.recv()
            except (EOFError, OSError):
                if not all(future.done() for future in begun):
                    os._exit(1)
                return
            begun = [future for future in begun if not future.done()]
            begun.append(threads_of_samples.submit(measure, sample))
