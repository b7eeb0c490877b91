"""What the keys in a cache are: the labels of a conversation's tokens, and which of them each layer still holds.

A token has one logical column for good: its place in the sequence, which is its order. A layer's cache may hold fewer:
its physical columns. Layers between two boundaries of a schedule hold the same tokens; they are a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens

from ..errors import InputError
from ..eviction.schedule import Step, ends_of
from ..knockouts.knockout import Semantics

# Attribute of a cache object. No table beside it (a WeakKeyDictionary) would do: copy.deepcopy of a cache, which is how
# transformers shares a prompt's prefix and assisted decoding copies its arguments, must take the labels along, and a
# compiled step reads them.
STATE = "_avflow_conversation"
NEVER = np.iinfo(np.int32).max


class Conversation:
    """The tokens of a batch of sequences. The cache carries it, so several conversations can share one model.

    Attributes:
        steps: of the schedule under which the cache was filled; () without one.
        ends: layers after which tokens leave or come back; -1, before layer 0: then no layer belongs to the first
            segment, whose tokens nothing caches.
        group, item, real, gone: [batch, base], of the first `base` logical columns: group id, item, False for padding,
            the layer after which the token left (NEVER if it stays, or comes back).
        columns: per segment int32 [batch, physical], the logical column of each key; -1 is padding. In increasing
            order, and as many for every sequence: those with fewer keys are padded.
        tail: answer tokens after those. Decoding counts them, and writes nothing.
        ids: int64 [batch, base], None once a token came without one.
        rope_deltas: what the model's modules remember of this conversation's positions.
    """

    def __init__(self, batch: int, steps: Sequence[Step], answer: int) -> None:
        self.steps = tuple(steps)
        self.ends = ends_of(self.steps)
        self.answer = answer
        self.group = np.zeros((batch, 0), np.int32)
        self.item = np.zeros((batch, 0), np.int32)
        self.real = np.zeros((batch, 0), bool)
        self.gone = np.zeros((batch, 0), np.int32)
        self.columns = [np.zeros((batch, 0), np.int32) for _ in range(len(self.ends) + 1)]
        self.tail = 0
        self.ids: torch.Tensor | None = torch.zeros((batch, 0), dtype=torch.long)
        self.tail_ids: list[torch.Tensor | None] = []
        self.rope_deltas: list[Any] | None = None
        # Of decoding.prepare, by number of rows: version of the cuts, room, problem and semantics of each layer. They
        # hold for this base.
        self.prepared: dict[int, tuple[int, int, list[tuple[AttentionProblem, Semantics]]]] = {}
        self.unseen = False  # compiled steps wrote into the cache: its length tells how many

    def __len__(self) -> int:
        return self.group.shape[1] + self.tail

    @property
    def batch(self) -> int:
        return len(self.group)

    def segment(self, layer: int) -> int:
        """The segment to which a layer belongs."""
        return sum(layer > end for end in self.ends)

    def physical(self, layer: int) -> int:
        """Keys per sequence in a layer's cache."""
        return self.columns[self.segment(layer)].shape[1] + self.tail

    # --- growing and shrinking: new objects, which share arrays with this one; but for `count_answers`, `enter` ----

    def copy(self) -> Conversation:
        new = object.__new__(Conversation)
        new.__dict__ |= self.__dict__
        new.columns, new.tail_ids, new.prepared = list(self.columns), list(self.tail_ids), {}
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Conversation:
        return self.copy()  # arrays are never written to once the cache holds them

    def catch_up(self, length: int) -> None:
        """After compiled steps, which count nothing here: the cache holds `length` tokens, the last ones answers."""
        if self.unseen and length > len(self):
            self.count_answers(length - len(self), None)
        self.unseen = False

    def count_answers(self, count: int, ids: torch.Tensor | None) -> None:
        """`count` answer tokens more for every sequence, in every layer."""
        self.tail += count
        self.tail_ids.append(ids)

    def settled(self) -> Conversation:
        """The same with an empty tail."""
        if not self.tail:
            return self
        start, count, batch = self.group.shape[1], self.tail, self.batch
        new = self.copy()
        new.tail, new.tail_ids = 0, []
        known = [t for t in self.tail_ids if t is not None]
        ids = torch.cat(known, 1) if len(known) == len(self.tail_ids) else None
        group = np.full((batch, count), self.answer, np.int32)
        new._append(group, np.full_like(group, -1), ids)
        more = np.repeat(np.arange(start, start + count, dtype=np.int32)[None], batch, 0)
        new.columns = [np.concatenate([c, more], 1) for c in new.columns]
        return new

    def _append(self, group: np.ndarray, item: np.ndarray, ids: torch.Tensor | None) -> None:
        self.group, self.item = np.concatenate([self.group, group], 1), np.concatenate([self.item, item], 1)
        self.real = np.concatenate([self.real, np.ones(group.shape, bool)], 1)
        self.gone = np.concatenate([self.gone, np.full(group.shape, NEVER, np.int32)], 1)
        self.ids = None if ids is None or self.ids is None else torch.cat([self.ids, ids.cpu()], 1)

    def extended(self, group: np.ndarray, item: np.ndarray, ids: torch.Tensor | None) -> Conversation:
        """With new tokens [batch, new], in no layer yet: `enter` puts them there."""
        new = self.settled().copy()
        new._append(group, item, ids)
        return new

    def enter(self, segment: int, columns: np.ndarray) -> None:
        """Logical columns int [batch, rows] were appended to the caches of a segment's layers."""
        self.columns[segment] = np.concatenate([self.columns[segment], columns.astype(np.int32)], 1)

    def cropped(self, length: int) -> Conversation:
        """The first `length` logical columns; the cache dropped as many keys from the end of every layer.

        Raises:
            InputError: tokens of a prompt that partly left were taken back; the layers no longer agree.
        """
        if length >= self.group.shape[1]:
            new = self.copy()
            new.prepared = self.prepared
            new.tail = length - self.group.shape[1]
            known = [t for t in self.tail_ids if t is not None]
            whole = new.tail and len(known) == len(self.tail_ids)
            new.tail_ids = [torch.cat(known, 1)[:, : new.tail] if whole else None] if new.tail else []
            return new
        new = self.settled().copy()
        count = len(new) - length
        kept = []
        for columns in new.columns:
            end = columns.shape[1] - count
            if end < 0 or (columns[:, end:] != np.arange(length, length + count)).any():
                raise InputError(
                    f"the cache was cropped to {length} tokens, into a prompt that tokens left: start from a new cache"
                )
            kept.append(columns[:, :end])
        new.columns = kept
        new.group, new.item, new.real, new.gone = (a[:, :length] for a in (new.group, new.item, new.real, new.gone))
        new.ids = None if new.ids is None else new.ids[:, :length]
        return new

    # --- attention ----------------------------------------------------------------------------------------------------

    def tokens(self, columns: np.ndarray) -> Tokens:
        """The op's columns for logical columns int [batch, n], batch x n of them; those past the base are answers."""
        base = self.group.shape[1]
        later = columns >= base
        safe = np.where(later | (columns < 0), 0, columns)
        row = np.arange(self.batch)[:, None]
        if base:
            group, item = self.group[row, safe], self.item[row, safe]
            real = self.real[row, safe] & (columns >= 0)
        else:
            group, item = np.full(columns.shape, self.answer, np.int32), np.full(columns.shape, -1, np.int32)
            real = np.zeros(columns.shape, bool)
        group, item = np.where(later, self.answer, group), np.where(later, -1, item)
        stream = np.where(real | later, row, -1)
        parts = (np.maximum(columns, 0), group, item, stream)
        return Tokens(*(torch.from_numpy(np.ascontiguousarray(p, np.int32).reshape(-1)) for p in parts))

    def problem(self, segment: int, rows: int, cuts: tuple[Cut, ...], window: int | None) -> AttentionProblem:
        """The last `rows` keys of every sequence are the rows."""
        return self.problem_of(self.columns[segment], rows, cuts, window)

    def problem_of(self, columns: np.ndarray, rows: int, cuts: tuple[Cut, ...], window: int | None) -> AttentionProblem:
        """The same for keys at logical columns int [batch, keys]."""
        keys = self.tokens(columns)
        mine = self.tokens(columns[:, columns.shape[1] - rows :])
        return AttentionProblem(rows=mine, keys=keys, streams=Streams.roots(self.batch), cuts=cuts, window=window)

    def growing_problem(
        self, segment: int, rows: int, cuts: tuple[Cut, ...], window: int | None, capacity: int
    ) -> AttentionProblem:
        """For `rows` answer tokens at any place after the base, among `capacity` keys of which some are yet to come."""
        base, held = self.group.shape[1], self.columns[segment]
        later = np.arange(base, base + capacity - held.shape[1], dtype=np.int32)
        keys = np.concatenate([held, np.repeat(later[None], self.batch, 0)], 1)
        first = np.repeat(np.arange(base, base + rows)[None], self.batch, 0)
        return AttentionProblem(
            rows=self.tokens(first),
            keys=self.tokens(keys),
            streams=Streams.roots(self.batch),
            cuts=cuts,
            latest_order=base + max(rows, len(later)) - 1,
            window=window,
        )


def conversation_of(cache: Any) -> Conversation | None:
    """What a cache remembers of its tokens; None where there is no cache, or none that avflow has filled."""
    return getattr(cache, STATE, None)


def remember(cache: Any, state: Conversation) -> None:
    setattr(cache, STATE, state)
