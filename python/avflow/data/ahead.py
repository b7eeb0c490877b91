"""What comes next is made in threads while what came last is used."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

MOST_THREADS = 1024  # each holds a sample's media; systems refuse more threads than some thousands

A = TypeVar("A")
B = TypeVar("B")


def ahead(make: Callable[[A], B], items: Iterable[A], threads: int = 1) -> Iterator[B]:
    """make(item) of every item, in order; `threads` of them are made while the one before is used, and none beyond.

    The items themselves are taken in the caller's thread. What `make` raises is raised where its turn comes. When the
    iteration is given up (an exception, ctrl-C), nothing new is begun, and nobody waits for what is being made: the
    threads are daemons.
    """
    work: queue.SimpleQueue[tuple[Future[B], A] | None] = queue.SimpleQueue()
    given_up = threading.Event()

    def serve() -> None:
        while (task := work.get()) is not None and not given_up.is_set():
            future, item = task
            try:
                future.set_result(make(item))
            except BaseException as error:  # noqa: BLE001 (raised again, where the item is used)
                future.set_exception(error)

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
