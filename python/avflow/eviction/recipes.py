"""Schedules as papers publish them: each keeps the tokens that its paper's code keeps.

Layers are counted as the papers count them: "after layer k" is after k layers have run, the last of which is number
k - 1 from 0. What differs from the papers' code is said in docs/eviction.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from .. import checks
from ..errors import InputError
from .policies import Changed, TopK
from .schedule import BEFORE, EvictionSchedule, Step


def fastv(k: int = 2, ratio: float = 0.5, group: str = "video") -> EvictionSchedule:
    """FastV (arXiv 2403.06764): before layer k (0-based) those leave that get least attention.

    Attention is what the prompt's last token pays in layer k - 1, averaged over heads.

    Args:
        k: the paper's K, layers that see all tokens, at least 1.
        ratio: the paper's R, the share that leaves; from 0 on, below 1. round(n (1 - ratio)) of n tokens stay.
        group: a group, an alias or a sum.

    Raises:
        InputError: a value out of range.
    """
    k = checks.integer("fastv: k =", k, low=1)
    ratio = checks.number("fastv: ratio =", ratio, low=0.0, high=1.0)
    if ratio == 1:
        raise InputError("fastv: ratio = 1: then none stay, which is vtw(k)")
    return EvictionSchedule([Step(group, k - 1, TopK(share=1 - ratio, rounding="round"))])


def pyramiddrop(
    layers: Iterable[int] = (8, 16, 24), shares: Iterable[float] = (0.5, 0.25, 0.125), group: str = "video"
) -> EvictionSchedule:
    """PyramidDrop (arXiv 2410.17247): before some layers, only a share of the group stays, smaller every time.

    Ranked by the attention that the last token would pay in the layer about to be entered, averaged over heads.

    Args:
        layers: the code's layer_list, ascending: layers that have run by then. Its default is for 32 layers: quarters.
        shares: its image_token_ratio_list: after each, int(n share) of the prompt's n tokens are there.
        group: a group, an alias or a sum.

    Raises:
        InputError: other numbers of shares than of layers, layers that do not rise, a value out of range.
    """
    ends, parts = checks.members(layers, checks.MOST_STEPS), checks.members(shares, checks.MOST_STEPS)
    if not ends or parts is None or len(ends) != len(parts) or len(ends) > checks.MOST_STEPS:
        raise InputError(
            f"pyramiddrop: layers = {checks.shown(layers)}, shares = {checks.shown(shares)}: pass a share for every "
            "layer, such as layers=(8, 16, 24), shares=(0.5, 0.25, 0.125)"
        )
    ends = [checks.integer("pyramiddrop: a layer =", end, low=1) for end in ends]
    if ends != sorted(set(ends)):
        raise InputError(f"pyramiddrop: layers = {checks.shown(layers)}: they must rise")
    rules = [TopK(share=share, rounding="floor", scored_in="next", of="prompt") for share in parts]
    return EvictionSchedule([Step(group, end - 1, rule) for end, rule in zip(ends, rules, strict=True)])


def vtw(k: int = 15, group: str = "video") -> EvictionSchedule:
    """Visual tokens withdrawal (arXiv 2405.05803): before layer k (0-based) the whole group leaves.

    Args:
        k: the paper's K, layers that see the group, at least 1; its default is the code's, for LLaVA-1.5-7B. A layer
            for another model comes from `avflow.plan_eviction`.
        group: a group, an alias or a sum.

    Raises:
        InputError: a value out of range.
    """
    return EvictionSchedule([Step(group, checks.integer("vtw: k =", k, low=1) - 1)])


def evs(q: float = 0.5, group: str = "video") -> EvictionSchedule:
    """Efficient Video Sampling (arXiv 2510.14624): before layer 0 those leave that repeat the frame before.

    Ranked over the whole video by 1 - cosine similarity to the same place of the frame before, of what the vision
    encoder gives the decoder.

    Args:
        q: the code's pruning rate, the share that leaves; from 0 on, below 1. int(n (1 - q)) of n tokens stay, and no
            fewer than the first frame has.
        group: a group, an alias or a sum, of tokens whose items are frames of one grid.

    Raises:
        InputError: a value out of range.
    """
    q = checks.number("evs: q =", q, low=0.0, high=1.0)
    if q == 1:
        raise InputError("evs: q = 1: then nothing is asked to stay; pass a share below 1, such as 0.5")
    return EvictionSchedule([Step(group, BEFORE, Changed(1 - q))])
