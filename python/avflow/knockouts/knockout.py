"""Knockouts: which attention edges are cut, as a user writes them, and as the cuts that the attention op reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from avflow_ext import SCOPES, SEMANTICS, Cut
from avflow_ext.tokens import Scope, Semantics

from .. import checks
from ..errors import InputError
from .sides import LIST, SIDE, both_ways, group_names, numbers, with_items, written

__all__ = ["SCOPES", "SEMANTICS", "Knockout", "Scope", "Semantics"]

_ARROW = re.compile(rf"^({SIDE})\s*(<->|->)\s*({SIDE})$")
_CROSS = re.compile(rf"^cross:\s*({SIDE})$")
_SUFFIX = re.compile(r"\(([^()]*)\)\s*$")  # of a text form: what more is said
_RANDOM = re.compile(r"random\s+([0-9.eE+-]+)(?:\s*,\s*seed\s+([0-9]{1,10}))?")


class Words(Protocol):
    """What gives the 64-bit word of a side: a GroupTable, or `sides.Parts` where sides name items."""

    def expand(self, name: str, /) -> int: ...


def _side(value: str | Sequence[str], where: str) -> str:
    parts = [value] if isinstance(value, str) else checks.members(value, 64)  # groups at most
    if not parts or not all(isinstance(p, str) and re.fullmatch(SIDE, p.strip()) for p in parts):
        raise InputError(
            f'Knockout.{where} = {checks.shown(value)}: pass a group, an alias, or several ("video+audio"), each with '
            'the items that are meant, if not all ("video[0-3]")'
        )
    return written("+".join(parts))


def _heads(value: int | Iterable[int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    heads = [value] if isinstance(value, int) else checks.members(value, 64)
    if not heads or any(isinstance(h, bool) or not isinstance(h, int) or not 0 <= h < 64 for h in heads):
        raise InputError(f"Knockout.heads = {checks.shown(value)}: pass query head numbers 0 .. 63, or None for all")
    return tuple(sorted(set(heads)))


@dataclass(frozen=True, init=False)
class Knockout:
    """Every edge from the source groups to the target groups is cut.

    Args:
        source, target: a group, an alias, a sum such as "video+audio", or a list of them. "video[0-3,7]": its tokens
            with these items (frames, segments, options, candidates).
        scope: "all", or "other_items": only edges between two different items (frames, segments, options).
        heads: query heads in which the edges are cut, one or several; None for all. Kept as a sorted tuple.
        cut_self: also cut a token's edge to itself.
        random_share: cut only this share of the edges, chosen at random by (seed, query, key): a control.
        seed: of that choice, 0 .. 2**32 - 1.
        both: also cut the edges from target to source. The two sides then have one order, whichever was given.
        name: what the result table calls it; default: its text form.
        items: of the source, one or several: `Knockout("video", "last", items=2)` is `Knockout("video[2]", "last")`.

    Raises:
        InputError: a value out of range; the message names it.
    """

    source: str
    target: str
    scope: Scope = "all"
    heads: tuple[int, ...] | None = None
    cut_self: bool = False
    random_share: float | None = None
    seed: int = 0
    both: bool = False
    name: str = ""

    def __init__(
        self,
        source: str | Sequence[str],
        target: str | Sequence[str],
        scope: Scope = "all",
        heads: int | Iterable[int] | None = None,
        cut_self: bool = False,
        random_share: float | None = None,
        seed: int = 0,
        both: bool = False,
        name: str = "",
        items: int | Iterable[int] | None = None,
    ) -> None:
        put = object.__setattr__  # frozen: this is the only place that writes
        put(self, "source", with_items(_side(source, "source"), items))
        put(self, "target", _side(target, "target"))
        put(self, "scope", checks.choice("Knockout.scope", scope, SCOPES))
        put(self, "heads", _heads(heads))
        put(self, "cut_self", checks.flag("Knockout.cut_self =", cut_self))
        if random_share is not None:
            mend = "give a share above 0 and up to 1, or None"
            random_share = checks.number("Knockout.random_share =", random_share, above=True, high=1.0, mend=mend)
        put(self, "random_share", random_share)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise InputError(f"Knockout.seed = {checks.shown(seed)}: pass an integer in 0 .. 2**32 - 1")
        put(self, "seed", seed)
        put(self, "both", checks.flag("Knockout.both =", both))
        if self.both:
            first, second = both_ways(self.source, self.target)
            put(self, "source", first)
            put(self, "target", second)
        put(self, "name", checks.text("Knockout.name", name) or self._text())

    def _text(self) -> str:
        if self.scope == "other_items" and self.source == self.target and not self.both:
            text = f"cross:{self.source}"
        else:
            text = f"{self.source}{'<->' if self.both else '->'}{self.target}"
            text += " (other items)" if self.scope == "other_items" else ""
        if self.cut_self:
            text += " (self)"
        if self.heads is not None:
            text += f" (heads {','.join(map(str, self.heads))})"
        if self.random_share is not None:
            text += f" (random {self.random_share:g}, seed {self.seed})"
        return text

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """(source, target) pairs."""
        here = ((self.source, self.target),)
        return here + ((self.target, self.source),) if self.both else here

    @property
    def groups(self) -> tuple[str, ...]:
        """Both sides without their items: groups, aliases, sums."""
        return group_names(self.source), group_names(self.target)

    @property
    def has_items(self) -> bool:
        """Whether a side names items."""
        return "[" in self.source + self.target

    def refuse_items(self, where: str) -> None:
        """Raises InputError where a side names items and `where` cannot tell items apart, as sweeps do."""
        if self.has_items:
            raise InputError(
                f"knockout {self.name!r} names items, which sweeps tell apart: in {where}, put these tokens into a "
                'group of your own, by labels= of model.prepare, {"group": "part", "of": "video", "items": [2]}'
            )

    def cuts(self, groups: Words, streams: tuple[int, ...] | None = None) -> list[Cut]:
        """The cuts of this knockout for the rows of `streams` (None: all)."""
        heads = None if self.heads is None else sum(1 << h for h in self.heads)
        return [
            Cut(
                source=groups.expand(source),
                target=groups.expand(target),
                streams=streams,
                scope=self.scope,
                heads=heads,
                cut_self=self.cut_self,
                random_share=self.random_share,
                seed=self.seed,
            )
            for source, target in self.edges
        ]

    def check_heads(self, n_heads: int) -> None:
        """Raises InputError where a head is named that the model does not have."""
        if self.heads is not None and self.heads[-1] >= n_heads:
            raise InputError(
                f"knockout {self.name!r}: head {self.heads[-1]} is out of range, the model has heads 0 .. {n_heads - 1}"
            )

    @classmethod
    def parse(cls, text: str) -> Knockout:
        """From "video->question", "audio<->video" or "cross:video", where a side may name items ("video[0-3]->last").

        Behind it, in brackets, what more is said, in any order, as names have it: "(self)", "(heads 0-3,5)",
        "(other items)", "(random 0.5, seed 1)".

        Raises:
            InputError: a text of another form.
        """
        text = checks.text("knockout", text)
        rest, more = text.strip(), dict[str, Any]()
        while suffix := _SUFFIX.search(rest):
            name, value = _said(suffix[1].strip(), text)
            if name in more:
                raise InputError(f"knockout {text!r}: {suffix[0].strip()!r} is said twice")
            more |= {name: value} if name != "random_share" else {"random_share": value[0], "seed": value[1]}
            rest = rest[: suffix.start()].rstrip()
        cross, arrow = _CROSS.match(rest), _ARROW.match(rest)
        if cross and "scope" not in more:
            return cls(cross[1], cross[1], scope="other_items", **more)
        if arrow:
            return cls(arrow[1], arrow[3], both=arrow[2] == "<->", **more)
        raise _no_form(text)


def _said(said: str, text: str) -> tuple[str, Any]:
    """An argument's name and value, from what stands in brackets."""
    if said == "self":
        return "cut_self", True
    if said == "other items":
        return "scope", "other_items"
    if heads := re.fullmatch(rf"heads?\s+({LIST})", said):
        return "heads", numbers(heads[1], f"knockout {text!r}")
    if random := _RANDOM.fullmatch(said):
        try:
            return "random_share", (float(random[1]), int(random[2] or 0))
        except ValueError:
            pass
    raise _no_form(text)


def _no_form(text: str) -> InputError:
    return InputError(
        f'knockout {text!r}: write "video->question", "audio<->video" (both ways), "cross:video" (between its items), '
        'where "video[0-3]" is some of its items; behind it "(self)" (with each token\'s edge to itself), '
        '"(heads 0-3)", "(other items)" or "(random 0.5, seed 1)"'
    )
