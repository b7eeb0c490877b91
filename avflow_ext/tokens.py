"""What decides whether query token i may attend to key token j: a few integers per token, never an N x N mask."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

MAX_GROUPS = 64  # a set of groups is one 64-bit word
MAX_HEADS = 64  # so is a set of query heads
ALL = (1 << 64) - 1
NO_ITEM = -1
NO_BLOCK = -1
PADDING = -1  # stream of a token that no other sees and that sees none

Integers = torch.Tensor | np.ndarray | Sequence[int]  # one integer per token
Scope = Literal["all", "other_items"]
Semantics = Literal["renormalize", "zero"]
SCOPES: tuple[Scope, ...] = ("all", "other_items")
Blocks = Literal["whole", "windowed", "off"]
BLOCKS: tuple[Blocks, ...] = ("whole", "windowed", "off")
SEMANTICS: tuple[Semantics, ...] = ("renormalize", "zero")


def _column(name: str, values: Integers | None, length: int | None, default: int | None = None) -> torch.Tensor:
    """A copy of its own: what becomes of the caller's buffer afterwards changes no token."""
    if values is None:
        if default is None or length is None:
            raise ValueError(f"{name} is missing: pass one integer per token")
        return torch.full((length,), default, dtype=torch.int32)
    column = torch.as_tensor(values)
    if column.numel() == 0:
        column = column.to(torch.int32)  # an empty list has no dtype of its own
    if column.dim() != 1:
        raise ValueError(f"{name} has shape {tuple(column.shape)}: pass a 1-D column, one integer per token")
    if column.dtype.is_floating_point or column.dtype.is_complex or column.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {column.dtype}: pass integers")
    if length is not None and column.numel() != length:
        raise ValueError(f"{name} has {column.numel()} entries, the first column has {length}: pass as many")
    if column.dtype != torch.int32 and column.numel():
        least, most = _range(column.cpu())
        if not -(2**31) <= least <= most < 2**31:
            raise ValueError(f"{name} leaves the range of int32: {least} .. {most}")
    return column.to(device="cpu", dtype=torch.int32, copy=True, memory_format=torch.contiguous_format)


def _range(column: torch.Tensor) -> tuple[int, int]:
    """Its least and largest number; of none, 0. By numpy, which takes half of torch's time for a few."""
    numbers = column.numpy()
    return (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)


def _side_by_side(columns: list[torch.Tensor]) -> np.ndarray:
    matrix = np.empty((columns[0].numel(), len(columns)), np.int32)
    for place, column in enumerate(columns):
        matrix[:, place] = column.numpy()
    return matrix


@dataclass(init=False)
class Tokens:
    """The integers of each token, on the host; copied, and kept as int32 tensors [n].

    Args:
        order: int [n]. Place in the original sequence. Causality compares it; within a stream it strictly increases.
        group: int [n], 0..63. What the token is (video, question, ...).
        item: int [n]. Frame, audio segment, option number; -1 for none. Default: none.
        stream: int [n]. Which run of rows the token belongs to; -1 is padding. Default: stream 0.
        block: int [n]. Tokens of one block, within a stream's sequence, see each other both ways, whatever their order
            (an image's tokens in some models, a whole prefix in others); -1 for none. Default: None, no token has one.

    Raises:
        ValueError, TypeError: a column of another length, rank or dtype, a group outside 0..63, or a block below -1.
    """

    order: torch.Tensor
    group: torch.Tensor
    item: torch.Tensor
    stream: torch.Tensor
    block: torch.Tensor | None

    def __init__(
        self,
        order: Integers,
        group: Integers,
        item: Integers | None = None,
        stream: Integers | None = None,
        block: Integers | None = None,
    ) -> None:
        self.order = _column("Tokens.order", order, None)  # [n]
        n = self.order.numel()
        self.group = _column("Tokens.group", group, n)  # [n]
        self.item = _column("Tokens.item", item, n, NO_ITEM)  # [n]
        self.stream = _column("Tokens.stream", stream, n, 0)  # [n]
        self.block = None if block is None else _column("Tokens.block", block, n)  # [n]
        least, most = _range(self.group)
        if not 0 <= least <= most < MAX_GROUPS:
            raise ValueError(f"Tokens.group holds {least if least < 0 else most}: groups are 0..{MAX_GROUPS - 1}")
        if stream is not None and (least := _range(self.stream)[0]) < PADDING:
            raise ValueError(f"Tokens.stream holds {least}: streams count from 0, -1 is padding")
        if self.block is not None and (least := _range(self.block)[0]) < NO_BLOCK:
            raise ValueError(f"Tokens.block holds {least}: blocks count from 0, -1 is none")

    def __len__(self) -> int:
        return self.order.numel()

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """The columns side by side, int32 [n, 4]: order, group, item, stream; [n, 5] with blocks."""
        # By numpy: torch cuts a copy of 40k numbers among threads, and waits for them where the cores are busy.
        columns = (self.order, self.group, self.item, self.stream, self.block)
        return _side_by_side([c for c in columns if c is not None])

    @functools.cached_property
    def top_stream(self) -> int:
        """The largest stream; there must be tokens."""
        return _range(self.stream)[1]

    @functools.cached_property
    def disorder(self) -> int | None:
        """The first token, by stream, whose order is not above that of the token before it in its stream; or None."""
        order, stream = self.matrix[:, 0], self.matrix[:, 3]
        if (stream[1:] >= stream[:-1]).all():
            by_stream = np.arange(len(stream))
        else:
            by_stream = np.argsort(stream, kind="stable")
            order, stream = order[by_stream], stream[by_stream]
        bad = (stream[1:] == stream[:-1]) & (order[1:] <= order[:-1]) & (stream[1:] >= 0)
        return int(by_stream[1 + bad.argmax()]) if bad.any() else None

    def head(self, count: int) -> Tokens:
        """The first `count` tokens, as views. What was found out about all of them is not looked up again."""
        first = object.__new__(Tokens)
        first.__dict__.update({name: getattr(self, name)[:count] for name in ("order", "group", "item", "stream")})
        first.__dict__["block"] = None if self.block is None else self.block[:count]
        first.__dict__["matrix"] = self.matrix[:count]
        if self.disorder is None:
            first.__dict__["disorder"] = None
        return first

    def select(self, index: torch.Tensor) -> Tokens:
        """The tokens at `index` (int [m]), in that order."""
        index = index.to(device="cpu", dtype=torch.int64)
        block = None if self.block is None else self.block[index]
        return Tokens(self.order[index], self.group[index], self.item[index], self.stream[index], block)


