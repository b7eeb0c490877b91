"""Who is there in which layer, for schedules whose steps look at no attention: one rule for every runtime.

`avflow.evict` decides the same step by step, since a policy of its may ask for scores; tests/fixtures/leaving.json has
cases that both agree on.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import InputError
from ..prompts.groups import GroupTable
from .policies import View, waits
from .schedule import Step

NEVER = np.iinfo(np.int64).max


def _no_scores(by: str) -> np.ndarray:
    raise InputError(f"a policy that says uses_scores = False asked for scores by {by!r}")


def leaves_after(steps: Iterable[Step], table: GroupTable, group: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The layer after which each token of one prompt leaves, -1 for before layer 0; NEVER for those that stay.

    Args:
        group: int [n], ids of `table`. item: int [n], frame, audio segment or option number, -1 for none.

    Returns:
        int64 [n].

    Raises:
        InputError: a policy that needs scores or embeddings, or an item where there is none; a step with
            `until` or `per`; a group that is not in table.
    """
    after = np.full(len(group), NEVER, np.int64)
    for step in sorted(steps, key=lambda step: step.after):
        if waits(step.keep):
            raise InputError(f"{step.keep} chooses by what the model computes, which is not there before it has run")
        if step.until is not None or step.per is not None:
            raise InputError(f"the step {step} rests, or has a budget for each part: not here yet")
        mine = table.table(table.expand(step.group))[group]
        at = np.flatnonzero(mine & (after == NEVER))
        if len(at):
            view = View(item[at].astype(np.int32), at.astype(np.int32), _no_scores, int(mine.sum()))
            after[at[~np.asarray(step.keep.select(view))]] = step.after
    return after
