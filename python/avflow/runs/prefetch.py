"""The next item is made while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

_END = object()


def prefetch(items: Iterable[Any], ahead: int = 1) -> Iterator[Any]:
    """The items, made in a thread of their own, at most `ahead` more than were asked for. Exceptions come through.

    The thread ends with the item that it makes when the iteration is given up.
    """
    waiting: queue.Queue = queue.Queue()
    room = threading.Semaphore(ahead + 1)
    given_up = threading.Event()

    def make() -> None:
        try:
            iterator = iter(items)
            while True:
                room.acquire()
                if given_up.is_set():
                    return
                try:
                    waiting.put((next(iterator), None))
                except StopIteration:
                    break
            waiting.put((_END, None))
        except BaseException as error:  # noqa: BLE001 (raised again, where the items are used)
            waiting.put((_END, error))

    thread = threading.Thread(target=make, name="avflow-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
            room.release()
    finally:
        given_up.set()
        room.release()
