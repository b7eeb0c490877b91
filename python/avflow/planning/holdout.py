"""Which prompts a schedule is chosen on, and on which it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def held_out(ids: Sequence[str], tasks: Sequence[str], clean: Sequence[bool], share: float, seed: int) -> np.ndarray:
    """bool [prompts]: those that are held out, the same whatever the order of the prompts.

    A share of every task, and within it of what the clean run answers right and wrong: only what is right can be lost,
    so that both parts need some of it. What rounding takes from one of these it gives to the next; the right ones come
    first, and at least one of them stays with the choice.
    """
    out = np.zeros(len(ids), bool)
    carried = 0.0
    kinds = [(not right, task) for right, task in zip(clean, tasks, strict=True)]
    for kind in sorted(set(kinds)):
        own = [i for i, other in enumerate(kinds) if other == kind]
        own.sort(key=lambda i: hashlib.sha256(f"{seed}\n{ids[i]}".encode("utf-8", "surrogatepass")).digest())
        wanted = share * len(own) + carried
        count = min(int(wanted + 1e-9), len(own))
        carried = wanted - count
        out[own[:count]] = True
    return out
