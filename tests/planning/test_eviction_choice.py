"""The choice of layers from measured answers: dips, intervals, the ladder of joint schedules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avflow.errors import InputError
from avflow.planning.choice import SCHEMA, Tolerance, Trials, earliest, ladder, table_of

LAYERS = [0, 1, 2, 3]


def trials(clean, correct, logp=None) -> Trials:
    """clean [prompts], correct [prompts, schedules], of 0 and 1."""
    clean, correct = np.array(clean, bool), np.array(correct, bool)
    n = len(clean)
    logp = np.full(correct.shape, -1.0) if logp is None else np.array(logp)
    return Trials([str(i) for i in range(n)], ["t"] * n, np.full(n, 10), np.full(n, -0.5), clean, logp, correct)


@given(holds=st.lists(st.booleans(), min_size=1, max_size=8))
def test_earliest_is_the_first_layer_from_which_all_hold(holds):
    layers = [3 * i for i in range(len(holds))]
    fine = [layer for i, layer in enumerate(layers) if all(holds[i:])]
    assert earliest(layers, np.array(holds)) == (fine[0] if fine else None)


def test_a_dip_does_not_fool_it():
    """Layer 1 is as good as clean, layer 2 is not: only from 3 on is it safe."""
    clean = [1, 1, 1, 1]
    found = trials(clean, [[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert Tolerance(0.0).holds(found.clean, found.correct).tolist() == [False, True, False, True]
    assert earliest(LAYERS, Tolerance(0.0).holds(found.clean, found.correct)) == 3
    assert earliest(LAYERS, Tolerance(0.25).holds(found.clean, found.correct)) == 0


def test_the_drop_is_of_all_prompts_and_gains_count():
    clean, correct = [1, 1, 0, 0], [[1], [0], [1], [0]]  # one lost, one won
    assert Tolerance(0.0).holds(np.array(clean, bool), np.array(correct, bool)).tolist() == [True]


def test_strict_asks_the_interval_too():
    rng = np.random.default_rng(0)
    clean = np.ones(200, bool)
    correct = np.stack([rng.random(200) > share for share in (0.0, 0.02, 0.3)], 1)
    loose, strict = (Tolerance(0.03, strict=s).holds(clean, correct).tolist() for s in (False, True))
    assert loose == [True, True, False] and strict == [True, False, False]
    mean, low, high = Tolerance(confidence=0.9).interval(correct - 1.0)
    assert (
        (low <= mean).all() and (mean <= high).all() and high[2] - low[2] == pytest.approx(2 * 1.64 * 0.0325, rel=0.2)
    )


def test_no_prompt_lost_proves_no_drop_of_zero():
    """A hundred answers that are the same in both runs: up to 3 of a hundred others may still be lost."""
    clean = np.arange(100) % 2 == 0
    allowed = {drop: Tolerance(drop, strict=True).holds(clean, clean[:, None]).tolist() for drop in (0.0, 0.029, 0.03)}
    assert allowed == {0.0: [False], 0.029: [False], 0.03: [True]}  # 1 - 0.05 ** (1 / 100) = 0.0295


def test_the_margin_looks_at_the_probability():
    """No answer is lost at any of the layers, but at the first the answer is about to be."""
    clean = np.ones(20, bool)
    correct = np.ones((20, 3), bool)
    fall = np.stack([np.linspace(0, 0.4, 20), np.full(20, 0.004), np.full(20, -0.2)], 1)
    assert Tolerance(0.0).holds(clean, correct, fall).tolist() == [False, True, True]
    assert Tolerance(0.0, margin=0.3).holds(clean, correct, fall).tolist() == [True, True, True]
    assert Tolerance(0.29).holds(clean, correct, fall).tolist() == [True, True, True]
    assert Tolerance(0.0, margin=None).holds(clean, correct, fall).tolist() == [True, True, True]
    assert Tolerance(0.0).holds(clean[:1], correct[:1], fall[-1:]).tolist() == [False, True, True]


def test_table():
    grid = [("video", 0), ("video", 1), ("video+audio", 0), ("video+audio", 1)]
    found = trials([1, 0], [[1, 1, 0, 1], [1, 0, 0, 0]], np.log([[0.5, 0.5, 0.1, 0.2], [0.3, 0.5, 0.1, 0.4]]))
    table = table_of(found, grid, Tolerance())
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert [(r["group"], r["layer"]) for r in rows] == grid
    assert [r["accuracy"] for r in rows] == [1.0, 0.5, 0.0, 0.5] and [r["change"] for r in rows] == [0.5, 0, -0.5, 0]
    assert rows[0]["p"] == pytest.approx(0.4)
    assert rows[0]["mean_logp_change"] == pytest.approx(np.log([0.5, 0.3]).mean() + 0.5)
    assert all(r["change_low"] <= r["change"] <= r["change_high"] and r["prompts"] == 2 for r in rows)
    alone = table_of(trials([1], [[1, 1, 1, 1]]), grid, Tolerance()).to_pylist()
    assert alone[0]["p_high"] is None  # a bootstrap of one; the exact limits of one prompt say little
    assert alone[0]["change_low"] == pytest.approx(-(1 - 0.0125)) and alone[0]["change_high"] == pytest.approx(0.9875)


def test_the_ladder_moves_the_group_that_loses_most():
    loss = {"video": {0: 0.1, 1: 0.3, 2: 0.0}, "audio": {0: 0.9, 1: 0.2, 2: 0.2}}
    assert ladder({"video": 0, "audio": 0}, loss, [0, 1, 2]) == [
        {"video": 0, "audio": 0},
        {"video": 0, "audio": 1},
        {"video": 0, "audio": 2},
        {"video": 0},
        {"video": 1},
        {"video": 2},
        {},
    ]


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 6))
def test_the_ladder_ends_and_only_moves_later(seed, groups, n):
    rng = np.random.default_rng(seed)
    layers = sorted(rng.choice(20, n, replace=False).tolist())
    loss = {f"g{g}": {layer: float(rng.normal()) for layer in layers} for g in range(groups)}
    rungs = ladder({g: layers[0] for g in loss}, loss, layers)
    assert rungs[-1] == {} and len(rungs) == groups * n + 1
    for before, after in zip(rungs, rungs[1:], strict=False):
        (moved,) = [g for g in before if after.get(g) != before[g]]
        assert after.get(moved, 99) > before[moved]


@pytest.mark.parametrize(
    "more, told",
    [
        (dict(max_accuracy_drop=1.0), "max_accuracy_drop = 1.0"),
        (dict(max_accuracy_drop=-0.1), "max_accuracy_drop = -0.1"),
        (dict(max_accuracy_drop="1%"), "'1%'"),
        (dict(confidence=95), "confidence = 95"),
        (dict(seed=-1), "seed = -1"),
    ],
)
def test_bad_values(more, told):
    with pytest.raises(InputError, match=told):
        Tolerance(**more)
