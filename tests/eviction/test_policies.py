"""Each policy on a hand-made view."""

from __future__ import annotations

import numpy as np
import pytest

import avflow
from avflow.eviction.policies import EveryNth, KeepAll, KeepNone, TopK, View

ITEMS = np.array([0, 0, 1, 1, 2, 2, 3], np.int32)
SCORES = {"last": [5, 1, 4, 4, 0, 4, 2], "question": [0, 1, 2, 3, 4, 5, 6]}


def chosen(policy, items=ITEMS) -> list[int]:
    view = View(items, np.arange(10, 10 + len(items)), lambda by: np.array(SCORES[by], np.float32)[: len(items)])
    return np.flatnonzero(policy.select(view)).tolist()


@pytest.mark.parametrize(
    "policy, stay",
    [
        (KeepNone(), []),
        (KeepAll(), [0, 1, 2, 3, 4, 5, 6]),
        (EveryNth(1), [0, 1, 2, 3, 4, 5, 6]),
        (EveryNth(2), [0, 1, 4, 5]),
        (EveryNth(3), [0, 1, 6]),
        (TopK(count=3), [0, 2, 3]),  # the earlier among equals
        (TopK(count=99), [0, 1, 2, 3, 4, 5, 6]),
        (TopK(share=0.5), [0, 2, 3, 5]),  # 3.5 is rounded up
        (TopK(share=1 / 7, by="question"), [6]),
        (TopK(share=1.0), [0, 1, 2, 3, 4, 5, 6]),
        (TopK(share=0.5, rounding="floor"), [0, 2, 3]),
        (TopK(share=0.5, rounding="round"), [0, 2, 3, 5]),  # Python's round(3.5) is 4
        (TopK(share=5 / 14, rounding="round"), [0, 2]),  # and its round(2.5) is 2
        (TopK(share=0.1, rounding="floor"), []),
    ],
)
def test_select(policy, stay):
    assert chosen(policy) == stay
    assert chosen(policy, ITEMS[:0]) == []


def test_a_share_of_the_prompt():
    """What left before counts; more than there are is all."""
    for total, count in ((20, 3), (39, 5), (100, 7)):
        view = View(ITEMS, np.arange(7), lambda by: np.arange(7, dtype=np.float32), total)
        assert TopK(share=0.15, of="prompt", rounding="floor").select(view).sum() == count
        assert TopK(share=0.15, rounding="floor").select(view).sum() == 1


def test_floor_and_round_are_those_of_published_codes():
    for n, share in ((100, 0.29), (100, 0.58), (576, 0.5), (576, 1 - 0.75), (10, 1 - 0.9), (7, 0.5), (5, 0.5)):
        view = View(np.zeros(n, np.int32), np.arange(n), lambda by, n=n: np.arange(n, dtype=np.float32))
        assert TopK(share=share, rounding="floor").select(view).sum() == int(n * share)
        assert TopK(share=share, rounding="round").select(view).sum() == round(n * share)


def test_share_is_exact():
    view = View(np.zeros(30, np.int32), np.arange(30), lambda by: np.arange(30, dtype=np.float32))
    assert TopK(share=0.1).select(view).sum() == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopK(),
        lambda: TopK(share=0.5, count=2),
        lambda: TopK(share=0),
        lambda: TopK(share=1.1),
        lambda: TopK(count=0),
        lambda: TopK(count=True),
        lambda: TopK(count=1, by="all"),
        lambda: TopK(count=1, rounding="up"),
        lambda: TopK(count=1, scored_in="last"),
        lambda: TopK(count=1, of="rest"),
        lambda: EveryNth(0),
        lambda: EveryNth(1.0),
        lambda: chosen(EveryNth(2), np.array([0, -1], np.int32)),
    ],
)
def test_bad_values(make):
    with pytest.raises(avflow.InputError):
        make()
