"""What comes next is made in threads while what came last is used."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

MOST_THREADS = 1024  # each holds a sample's media; systems refuse more threads than some thousands
AT_EXIT = 10.0  # seconds that a program waits at its end for the sample that is being read

A = TypeVar("A")
B = TypeVar("B")


_ending = threading.Event()  # the program ends: nothing new is begun
_at_work: set[Future[Any]] = set()  # what is being made


def ahead(make: Callable[[A], B], items: Iterable[A], threads: int = 1) -> Iterator[B]:
    """make(item) of every item, in order; `threads` of them are made while the one before is used, and none beyond.

    The items themselves are taken in the caller's thread. What `make` raises is raised where its turn comes. When the
    iteration is given up (an exception, ctrl-C), nothing new is begun, and nobody waits for what is being made: the
    threads are daemons. Only at the program's end one does, for `AT_EXIT` seconds.
    """
    _wait_at_exit()
    work: queue.SimpleQueue[tuple[Future[B], A] | None] = queue.SimpleQueue()
    given_up = threading.Event()

    def serve() -> None:
        while (task := work.get()) is not None and not given_up.is_set():
            future, item = task
            _at_work.add(future)
            try:
                if not _ending.is_set():
                    future.set_result(make(item))
            except BaseException as error:  # noqa: BLE001 (raised again, where the item is used)
                future.set_exception(error)
            finally:
                _at_work.discard(future)

    begun = 0
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            if begun < threads:  # no more than there are items
                threading.Thread(target=serve, name="avflow-ahead", daemon=True).start()
                begun += 1
            future: Future[B] = Future()
            work.put((future, item))
            waiting.append(future)
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        given_up.set()
        for _ in range(begun):
            work.put(None)


@cache
def _wait_at_exit() -> None:
    """Once: a thread that Python ends within torch's or FFmpeg's C++ takes the process down with SIGABRT."""
    atexit.register(_end)


def _end() -> None:
    _ending.set()
    until = time.monotonic() + AT_EXIT
    while _at_work and time.monotonic() < until:
        time.sleep(0.01)
