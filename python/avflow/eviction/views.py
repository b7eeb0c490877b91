"""What policies are asked about: the tokens of a sequence that a step may drop, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..prompts.groups import ALIASES, GroupTable
from .policies import ScoredBy, View

_MEDIA = (*ALIASES["media"], *ALIASES["candidates"], "reference")


@dataclass(frozen=True)
class Labels:
    """One sequence: group and item of each of its N tokens, int32 [N]."""

    table: GroupTable
    group: np.ndarray
    item: np.ndarray

    def media(self) -> np.ndarray:
        """The number of the run of media tokens that each token is in, -1 for none: int32 [N]."""
        inside = np.isin(self.group, [self.table[name] for name in _MEDIA])
        begins = inside & ~np.concatenate([[False], inside[:-1]])
        return np.where(inside, np.cumsum(begins) - 1, -1).astype(np.int32)

    def places(self) -> np.ndarray:
        """How many tokens of the same medium, group and item stand before each: int32 [N]."""
        order = np.lexsort((self.item, self.group, self.media()))  # stable: by column within each
        keys = np.stack([self.media(), self.group, self.item])[:, order]
        begins = np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(0)])[: len(order)]
        first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        places = np.empty(len(order), np.int32)
        places[order] = np.arange(len(order)) - first
        return places


def views(
    labels: Labels,
    columns: np.ndarray,
    whole: np.ndarray,
    scores: Callable[[ScoredBy], np.ndarray],
    embeddings: Callable[[], torch.Tensor],
) -> Iterator[tuple[np.ndarray, View]]:
    """What a step's policy is asked about, in turn: positions among `columns`, int64 [n], and the view of those.

    Args:
        columns: int [m], the tokens that may leave now, ascending. whole: int [M], those that the step names in all of
            the prompt, also those that left before.
        scores, embeddings: of all m.
    """
    yield (
        np.arange(len(columns)),
        View(
            labels.item[columns],
            columns,
            scores,
            len(whole),
            embeddings,
            groups=lambda: np.array(labels.table.names)[labels.group[columns]],
            media=lambda: labels.media()[columns],
            places=lambda: labels.places()[columns],
        ),
    )
