"""Rows that rest: they leave after one layer, and come back after another with the hidden states that they had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .boundary import take


class Resting:
    """The rows that one step took out of one forward.

    Attributes:
        begins, ends: the segments that begin with the first layer without them, and with the first that has them again.
        columns: int32 [batch, p], their logical columns, -1 is padding. index: int64 [batch, p], their places among the
            rows of the segment before.
    """

    def __init__(self, begins: int, ends: int, columns: Sequence[np.ndarray], index: Sequence[np.ndarray]) -> None:
        """columns, index: of each sequence, those that rest."""
        self.begins, self.ends = begins, ends
        most = max(map(len, columns))
        self.columns = np.stack([np.pad(c, (most - len(c), 0), constant_values=-1) for c in columns]).astype(np.int32)
        self.index = np.stack([np.pad(i, (most - len(i), 0)) for i in index]).astype(np.int64)
        self.hidden: torch.Tensor | None = None  # [batch, p, D] while they rest

    def save(self, hidden: torch.Tensor) -> None:
        """Keeps their hidden states. hidden: [batch, m, D], of the segment before."""
        self.hidden = take(hidden, torch.from_numpy(self.index), 1)


def followed_by(hidden: torch.Tensor, back: Sequence[Resting]) -> torch.Tensor:
    """hidden [batch, m, D] and after it what was saved of the rows that come back: [batch, m + p + ..., D]."""
    saved = [rest.hidden.to(hidden.device) for rest in back if rest.hidden is not None]
    assert len(saved) == len(back)  # a layer cannot run before those below it
    return torch.cat([hidden, *saved], 1)


def merged(rows: np.ndarray, back: Sequence[Resting]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a segment together with those that come back, in the order of the sequence.

    Args:
        rows: logical columns int [batch, m], -1 is padding.

    Returns:
        Logical columns int32 [batch, M], -1 is padding, which stands first; and where each is in `followed_by`, int64
        [batch, M], -1 where padding.
    """
    columns = np.concatenate([rows, *[rest.columns for rest in back]], 1)
    most = max(1, int((columns >= 0).sum(1).max()))
    order = np.argsort(columns, 1, kind="stable")[:, -most:]  # padding is smallest
    columns = np.take_along_axis(columns, order, 1).astype(np.int32)
    return columns, np.where(columns >= 0, order, -1).astype(np.int64)
