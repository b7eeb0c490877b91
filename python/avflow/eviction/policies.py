"""Which tokens of a group stay when the group leaves: one small dataclass per rule, one method each.

A rule of your own is any object with `select`. What papers run on these rules is in `recipes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np

from .. import checks
from ..errors import InputError

ScoredBy = Literal["last", "question"]
ScoredIn = Literal["this", "next"]
Rounding = Literal["ceil", "floor", "round"]
SCORES: tuple[ScoredBy, ...] = ("last", "question")
SCORED_IN: tuple[ScoredIn, ...] = ("this", "next")
ROUNDINGS: tuple[Rounding, ...] = ("ceil", "floor", "round")


@dataclass(frozen=True)
class View:
    """The tokens of one sequence that are about to leave, as a policy sees them.

    Attributes:
        items: int32 [n], frame, audio segment or option number; -1 for none. orders: int32 [n], place in the sequence.
        scores: called with "last" or "question", float32 [n]: the attention that the sequence's last token, or its
            question on average, pays to each token in the layer after which they leave (or would in the next one, for
            a policy that says `scored_in = "next"`), averaged over heads.
        total: the group's tokens in the prompt, also those that left before; None: n, none did.
    """

    items: np.ndarray
    orders: np.ndarray
    scores: Callable[[ScoredBy], np.ndarray]
    total: int | None = None


class Policy(Protocol):
    """A rule. With a class attribute `uses_scores = False` the attention op is not asked for what scores need.

    With `scored_in = "next"` scores are those of the layer that the rows are about to enter.
    """

    def select(self, view: View) -> np.ndarray:
        """Which of the view's n tokens stay: bool [n]. Called once per sequence of the batch."""


@dataclass(frozen=True)
class KeepNone:
    """All tokens leave."""

    uses_scores = False

    def select(self, view: View) -> np.ndarray:
        return np.zeros(len(view.orders), bool)


@dataclass(frozen=True)
class KeepAll:
    """No token leaves: the neutral rule, to switch a step off."""

    uses_scores = False

    def select(self, view: View) -> np.ndarray:
        return np.ones(len(view.orders), bool)


@dataclass(frozen=True)
class EveryNth:
    """Of the items (frames, audio segments), number 0, n, 2n, ... stay, with all their tokens.

    Raises:
        InputError: n below 1; in `select`, tokens that have no item.
    """

    n: int
    uses_scores = False

    def __post_init__(self) -> None:
        n = checks.integer("EveryNth.n =", self.n, low=1, high=2**31 - 1)  # items are int32
        object.__setattr__(self, "n", n)

    def select(self, view: View) -> np.ndarray:
        if (view.items < 0).any():
            raise InputError(
                f"EveryNth({self.n}): token {view.orders[view.items < 0][0]} has no item: pass video_grid_thw to "
                "the model, or groups= and items= of model.prepare(sample)"
            )
        return view.items % self.n == 0


@dataclass(frozen=True)
class TopK:
    """The tokens that receive most attention stay: a share of them or a count; the earlier among equals.

    Args:
        share: above 0 and up to 1. count: at least 1. Give one of the two.
        by: "last", the attention of the last token, or "question", of the question's tokens on average.
        rounding: of share times tokens: "ceil", up; "floor" and "round" as Python's int() and round() do it, which
            takes 2.5 to 2 and 3.5 to 4, and may come to 0.
        scored_in: "this", the attention of the layer after which the others leave; or "next", what would be paid in
            the layer that they do not enter, by its own norm, queries and keys, with all of them present.
        of: what `share` is a share of: the tokens that are "left", or those of the group in the "prompt", also those
            that left in earlier steps.
    """

    share: float | None = None
    count: int | None = None
    by: ScoredBy = "last"
    rounding: Rounding = "ceil"
    scored_in: ScoredIn = "this"
    of: Literal["left", "prompt"] = "left"
    uses_scores = True

    def __post_init__(self) -> None:
        if (self.share is None) == (self.count is None):
            raise InputError(
                f"TopK: share = {checks.shown(self.share)}, count = {checks.shown(self.count)}: give one of the two"
            )
        if self.share is not None:
            mend = "pass a share above 0 and up to 1"
            share = checks.number("TopK.share =", self.share, above=True, high=1.0, mend=mend)
            object.__setattr__(self, "share", share)
        if self.count is not None:
            object.__setattr__(self, "count", checks.integer("TopK.count =", self.count, low=1, high=2**31 - 1))
        checks.choice("TopK.by", self.by, SCORES)
        checks.choice("TopK.rounding", self.rounding, ROUNDINGS)
        checks.choice("TopK.scored_in", self.scored_in, SCORED_IN)
        checks.choice("TopK.of", self.of, ("left", "prompt"))

    def select(self, view: View) -> np.ndarray:
        n = len(view.orders)
        total = n if self.of == "left" or view.total is None else view.total
        stay = np.zeros(n, bool)
        if n:
            stay[np.argsort(-view.scores(self.by), kind="stable")[: self._count(total)]] = True
        return stay

    def _count(self, n: int) -> int:
        if self.share is None:
            assert self.count is not None
            return self.count
        if self.rounding == "ceil":
            return math.ceil(self.share * n - 1e-9)  # 0.1 * 30 is a little more than 3 in binary
        # Nothing like that here: published codes do without it, and one keeps 28 of 100 by a share of 0.29.
        return int(self.share * n) if self.rounding == "floor" else round(self.share * n)


def scored_in(policy: Policy) -> ScoredIn | None:
    """The layer whose attention a policy asks for; None where it asks for none."""
    return getattr(policy, "scored_in", "this") if getattr(policy, "uses_scores", True) else None


POLICIES = {cls.__name__: cls for cls in (KeepNone, KeepAll, EveryNth, TopK)}


def to_json(policy: Policy) -> dict[str, Any]:
    """{"policy": name, its fields}, but for those at their default: older versions read a file without newer fields.

    Raises:
        InputError: a policy that is not one of ours, which a file could not name.
    """
    if POLICIES.get(type(policy).__name__) is not type(policy):
        raise InputError(f"policy {policy!r} is not one of avflow's ({', '.join(POLICIES)}): it cannot be saved")
    given = {field.name: getattr(policy, field.name) for field in fields(policy)}
    defaults = {field.name: field.default for field in fields(policy)}
    return {"policy": type(policy).__name__} | {name: v for name, v in given.items() if v != defaults[name]}


def from_json(value: Any) -> Policy:
    """The policy that `to_json` described.

    Raises:
        InputError: an unknown name or field, a field out of range.
    """
    name = value.get("policy") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in POLICIES:
        raise InputError(f"policy {checks.shown(value)}: need {{'policy': one of {', '.join(POLICIES)}, its fields}}")
    cls = POLICIES[name]
    given = {name: entry for name, entry in value.items() if name != "policy"}
    unknown = sorted(set(given) - {field.name for field in fields(cls)})
    if unknown:
        raise InputError(f"policy {cls.__name__} has no field {unknown[0]!r}")
    try:
        return cls(**given)
    except TypeError as error:
        raise InputError(f"policy {value!r}: {error}") from error
