"""Limits of shares against scipy's own and against what they promise; which prompts are held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from avflow.planning.exact import change_limits, drop_bound, mean_limit, prompts_needed, share_limits
from avflow.planning.holdout import held_out


@given(st.integers(1, 300), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_share_limits_are_clopper_and_pearsons(n, data, confidence):
    count = data.draw(st.integers(0, n))
    low, high = share_limits(np.array([count]), n, (1 - confidence) / 2)
    theirs = stats.binomtest(count, n).proportion_ci(confidence, "exact")
    assert low[0] == pytest.approx(theirs.low, abs=1e-9) and high[0] == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize("lost, won", [(0.0, 0.0), (0.01, 0.0), (0.05, 0.02), (0.3, 0.3)])
def test_limits_hold_as_often_as_they_say(lost, won):
    """2,000 data sets of 40 prompts: the truth is outside in no more than the doubt allows."""
    rng = np.random.default_rng(0)
    draw = rng.random((40, 2000))
    clean = np.ones(40, bool)
    clean[20:] = False  # half can be lost, half be won
    correct = np.where(clean[:, None], draw >= 2 * lost, draw < 2 * won)
    truth = won - lost
    low, high = change_limits(clean, correct, 0.9)
    assert ((low <= truth) & (truth <= high)).mean() >= 0.9
    assert (drop_bound(clean, correct, 0.9) >= lost - won).mean() >= 0.9


def test_prompts_needed_is_where_the_bound_is_reached():
    for drop, confidence in ((0.01, 0.95), (0.05, 0.9)):
        n = prompts_needed(drop, confidence)
        bounds = [drop_bound(np.ones(m, bool), np.ones((m, 1), bool), confidence)[0] for m in (n - 1, n)]
        assert bounds[1] <= drop < bounds[0]
    assert prompts_needed(0.01, 0.95) == 299 and prompts_needed(0.0, 0.95) is None


def test_mean_limit_is_students():
    values = np.random.default_rng(1).normal(size=(12, 3))
    theirs = [stats.t.interval(0.9, 11, v.mean(), stats.sem(v))[1] for v in values.T]
    assert mean_limit(values, 0.95) == pytest.approx(theirs)
    assert mean_limit(values[:1], 0.95).tolist() == values[0].tolist()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0, 0.25, 0.5, 0.9]),
    st.randoms(),
)
def test_a_share_of_every_task_is_held_out(kinds, share, random):
    ids, (tasks, clean) = [f"{i}" for i in range(len(kinds))], zip(*kinds, strict=True)
    out = held_out(ids, tasks, clean, share, 0)
    assert abs(out.sum() - share * len(ids)) < 1
    for kind in set(kinds):
        own = np.array([k == kind for k in kinds])
        assert abs(out[own].sum() - share * own.sum()) < 1
    if any(clean):
        assert (np.array(clean) & ~out).any()  # something to choose on
    order = random.sample(range(len(ids)), len(ids))  # the order of the prompts says nothing
    again = held_out([ids[i] for i in order], [tasks[i] for i in order], [clean[i] for i in order], share, 0)
    assert again.tolist() == out[order].tolist()


def test_another_seed_holds_out_others():
    ids, tasks, clean = [str(i) for i in range(40)], [""] * 40, [True] * 40
    assert held_out(ids, tasks, clean, 0.5, 0).tolist() != held_out(ids, tasks, clean, 0.5, 1).tolist()
