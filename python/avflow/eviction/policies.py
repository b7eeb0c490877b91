"""Which tokens of a group stay when the group leaves: one small dataclass per rule, one method each.

A rule of your own is any object with `select`. What papers run on these rules is in `recipes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np
import torch

from .. import checks
from ..errors import InputError

ScoredBy = Literal["last", "question"]
ScoredIn = Literal["this", "next"]
Rounding = Literal["ceil", "floor", "round"]
SCORES: tuple[ScoredBy, ...] = ("last", "question")
SCORED_IN: tuple[ScoredIn, ...] = ("this", "next")
ROUNDINGS: tuple[Rounding, ...] = ("ceil", "floor", "round")


def _not_given() -> Any:
    raise InputError(
        "the policy asks its View for what it was made without: in a test of your own, pass View that as a function"
    )


@dataclass(frozen=True)
class View:
    """The tokens of one sequence that are about to leave, as a policy sees them. With `per`, those of one part.

    Attributes:
        items: int32 [n], frame, audio segment or option number; -1 for none. orders: int32 [n], place in the sequence.
        scores: called with "last" or "question", float32 [n]: the attention that the sequence's last token, or its
            question on average, pays to each token in the layer after which they leave (or would in the next one, for
            a policy that says `scored_in = "next"`), averaged over heads.
        total: the group's tokens in the prompt (in this part of it), also those that left before; None: n, none did.
        times: float64 [n], seconds from the begin of the token's medium, NaN where none is known; None: of no token.
        embeddings: called, float32 [n, D] on the model's device: the tokens as the next layer is given them. Before
            layer 0 (`after` = -1) that is the decoder's input: of video and sound the encoders' features, projected;
            after a later layer its hidden states. For a policy that has scores, or says `uses_embeddings = True`.
        groups: called, str [n], the group of each token.
        media: called, int32 [n], the number of the medium: a run of video, audio and image tokens without text or a
            mark in between; a video whose frames have their times between them is one. Counts from 0 in the prompt; -1
            for other tokens.
        places: called, int32 [n], the token's place within its item: of a frame, row by row. Counts those too that
            left before.
        sizes: called, int32 [n], how many tokens the token's item has: of a frame, all of it. Counts those too that
            left before.
    """

    items: np.ndarray
    orders: np.ndarray
    scores: Callable[[ScoredBy], np.ndarray]
    total: int | None = None
    times: np.ndarray | None = None
    embeddings: Callable[[], torch.Tensor] = _not_given
    groups: Callable[[], np.ndarray] = _not_given
    media: Callable[[], np.ndarray] = _not_given
    places: Callable[[], np.ndarray] = _not_given
    sizes: Callable[[], np.ndarray] = _not_given


class Policy(Protocol):
    """A rule. With a class attribute `uses_scores = False` the attention op is not asked for what scores need.

    With `scored_in = "next"` scores are those of the layer that the rows are about to enter. A rule without scores that
    looks at embeddings says `uses_embeddings = True`: else it is asked before the first layer runs.
    """

    def select(self, view: View) -> np.ndarray:
        """Which of the view's n tokens stay: bool [n]. Called once per sequence of the batch, and part of its step."""


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


def refuse_no_item(items: np.ndarray, orders: np.ndarray, who: object) -> None:
    """Raises InputError where a token has no item. items, orders: as of a View. who: asks for it."""
    if (items < 0).any():
        raise InputError(
            f"{who}: token {orders[items < 0][0]} has no item: pass video_grid_thw to the model, or groups= and items= "
            "of model.prepare(sample)"
        )


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
        refuse_no_item(view.items, view.orders, self)
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
            the layer that they do not enter, by its own norm, queries and keys, with all of them present, and those
            that other steps drop after the same layer.
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