@dataclass(init=False)
class Streams:
    """Which streams share whose keys.

    A row of stream s sees the keys of s with order <= its own, and the keys of parent[s] with order < start[s].

    Args:
        parent: int [streams]; -1 for a root. A parent is itself a root. Default: one root.
        start: int [streams]; order from which on a stream has rows of its own, above -2**31. Ignored for roots.
            Default: [0].

    Both are copied.

    Raises:
        ValueError, TypeError: columns that do not fit together, a parent that is no root, or a start of -2**31.
    """

    parent: torch.Tensor
    start: torch.Tensor

    def __init__(self, parent: Integers = (-1,), start: Integers = (0,)) -> None:
        self.parent = _column("Streams.parent", parent, None)  # [streams]
        n = self.parent.numel()
        self.start = _column("Streams.start", start, n)  # [streams]
        least, most = _range(self.parent)
        if n and not -1 <= least <= most < n:
            raise ValueError(f"Streams.parent must lie in -1..{n - 1}, got {self.parent.tolist()}")
        if most < 0 or not n:
            return
        child = self.parent >= 0
        if bool((self.parent[self.parent[child].long()] >= 0).any()):
            raise ValueError("the parent of a stream must be a root (parent -1): streams are one level deep")
        if bool((self.start[child] == -(2**31)).any()):
            raise ValueError(
                "Streams.start holds -2147483648: no order is smaller, so such a stream has nothing of its parent; "
                "start it later, or make it a root (parent -1)"
            )

    def __len__(self) -> int:
        return self.parent.numel()

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """parent and start side by side, int32 [streams, 2]."""
        return _side_by_side([self.parent, self.start])

    @classmethod
    def roots(cls, count: int) -> Streams:
        """`count` independent sequences."""
        made = object.__new__(cls)  # of these columns there is nothing to check
        made.parent = torch.full((count,), -1, dtype=torch.int32)
        made.start = torch.zeros(count, dtype=torch.int32)
        return made


def table_of(word: int) -> np.ndarray:
    """Which of 0..63 a 64-bit set holds: bool [64]."""
    return np.array([bool(word >> bit & 1) for bit in range(64)])


def mask_of(members: Sequence[int]) -> int:
    """The 64-bit word with the bits of `members` set.

    Raises:
        ValueError: a member outside 0 .. 63.
    """
    word = 0
    for member in members:
        if not 0 <= member < 64:
            raise ValueError(f"{member} does not fit in a 64-bit set: members are 0..63")
        word |= 1 << member
    return word


@dataclass(frozen=True)
class Cut:
    """Edges taken out in one layer: every key of the source groups is hidden from every row of the target groups.

    Args:
        source: 64-bit set of key groups.
        target: 64-bit set of row groups.
        streams: the streams whose rows are cut; None for all.
        scope: "all", or "other_items": only edges between two items (both >= 0) that differ.
        heads: 64-bit set of query heads; None for all.
        cut_self: also cut a token's edge to itself.
        random_share: cut only this share of the selected edges, chosen by a counter-based hash of
            (seed, order of row, order of key), the same edges on every device. None for all of them.
        seed: of that choice; 0 .. 2**32 - 1.
    """

    source: int
    target: int
    streams: tuple[int, ...] | None = None
    scope: Scope = "all"
    heads: int | None = None
    cut_self: bool = False
    random_share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.streams is not None:
            object.__setattr__(self, "streams", tuple(self.streams))  # a list could change afterwards
        for name in ("source", "target", "heads"):
            word = getattr(self, name)
            if word is not None and not 0 <= word <= ALL:
                raise ValueError(f"Cut.{name} = {word}: pass a 64-bit set, see avflow_ext.mask_of")
        if self.scope not in SCOPES:
            raise ValueError(f"Cut.scope = {self.scope!r}: pass one of {', '.join(SCOPES)}")
        if self.random_share is not None and not 0.0 <= self.random_share <= 1.0:
            raise ValueError(f"Cut.random_share = {self.random_share}: pass a share between 0 and 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"Cut.seed = {self.seed}: pass an integer in 0 .. 2**32 - 1")

    @property
    def threshold(self) -> int:
        """An edge is cut where its 32-bit hash is below this; 2**32 where all are."""
        return 2**32 if self.random_share is None else round(self.random_share * 2**32)
