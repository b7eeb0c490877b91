"""Where states are patched: which tokens, and which part of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks
from ..errors import InputError
from ..knockouts.sides import LIST, SIDE, group_names, numbers, terms, written
from ..models.base import Model
from ..walk.edits import PARTS, Part
from ..walk.jobs import Columns, members

MOST = 10_000  # sites; more is a slip
_SITE = re.compile(rf"({SIDE})\s*((?:\([^()]*\)\s*)*)")


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
        put(self, "group", _sum(checks.text("PatchSite.group", group).strip()))
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

    @classmethod
    def parse(cls, text: str, part: Part = "residual") -> PatchSite:
        """From "video", "video[0-3]" or "video+audio"; behind it, as names have it, "(mlp)", "(attention)",
        "(residual)", "(heads 1,5)", which are of attention, or "(items 0-3)".

        part: where the text names neither a part nor heads.

        Raises:
            InputError: a text of another form.
        """
        found = _SITE.fullmatch(checks.text("site", text).strip())
        if found is None:
            raise _no_form(text)
        listed = {items for _, items in terms(found[1])}
        if len(listed) > 1:
            raise InputError(f"site {text!r}: its groups have unlike items: name each as a site of its own")
        more: dict[str, Any] = {"items": listed.pop()}
        for said in re.findall(r"\(([^()]*)\)", found[2]):
            name, value = _said(said.strip(), text)
            if more.get(name) is not None:
                raise InputError(f"site {text!r}: its {name} are said twice")
            more[name] = value
        default = "attention" if "heads" in more else part
        return cls(group_names(found[1]), more.pop("part", default), **more)

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


def _sum(group: str) -> str:
    """A sum in the order in which knockouts have it; what is none as it is: the model refuses it."""
    return written(group) if re.fullmatch(SIDE, group) and "[" not in group else group


def _said(said: str, text: str) -> tuple[str, Any]:
    """An argument's name and value, from what stands in brackets."""
    if said in PARTS:
        return "part", said
    if found := re.fullmatch(rf"(head|item)s?\s+({LIST})", said):
        return f"{found[1]}s", tuple(numbers(found[2], f"site {text!r}"))
    raise _no_form(text)


def _no_form(text: str) -> InputError:
    return InputError(
        f'site {text!r}: write a group, an alias or a sum, "video[0-3]" for some of its items; behind it "(mlp)", '
        '"(attention)" or "(heads 1,5)"'
    )


def _numbers(name: str, value: int | Iterable[int] | None, high: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    given = [value] if isinstance(value, int) else checks.members(value, 100_000)
    if not given:
        raise InputError(f"{name} = {checks.shown(value)}: pass a number or several, or None for all")
    return tuple(sorted({checks.integer(name, one, high=high) for one in given}))


def as_sites(value: str | PatchSite | Sequence[str | PatchSite], part: Part = "residual") -> list[PatchSite]:
    """Texts (see `PatchSite.parse`) and `PatchSite`s as a list with distinct names; `part`: of texts that name none.

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
        sites.append(PatchSite.parse(one, part) if isinstance(one, str) else one)
    names = [site.name for site in sites]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"site {twice[0]!r} is given twice: drop one, or pass name=... to tell them apart")
    return sites
