"""What policies are asked about: the tokens of a sequence that a step may drop, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..prompts.groups import ALIASES, GroupTable
from .policies import ScoredBy, View, refuse_no_item
from .schedule import Step

_MEDIA = (*ALIASES["media"], *ALIASES["candidates"], "reference")


@dataclass(frozen=True)
class Labels:
    """One sequence: group and item of each of its N tokens, int32 [N]; seconds, float64 [N], NaN for none, or None.

    frames_apart: marks and words may stand between the frames of one video, as the model's family has it.
    """

    table: GroupTable
    group: np.ndarray
    item: np.ndarray
    time: np.ndarray | None = None
    frames_apart: bool = True

    def names(self) -> np.ndarray:
        """str [N]"""
        return np.array(self.table.names)[self.group]

    def media(self) -> np.ndarray:
        """The number of the medium that each token is of, -1 for none: int32 [N].

        That is a run of media tokens. Of a video whose frames stand apart, each after its time in words, it is all of
        its runs: those of one frame each, after nothing but `template`, that go on with the next frame, and later.
        Without times two such videos, of one frame each, cannot be told from one.
        """
        inside = np.isin(self.group, [self.table[name] for name in _MEDIA])
        begins = np.flatnonzero(inside & ~np.concatenate([[False], inside[:-1]]))
        ends = np.flatnonzero(inside & ~np.concatenate([inside[1:], [False]]))
        written = np.cumsum(~inside & (self.group != self.table["template"]))  # tokens that are neither
        before, after = ends[:-1], begins[1:]
        frame = (self.group[begins] == self.table["video"]) & (self.item[begins] == self.item[ends])
        next_one = self.item[after] == self.item[before] + 1
        goes_on = self.frames_apart & frame[:-1] & frame[1:] & next_one & (written[after] == written[before])
        if self.time is not None:
            goes_on &= ~(self.time[after] < self.time[before])  # each medium's seconds count from its own begin
            # In words of one digit steps may say the same from 20 frames a second on, a video's first two from 50 on.
            for at in np.flatnonzero(goes_on & (self.time[after] == self.time[before])):
                goes_on[at] = at > 0 and goes_on[at - 1]
        new = np.zeros(len(inside), bool)
        new[begins] = np.concatenate([[True], ~goes_on])[: len(begins)]
        return np.where(inside, np.cumsum(new) - 1, -1).astype(np.int32)

    def places(self) -> np.ndarray:
        """How many tokens of the same medium, group and item stand before each: int32 [N]."""
        return self.within()[0]

    def sizes(self) -> np.ndarray:
        """How many tokens of the same medium, group and item there are, for each: int32 [N]."""
        return self.within()[1]

    def within(self) -> tuple[np.ndarray, np.ndarray]:
        """`places` and `sizes`, which one sorting gives."""
        keys = np.stack([self.item, self.group, self.media()])
        order = np.lexsort(keys)  # stable: by column within each
        begins = np.concatenate([[True], (keys[:, order[1:]] != keys[:, order[:-1]]).any(0)])[: len(order)]
        first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        places, sizes = np.empty(len(order), np.int32), np.empty(len(order), np.int32)
        places[order] = np.arange(len(order)) - first
        sizes[order] = np.bincount(first, minlength=len(order))[first]
        return places, sizes


def parts_of(step: Step, labels: Labels, columns: np.ndarray) -> np.ndarray:
    """Numbers that are equal for tokens of the same part of the step (`per`), int64 [n], for columns int [n].

    Raises:
        InputError: a token without an item, or without a time, that the step goes by.
    """
    if step.per is None:
        return np.zeros(len(columns), np.int64)
    if step.per == "item":
        item = labels.item[columns].astype(np.int64)
        refuse_no_item(item, columns, f'Step({step.group!r}, per="item")')
        return (labels.group[columns].astype(np.int64) << 32) + item
    time = np.full(len(columns), np.nan) if labels.time is None else labels.time[columns]
    if np.isnan(time).any():
        raise InputError(
            f"Step({step.group!r}, per={step.per!r}): no time is known of token {columns[np.isnan(time)][0]}: pass "
            "groups=prompt with what model.prepare(sample) or model.prepare_batch(samples) gave, or a Prompt with "
            "times=; images and interleaved items have none"
        )
    seconds = 1.0 if isinstance(step.per, str) else step.per
    # Steps of a third of a second, in float32, add up to a little less than a second.
    return np.floor(time / seconds * (1 + 1e-6) + 1e-6).astype(np.int64)


def views(
    step: Step,
    labels: Labels,
    columns: np.ndarray,
    whole: np.ndarray,
    scores: Callable[[ScoredBy], np.ndarray],
    embeddings: Callable[[], torch.Tensor],
) -> Iterator[tuple[np.ndarray, View]]:
    """What the step's policy is asked about, in turn: positions among `columns`, int64 [n], and the view of those.

    Args:
        columns: int [m], the tokens that may leave now, ascending. whole: int [M], those that the step names in all of
            the prompt, also those that left before.
        scores, embeddings: of all m; asked once, however many parts there are.
    """
    parts, all_parts = parts_of(step, labels, columns), parts_of(step, labels, whole)
    scores, embeddings = cache(scores), cache(embeddings)
    names, media, within = cache(labels.names), cache(labels.media), cache(labels.within)
    for number in np.unique(parts):
        at = np.flatnonzero(parts == number)
        mine = columns[at]
        yield (
            at,
            View(
                labels.item[mine],
                mine,
                partial(_some_scores, scores, at),
                int((all_parts == number).sum()),
                None if labels.time is None else labels.time[mine],
                partial(_some, embeddings, at),
                partial(_some, names, mine),
                partial(_some, media, mine),
                partial(_some, lambda: within()[0], mine),
                partial(_some, lambda: within()[1], mine),
            ),
        )


def _some(make: Callable[[], Any], at: np.ndarray) -> Any:
    found = make()
    return found[torch.from_numpy(at).to(found.device) if isinstance(found, torch.Tensor) else at]


def _some_scores(scores: Callable[[ScoredBy], np.ndarray], at: np.ndarray, by: ScoredBy) -> np.ndarray:
    return scores(by)[at]
