"""Where states are patched: which tokens, and which part of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import checks
from ..errors import InputError
from ..models.base import Model
from ..walk.edits import PARTS, Part
from ..walk.jobs import Columns, members

MOST = 10_000  # sites; more is a slip


@dataclass(frozen=True, init=False)
class PatchSite:
    """Tokens, and the part of a layer whose states are replaced there.

    Args:
        group: a group, an alias or a sum such as "video+audio"; of `avflow.mark_sinks` "sink".
        part: "residual", the layer's output; "attention", what the heads give, before the output matrix; "mlp", its
            output.
        items: frames, segments or options by number; None for all of the group.
        heads: query heads, of "attention" alone; None for all.
        name: what the result table calls it; default: its text form.

    Raises:
        InputError: a value out of range; the message names it.
    """

    group: str
    part: Part = "residual"
    items: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    name: str = ""

    def __init__(
        self,
        group: str,
        part: Part = "residual",
        items: int | Iterable[int] | None = None,
        heads: int | Iterable[int] | None = None,
        name: str = "",
    ) -> None:
        put = object.__setattr__  # frozen: this is the only place that writes
        put(self, "group", checks.text("PatchSite.group", group).strip())
        put(self, "part", checks.choice("PatchSite.part", part, PARTS))
        put(self, "items", _numbers("PatchSite.items", items, 2**31 - 1))
        put(self, "heads", _numbers("PatchSite.heads", heads, 63))
        if heads is not None and part != "attention":
            raise InputError(f'PatchSite.heads = {checks.shown(heads)}: only part="attention" has heads')
        put(self, "name", checks.text("PatchSite.name", name) or self._text())

    def _text(self) -> str:
        text = self.group
        if self.items is not None:
            text += f" (items {','.join(map(str, self.items))})"
        if self.heads is not None:
            return f"{text} (heads {','.join(map(str, self.heads))})"
        return text if self.part == "residual" else f"{text} ({self.part})"

    def check(self, model: Model) -> None:
        """Raises InputError for a group or a head that the model does not have."""
        model.groups.expand(self.group)
        if self.heads is not None and self.heads[-1] >= model.n_heads:
            raise InputError(
                f"site {self.name!r}: head {self.heads[-1]} is out of range, the model has heads 0 .. "
                f"{model.n_heads - 1}"
            )

    def orders(self, model: Model, columns: Columns) -> np.ndarray:
        """Its tokens in a prompt, answer tokens included: int64 [n], increasing."""
        held = members(model.groups.expand(self.group), columns.group)
        if self.items is not None:
            held = held & np.isin(columns.item, self.items)
        return np.flatnonzero(held)


def _numbers(name: str, value: int | Iterable[int] | None, high: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    given = [value] if isinstance(value, int) else checks.members(value, 100_000)
    if not given:
        raise InputError(f"{name} = {checks.shown(value)}: pass a number or several, or None for all")
    return tuple(sorted({checks.integer(name, one, high=high) for one in given}))


def as_sites(value: str | PatchSite | Sequence[str | PatchSite], part: Part = "residual") -> list[PatchSite]:
    """Group names and `PatchSite`s as a list with distinct names; `part`: of those that are only named.

    Raises:
        InputError: an unknown form, an empty list, two sites of one name.
    """
    checks.choice("part", part, PARTS)
    given = [value] if isinstance(value, (str, PatchSite)) else checks.members(value, MOST)
    if not given or len(given) > MOST:
        raise InputError(f"sites = {checks.shown(value)}: pass a group's name, an avflow.PatchSite, or several")
    sites = []
    for one in given:
        if not isinstance(one, (str, PatchSite)):
            raise InputError(f"site {checks.shown(one)}: pass a group's name or an avflow.PatchSite")
        sites.append(PatchSite(one, part) if isinstance(one, str) else one)
    names = [site.name for site in sites]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"site {twice[0]!r} is given twice: drop one, or pass name=... to tell them apart")
    return sites
