"""How much work was left out, in this process: rows times layers since it began. For tests.

Counted where Python runs: a step that a full CUDA graph replays is not in it. /metrics goes by plans (metrics.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """computed, total: rows times layers, with the tokens that were there, and as if all had been."""

    computed: int = 0
    total: int = 0


HERE = Counters()


def rows(computed: int, total: int, layers: int) -> None:
    HERE.computed += computed * layers
    HERE.total += total * layers
