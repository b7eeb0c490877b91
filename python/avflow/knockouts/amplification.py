"""Amplification: edges that are not cut but weigh more, or less, by a factor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from .. import checks
from ..errors import InputError
from .knockout import Knockout

MOST_FACTOR = 1000.0  # beyond it fp32's rounding of the two runs of the op shows in their difference
_TIMES = re.compile(r"\s*\(x\s*([0-9.eE+-]+)\)\s*$")


class Amplification(Knockout):
    """Every edge from the source groups to the target groups weighs `factor` times as much before the softmax's sum.

    exp(score) of these edges is multiplied by the factor, that is, log(factor) is added to the score: attention goes
    to them at the others' expense. Above 1 it amplifies, below it weakens; 0 would cut, which is a `Knockout`. For
    `avflow.sweep` alone, beside knockouts or instead of them. With the semantics "zero", the weights after the softmax
    are multiplied, and the others stay as they are.

    Args:
        source, target: as of `Knockout`. factor: above 0, at most 1000.
        more: the other arguments of `Knockout`.

    Raises:
        InputError: a value out of range; the message names it.
    """

    factor: float

    def __init__(
        self, source: str | Sequence[str], target: str | Sequence[str], factor: float, *, name: str = "", **more: Any
    ) -> None:
        factor = checks.number("Amplification.factor =", factor, above=True, high=MOST_FACTOR)
        super().__init__(source, target, name=name, **more)
        put = object.__setattr__
        put(self, "factor", factor)
        put(self, "name", self.name if name else f"{self.name} (x {factor:g})")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amplification) and self.factor == other.factor and super().__eq__(other)

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.factor))


def parsed(text: str) -> Knockout:
    """A `Knockout` from its text form; an `Amplification` where a factor stands behind it: "video->last (x 2)".

    Raises:
        InputError: a text of another form.
    """
    found = _TIMES.search(text)
    if found is None:
        return Knockout.parse(text)
    plain = Knockout.parse(text[: found.start()])
    try:
        factor = float(found[1])
    except ValueError:
        raise InputError(f'knockout {text!r}: write the factor as a number, such as "video->last (x 2)"') from None
    given = {name: getattr(plain, name) for name in ("scope", "heads", "cut_self", "random_share", "seed", "both")}
    return Amplification(plain.source, plain.target, factor, **given)


def refuse_amplified(knockouts: Iterable[Knockout], where: str) -> None:
    """Raises InputError where one of them is an `Amplification`, which `where` would take for a cut."""
    for one in knockouts:
        if isinstance(one, Amplification):
            raise InputError(
                f"{one.name!r}: {where} cuts and does not amplify; use avflow.sweep, or an avflow.Knockout"
            )
