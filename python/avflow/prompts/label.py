"""One label of one's own: which tokens of a prompt leave their group for another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .. import checks
from ..errors import InputError
from .groups import check_group_name

_MOST = 1_000_000  # tokens or items of a label; more is a slip


@dataclass(frozen=True)
class Label:
    """The tokens that all of its conditions hold for belong to `group`; at least one is given.

    Args:
        group: letters, digits and underscores; a group of one's own, or one of avflow's.
        of: only tokens of this group, alias or sum, as avflow labels them, such as "video".
        tokens: positions in the prompt, from 0.
        items: frames, segments, options, by their number.
        start, end: seconds of the file, as a sample's `start` and `end`: tokens that show some of that time. None:
            from the begin, to the end.
        box: (x0, y0, x1, y1), shares of width and height from the left upper corner, 0 to 1: tokens of a video or
            picture that show some of it.
        text: tokens of the question, the options, the instruction or the system text that hold some of these words, at
            every place where they stand.
        item: the tokens' new item; None: they keep theirs.

    Raises:
        InputError: a value out of range, no condition.
    """

    group: str
    of: str | None = None
    tokens: tuple[int, ...] | None = None
    items: tuple[int, ...] | None = None
    start: float | None = None
    end: float | None = None
    box: tuple[float, float, float, float] | None = None
    text: str | None = None
    item: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen: this is the only place that writes
        check_group_name(self.group)
        where = f"label {self.group!r}:"
        for name in ("of", "text"):
            if (value := getattr(self, name)) is not None and not checks.text(f"{where} {name}", value).strip():
                raise InputError(f"{where} {name} is empty: leave it out, or fill it")
        for name in ("tokens", "items"):
            if (value := getattr(self, name)) is not None:
                put(self, name, _numbers(f"{where} {name}", value))
        for name in ("start", "end"):
            if (value := getattr(self, name)) is not None:
                put(self, name, checks.number(f"{where} {name}", value, mend="give seconds, 0 or more"))
        if self.end is not None and self.end <= (self.start or 0.0):
            raise InputError(f"{where} end {self.end:g} s is not after start {self.start or 0.0:g} s")
        if self.box is not None:
            put(self, "box", _box(where, self.box))
        if self.item is not None:
            put(self, "item", checks.integer(f"{where} item", self.item, low=-1, high=2**31 - 1))
        if all(getattr(self, name) is None for name in ("of", "tokens", "items", "start", "end", "box", "text")):
            raise InputError(f"{where} it says of no token: give of, tokens, items, start, end, box or text")

    @classmethod
    def of_value(cls, value: Any) -> Label:
        """From a Label, or from its fields in a dict, as a line of JSON holds them. Raises InputError."""
        if isinstance(value, Label):
            return value
        if not isinstance(value, Mapping):
            raise InputError(
                f'a label is {checks.shown(value)}: write {{"group": "object", "box": [0.1, 0.2, 0.5, 0.9]}}'
            )
        known = [f.name for f in fields(cls)]
        if unknown := [name for name in value if name not in known]:
            raise InputError(f"a label has no {checks.shown(unknown[0])}: it has {', '.join(known)}")
        if value.get("group") is None:
            raise InputError(f"a label has no group: {checks.shown(dict(value))}; name the group that its tokens go to")
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON has them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}

    def __str__(self) -> str:
        rest = {k: v for k, v in self.to_dict().items() if k != "group"}
        return f"{self.group!r} ({checks.shown(rest)})"


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    found = [value] if isinstance(value, int) else checks.members(value, _MOST)
    if not found or len(found) > _MOST:
        raise InputError(f"{name} is {checks.shown(value)}: give integers from 0, at least one")
    return tuple(checks.integer(name, one, high=2**31 - 1) for one in found)


def _box(where: str, value: Any) -> tuple[float, float, float, float]:
    mend = "give x0, y0, x1, y1 as shares of width and height, 0 to 1, such as [0.1, 0.2, 0.5, 0.9]"
    sides = checks.members(value, 4)
    if sides is None or len(sides) != 4:
        raise InputError(f"{where} box is {checks.shown(value)}: {mend}")
    x0, y0, x1, y1 = (checks.number(f"{where} box: a side", side, high=1.0, mend=mend) for side in sides)
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"{where} box is {checks.shown(value)}: x1 lies right of x0 and y1 below y0; {mend}")
    return x0, y0, x1, y1
