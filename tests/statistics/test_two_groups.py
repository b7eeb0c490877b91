"""Tests between samples of two tasks: by their definition, on noise, on an effect, and in a sweep's table."""

import itertools

import numpy as np
import pytest
from result_rows import row
from scipy import stats

from avflow.errors import InputError
from avflow.report.comparison import read_runs, task_rows
from avflow.results import Results, between_tasks
from avflow.results.table import table_from_rows
from avflow.statistics.ratios import Ratios
from avflow.statistics.two_groups import differences


def of(values):
    return Ratios.of_means(values)


def test_by_their_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 1, (7, 4)), rng.normal(0, 2, (6, 4))
    far, low, high, p = differences(of(a), of(b), exchanges=3000, seed=1)
    found = stats.ttest_ind(a, b, equal_var=False)
    limits = found.confidence_interval(0.95)
    np.testing.assert_allclose(far, a.mean(0) - b.mean(0))
    np.testing.assert_allclose([low, high], [limits.low, limits.high])
    together, least = np.concatenate([a, b]), []
    for chosen in itertools.combinations(range(13), 7):  # all 1,716 partings
        first = np.isin(np.arange(13), chosen)
        least.append(stats.ttest_ind(together[first], together[~first], equal_var=False).pvalue.min())
    want = [(np.array(least) <= one * (1 + 1e-9)).mean() for one in found.pvalue]
    np.testing.assert_allclose(p, want, atol=0.03)


def test_noise_is_seldom_sure_and_an_effect_is_found():
    rng, false, found = np.random.default_rng(2), 0, 0
    for seed in range(60):
        a, b = rng.normal(0, 20, (14, 60)), rng.normal(0, 20, (18, 60))
        false += differences(of(a), of(b), exchanges=100, seed=seed)[3].min() < 0.05
        a[:, 7] -= 40
        found += differences(of(a), of(b), exchanges=100, seed=seed)[3][7] < 0.05
    assert false <= 8 and found >= 50  # of 60, at 5 %: 3 are expected


def test_few_samples_and_samples_without_a_value():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (8, 3)), rng.normal(0, 1, (9, 3))
    a[3:, 1], b[:4, 2] = np.nan, np.nan  # 3 and 5 are left
    far, low, high, p = differences(of(a), of(b), exchanges=50)
    assert np.isfinite(far).all()
    for values in (low, high, p):
        assert np.isfinite(values[0]) and np.isnan(values[1:]).all()
    same = differences(of(np.ones((6, 1))), of(np.ones((7, 1))), exchanges=50)
    assert same[0][0] == 0 and same[3][0] == 1


def made(samples=8, tasks=("color", "sound", "shape")):
    rng = np.random.default_rng(4)
    return table_from_rows(
        [
            row(
                f"{task}{n}",
                path,
                layer,
                float(rng.normal(-40 if task == "color" and layer == 1 else -5, 3)),
                task=task,
            )
            for task in tasks
            for n in range(samples)
            for path in ("video->question", "question->last")
            for layer in range(3)
        ]
    )


def test_tasks_of_a_sweep():
    table = made()
    rows = between_tasks(table, exchanges=200).to_pylist()
    assert len(rows) == 3 * 2 * 3
    for one in rows:
        sure = "color" in (one["task"], one["other"]) and one["layer"] == 1
        assert (one["p"] < 0.05) is sure and one["low"] < one["difference"] < one["high"]
        assert one["difference"] == pytest.approx(one["change"] - one["change_other"])
        assert (one["samples"], one["samples_other"]) == (8, 8)
    assert min(one["p"] for one in rows) == pytest.approx(3 / 200)  # three pairs, 200 partings
    few = between_tasks(made(4), exchanges=50).to_pylist()
    assert few and all(one["p"] is None and one["low"] is None for one in few)
    videos = {prompt: prompt[:-1] + str(int(prompt[-1]) // 2) for prompt in table["prompt"].to_pylist()}
    assert all(one["p"] is None for one in between_tasks(table, cluster=videos, exchanges=50).to_pylist())  # 4 videos


def test_a_comparison_tells_where_tasks_differ_most(tmp_path):
    rows = made().to_pylist()
    for name in ("one", "two"):
        Results.from_rows(rows, {"experiment": "sweep"}).save(tmp_path / name)
    found = task_rows(read_runs([tmp_path / "one", tmp_path / "two"]))
    assert len(found) == 2 * 3 * 2 and {row["run"] for row in found} == {"one", "two"}
    assert {(row["task"], row["other"]) for row in found if row["p"] < 0.05} == {("color", "sound"), ("color", "shape")}
    assert all(row["layer"] == 1 for row in found if row["task"] == "color")
    alone = Results.from_rows([row for row in rows if row["task"] == "color"], {"experiment": "sweep"})
    alone.save(tmp_path / "alone")
    assert task_rows(read_runs([tmp_path / "alone"])) == []


def test_what_makes_no_sense():
    with pytest.raises(InputError, match="their difference takes two or more"):
        between_tasks(made(tasks=("color",)))
    with pytest.raises(InputError, match="exchanges"):
        between_tasks(made(), exchanges=1)
    with pytest.raises(InputError, match="confidence"):
        between_tasks(made(), confidence=95)