@dataclass(frozen=True)
class Changed:
    """The tokens stay that differ most from the same place of the frame before, a share of each video; its first frame
    stays whole.

    The difference is 1 - cosine similarity of their embeddings; the earlier among equals. A token without one at its
    place in the frame before, as in the first frame, goes before all others.

    Args:
        share: of each medium's tokens, above 0 and up to 1: int(share n) of n stay, at least its first frame.

    Raises:
        InputError: a share out of range; in `select`, tokens that have no item, or frames of a video that are unlike
            in size (VideoLLaMA 3 leaves patches out, LLaVA-OneVision ends a video with a token of its own): their
            places are not each other's.
    """

    share: float
    uses_scores = False
    uses_embeddings = True

    def __post_init__(self) -> None:
        mend = "pass a share above 0 and up to 1"
        share = checks.number("Changed.share =", self.share, above=True, high=1.0, mend=mend)
        object.__setattr__(self, "share", share)

    def select(self, view: View) -> np.ndarray:
        refuse_no_item(view.items, view.orders, self)
        kinds = np.unique(view.groups(), return_inverse=True)[1]
        media = view.media() * (kinds.max(initial=0) + 1) + kinds  # sound within a video is another medium
        changed = self._changed(view, media)
        stay = np.zeros(len(changed), bool)
        for number in np.unique(media):
            own = np.flatnonzero(media == number)
            self._refuse_unlike_frames(view, own)
            first = int((view.items[own] == view.items[own[0]]).sum())
            count = max(first, int(self.share * len(own)))  # as published: not rounded, 0.29 of 100 is 28
            stay[own[np.argsort(-changed[own], kind="stable")[:count]]] = True
        return stay

    def _refuse_unlike_frames(self, view: View, own: np.ndarray) -> None:
        sizes = view.sizes()[own]
        unlike = np.flatnonzero(sizes != sizes[0])
        if view.groups()[own[0]] == "video" and unlike.size:
            one, other = view.items[own[[0, unlike[0]]]]
            raise InputError(
                f"{self}: frame {one} of a video has {sizes[0]} tokens, frame {other} has {sizes[unlike[0]]}: in this "
                "model a place of one is not the same place of the other; take EveryNth, or a policy by scores"
            )

    def _changed(self, view: View, media: np.ndarray) -> np.ndarray:
        """float32 [n]: 1 - cosine similarity to the token before, infinity where there is none."""
        place = np.stack([view.items, view.places(), media]).astype(np.int64)
        order = np.lexsort(place)  # by medium, place, and then frame
        step = np.diff(place[:, order])
        follows = (step[0] == 1) & (step[1:] == 0).all(0)
        now, before = (torch.from_numpy(part[follows]) for part in (order[1:], order[:-1]))
        x = view.embeddings()
        likeness = torch.cosine_similarity(x[now.to(x.device)], x[before.to(x.device)], -1)
        changed = np.full(len(order), np.inf, np.float32)
        changed[now.numpy()] = (1 - likeness).cpu().numpy()
        return changed


def scored_in(policy: Policy) -> ScoredIn | None:
    """The layer whose attention a policy asks for; None where it asks for none."""
    return getattr(policy, "scored_in", "this") if getattr(policy, "uses_scores", True) else None


def waits(policy: Policy) -> bool:
    """Whether a policy is asked once the layer has run, for what it made of the tokens."""
    return scored_in(policy) is not None or getattr(policy, "uses_embeddings", False) is True


POLICIES = {cls.__name__: cls for cls in (KeepNone, KeepAll, EveryNth, TopK, Changed)}


_SINCE_VERSION_2: tuple[type, ...] = (Changed,)


def needs_version_2(policy: Policy) -> bool:
    """Whether a schedule's file with this policy is of version 2."""
    return type(policy) in _SINCE_VERSION_2


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
        there = ", ".join(field.name for field in fields(cls)) or "none"
        raise InputError(f"policy {cls.__name__} has no field {unknown[0]!r}: it has {there}")
    try:
        return cls(**given)
    except TypeError as error:
        raise InputError(f"policy {value!r}: {error}") from error
