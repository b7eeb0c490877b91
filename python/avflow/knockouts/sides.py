"""One side of a knockout: groups, aliases and sums, each of all its tokens or of some items: "video[0-3]+audio".

And the numbers by which a walk tells them apart: where knockouts name items, a group's tokens are told apart by the
sets of items in which they are named, so that the op, which knows groups alone, can cut them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ..checks import members, shown
from ..errors import InputError
from ..prompts.groups import ALIASES, BASE_GROUPS, MAX_GROUPS, GroupTable

_NUMBERS = r"[0-9]{1,9}(?:\s*-\s*[0-9]{1,9})?"
_LIST = rf"{_NUMBERS}(?:\s*,\s*{_NUMBERS})*"
_TERM = rf"[A-Za-z0-9_]+(?:\s*\[\s*{_LIST}\s*\])?"
SIDE = rf"{_TERM}(?:\s*\+\s*{_TERM})*"  # what a side may look like; no group in it is captured
LIST = _LIST  # such as "0-3,5"
_MOST = 1_000_000  # items of a side
_MEDIA = (*ALIASES["media"], *ALIASES["candidates"], "reference")


def numbers(text: str, where: str) -> list[int]:
    """The integers of a text such as "0-3,5", sorted. Raises InputError: a range that runs backwards, or too many."""
    found: set[int] = set()
    for part in re.sub(r"\s", "", text).split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if high < low or high - low >= _MOST:
            raise InputError(f"{where}: {part!r} is no range; write 0-3,5 (ends included, at most {_MOST} of them)")
        found.update(range(low, high + 1))
    return sorted(found)


def ranges(values: Iterable[int]) -> str:
    """The text of `numbers`."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def terms(side: str) -> list[tuple[str, tuple[int, ...] | None]]:
    """(group or alias, its items, None: all) of each term of a side."""
    out: list[tuple[str, tuple[int, ...] | None]] = []
    for name, listed in re.findall(rf"([A-Za-z0-9_]+)\s*(?:\[\s*({_LIST})\s*\])?", side):
        out.append((name, tuple(numbers(listed, side)) if listed else None))
    return out


def written(side: str) -> str:
    """A side in the form in which names and configurations have it: one form for one sum, so "audio+video" is
    "video+audio", in the order of avflow's groups, then of the alphabet."""
    parts = sorted(set(terms(side)), key=lambda term: (_rank(term[0]), term[0], term[1] or ()))
    return "+".join(name if items is None else f"{name}[{ranges(items)}]" for name, items in parts)


def _rank(name: str) -> int:
    """The place of a group, of an alias' first one; all others are last, "all" is first."""
    if name == "all":
        return -1
    first = ALIASES.get(name, (name,))[0]
    return BASE_GROUPS.index(first) if first in BASE_GROUPS else len(BASE_GROUPS)


def both_ways(one: str, other: str) -> tuple[str, str]:
    """The two sides of a path that is cut both ways, in the order that its name has: "audio<->video",
    "video<->question". Media come first, by the alphabet; then other groups, in avflow's order."""
    first, second = sorted((one, other), key=_place)
    return first, second


def _place(side: str) -> tuple[bool, int, str]:
    name = terms(side)[0][0]
    media = ALIASES.get(name, (name,))[0] in _MEDIA
    return not media, 0 if media else _rank(name), side


def with_items(side: str, items: int | Iterable[int] | None) -> str:
    """The side, every term of it with these items alone. Raises InputError."""
    if items is None:
        return side
    given = [items] if isinstance(items, int) else members(items, _MOST)
    if not given or any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < 2**31 for i in given):
        raise InputError(f"Knockout.items = {shown(items)}: pass numbers of items from 0 on, or None for all")
    if "[" in side:
        raise InputError(f"Knockout.items = {shown(items)}, and {side!r} names items itself: leave one of them out")
    return "+".join(f"{name}[{ranges(given)}]" for name, _ in terms(side))


def group_names(side: str) -> str:
    """The side without its items: a group, an alias or a sum."""
    return "+".join(dict.fromkeys(name for name, _ in terms(side)))


class Parts:
    """Groups, and parts of groups where sides name items, as numbers 0 .. 63 and sets of them as 64-bit words.

    Without items this is the table itself.

    Args:
        table: the model's groups. sides: all that knockouts name.

    Raises:
        InputError: a name that is no group or alias; more parts than there are numbers.
    """

    def __init__(self, table: GroupTable, sides: Iterable[str]) -> None:
        self.table = table
        named: dict[int, list[frozenset[int]]] = {}  # of each group, the sets of items that sides name
        for side in dict.fromkeys(sides):
            for name, items in terms(side):
                for group in (table[member] for member in table.members(name)):
                    if items is not None:
                        named.setdefault(group, []).append(frozenset(items))
        # Items that stand in the same sets are one part.
        self.part: dict[tuple[int, int], int] = {}  # (group, item) -> number
        self._items: dict[int, dict[int, set[int]]] = {}  # group -> its parts -> their items
        free = len(table)
        for group, sets in named.items():
            alike: dict[tuple[bool, ...], int] = {}
            for item in sorted(frozenset().union(*sets)):
                key = tuple(item in one for one in sets)
                if key not in alike:
                    alike[key], free = free, free + 1
                self.part[group, item] = alike[key]
                self._items.setdefault(group, {}).setdefault(alike[key], set()).add(item)
        if free > MAX_GROUPS:
            raise InputError(
                f"the knockouts tell {free - len(table)} sets of items apart, beside {len(table)} groups: "
                f"{MAX_GROUPS} are the most together; ask for fewer items at a time"
            )

    def expand(self, side: str) -> int:
        """The 64-bit word of a side."""
        word = 0
        for name, items in terms(side):
            for group in (self.table[member] for member in self.table.members(name)):
                parts = self._items.get(group, {})
                if items is None:
                    word |= 1 << group
                word |= sum(1 << number for number, held in parts.items() if items is None or held <= set(items))
        return word

    def columns(self, group: np.ndarray, item: np.ndarray) -> np.ndarray:
        """The number of every token, int32 [n], from its group and item."""
        if not self.part:
            return group
        out = group.copy()
        for (own, number), part in self.part.items():
            out[(group == own) & (item == number)] = part
        return out


def parts_of(table: GroupTable, knockouts: Sequence[object]) -> Parts:
    """Of all edges of some `Knockout`s."""
    return Parts(table, [side for one in knockouts for pair in one.edges for side in pair])  # type: ignore[attr-defined]
