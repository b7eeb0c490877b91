"""Which worker gets which sample, and what becomes of the samples of a worker that is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import RunError

IN_FLIGHT = 2  # samples of a worker: one being measured, one being decoded
DEATHS = 2  # a sample that was alone in so many lost workers is recorded as failed
STARTS = 2  # workers lost before they are ready, one after the other, end the run


@dataclass
class Event:
    """From a worker. kind: "ready" (pid), "done" (sample id, record), "lost" (why), "refused" (an exception)."""

    kind: str
    worker: int
    sample: str | None = None
    value: Any = None


class Pool(Protocol):
    """Starts workers and carries messages."""

    size: int  # workers wanted

    def start(self) -> int: ...

    def send(self, worker: int, sample: Any) -> None: ...

    def wait(self) -> list[Event]: ...

    def close(self) -> None: ...


def dispatch(samples: Sequence[Any], pool: Pool) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(sample, its record) in the order of arrival, each sample once.

    A lost worker is replaced and its samples are done by others. Such a sample is suspect: it is then alone in its
    worker, and is recorded as failed when two workers were lost with it alone. Closes the pool at the end.

    Raises:
        RunError: workers are lost before they are ready.
        AvflowError: what a worker raised while it loaded the model.
    """
    fresh: deque[Any] = deque(samples)
    suspects: deque[Any] = deque()
    flights: dict[int, list[Any]] = {}
    ready: set[int] = set()
    suspected: set[str] = set()
    deaths: Counter[str] = Counter()  # of workers that had this sample alone
    lost_starts = 0
    try:
        for _ in range(min(pool.size, len(samples))):
            flights[pool.start()] = []
        while fresh or suspects or any(flights.values()):
            _feed(pool, fresh, suspects, {w: flights[w] for w in flights if w in ready}, suspected)
            for event in pool.wait():
                flight = flights.get(event.worker)
                if flight is None:
                    continue  # of a worker whose loss is known
                if event.kind == "ready":
                    ready.add(event.worker)
                    lost_starts = 0
                elif event.kind == "refused":
                    raise event.value
                elif event.kind == "done":
                    sample = next(s for s in flight if s.id == event.sample)
                    flight.remove(sample)
                    yield sample, event.value
                elif event.kind == "lost":
                    del flights[event.worker]
                    lost_starts += event.worker not in ready
                    if lost_starts >= STARTS:
                        raise RunError(
                            f"workers are lost while they load the model ({event.value}): is there memory for "
                            f"{pool.size} of them? Use fewer"
                        )
                    for sample in flight:
                        suspected.add(sample.id)
                        deaths[sample.id] += len(flight) == 1
                        if deaths[sample.id] < DEATHS:
                            suspects.append(sample)
                        else:
                            reason = f"{DEATHS} workers were lost with it, the last one by {event.value}"
                            yield sample, {"status": "failed", "reason": reason}
                    left = len(fresh) + len(suspects) + sum(map(len, flights.values()))
                    if len(flights) < min(pool.size, left):
                        flights[pool.start()] = []
    finally:
        pool.close()


def _feed(pool: Pool, fresh: deque, suspects: deque, flights: dict[int, list[Any]], suspected: set[str]) -> None:
    """Samples to workers with room: first one for each, then the next ones to decode."""
    for depth in range(IN_FLIGHT):
        for worker, flight in flights.items():
            if len(flight) > depth or any(s.id in suspected for s in flight):
                continue
            if not flight and suspects:
                source = suspects
            elif fresh and (not flight or len(fresh) >= len(flights)):  # the last ones are not hoarded
                source = fresh
            else:
                continue
            sample = source.popleft()
            flight.append(sample)
            pool.send(worker, sample)
