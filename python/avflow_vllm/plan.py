"""Which tokens of one request are there in which segment of layers. The same in the scheduler and in the workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from avflow.eviction.leaving import NEVER

from .names import LEAVES


class Plan:
    """Of a prompt of n tokens; what is generated after it is there in every layer.

    Args:
        boundaries: last layer of every segment but the last; -1 for a first one without layers.
        leaves: [start, stop, layer]: tokens start .. stop - 1 leave after that layer. Tokens in no run stay.
    """

    def __init__(self, boundaries: Sequence[int], leaves: Sequence[Sequence[int]], n: int) -> None:
        self.n = n
        self.empty = not leaves
        after = np.full(n, NEVER)
        for start, stop, layer in leaves:
            after[start:stop] = layer
        self._stay = [after > end for end in boundaries]  # per later segment bool [n]
        self._before = [np.concatenate([[0], np.cumsum(stay)]) for stay in self._stay]  # int64 [n + 1]

    def count(self, segment: int, tokens: int) -> int:
        """How many of the first `tokens` tokens are there in the segment."""
        if segment == 0 or self.empty:
            return tokens
        return int(self._before[segment - 1][min(tokens, self.n)]) + max(0, tokens - self.n)

    def there(self, segment: int, start: int, stop: int) -> np.ndarray:
        """Which of the tokens start .. stop - 1 are there: int64 [m], their places in the sequence."""
        inside = np.arange(start, stop)
        if segment == 0 or self.empty or start >= self.n:
            return inside
        stay = np.ones(stop - start, bool)
        stay[: self.n - start] = self._stay[segment - 1][start : min(stop, self.n)]
        return inside[stay]


def plan_of(boundaries: Sequence[int], sampling_params: Any, n: int) -> Plan:
    """The plan that door.py wrote into a request's parameters; without it (warming up) nothing leaves."""
    extra = getattr(sampling_params, "extra_args", None) or {}
    return Plan(boundaries, extra.get(LEAVES, ()), n)


def runs_of(after: np.ndarray) -> list[list[int]]:
    """[start, stop, layer] of neighbouring tokens that leave after one layer; int [n], NEVER for those that stay."""
    edges = [0, *(np.flatnonzero(np.diff(after)) + 1).tolist(), len(after)]
    return [
        [start, stop, int(after[start])]
        for start, stop in zip(edges, edges[1:], strict=False)
        if stop > start and after[start] != NEVER
    ]
