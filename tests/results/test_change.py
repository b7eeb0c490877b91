"""Averages of a sweep's changes: each centre by its definition, clusters, what is sure, and two sweeps side by side."""

import numpy as np
import pyarrow as pa
import pytest
from result_rows import row

import avflow
from avflow.errors import InputError
from avflow.results import Results, average_change, difference, path, significance
from avflow.results.table import table_from_rows


def made(changes, clean=0.5, knockout="video->question", **other):
    """A table of changes [samples, layers] in percent, from clean probabilities [samples]."""
    changes = np.asarray(changes, float)
    clean = np.broadcast_to(clean, len(changes))
    rows = []
    for s, p in enumerate(clean):
        for layer, value in enumerate(changes[s]):
            after = p * (1 + value / 100)
            numbers = dict(p_clean=p, p_knockout=after, logp_clean=np.log(p), logp_knockout=np.log(after))
            rows.append(
                row(f"s{s}", knockout, layer, float(value), **{k: float(v) for k, v in numbers.items()}, **other)
            )
    return table_from_rows(rows)


CHANGES = np.random.default_rng(0).normal(-25, 12, (20, 3))
CLEAN = np.random.default_rng(1).uniform(0.2, 0.9, 20)


@pytest.mark.parametrize(
    ("center", "want"),
    [
        ("mean", CHANGES.mean(0)),
        ("median", np.median(CHANGES, 0)),
        ("ratio_of_means", 100 * ((CLEAN[:, None] * (1 + CHANGES / 100)).mean(0) / CLEAN.mean() - 1)),
        ("log_ratio", 100 * np.expm1(np.log1p(CHANGES / 100).mean(0))),
        ("difference", (CLEAN[:, None] * CHANGES).mean(0)),
    ],
)
def test_centres(center, want):
    got = average_change(made(CHANGES, CLEAN), center=center)
    np.testing.assert_allclose(got["change"].to_numpy(), want)
    low, high = got["low"].to_numpy(), got["high"].to_numpy()
    assert (low < want).all() and (want < high).all() and got["samples"].to_pylist() == [20] * 3


def test_one_wrong_key_drowns_the_mean_alone():
    """A clean probability of next to nothing, of a key that is wrong, changes by any percentage."""
    changes, clean = np.full((9, 1), -44.0) + np.arange(9)[:, None], np.full(9, 0.6)
    changes[8], clean[8] = 943_811.0, 4.3e-6
    got = {c: average_change(made(changes, clean), center=c)["change"][0].as_py() for c in ("mean", "median")}
    assert got["mean"] > 100_000 and -41 < got["median"] < -38
    for center in ("ratio_of_means", "difference"):
        assert -50 < average_change(made(changes, clean), center=center)["change"][0].as_py() < -10


@pytest.mark.parametrize("interval", ["bootstrap-t", "bca", "percentile", "simultaneous"])
def test_no_interval_falls_below_everything(interval):
    got = average_change(
        made(np.array([[-99.0], [-98.0], [-90.0], [-99.9], [-99.0], [-40.0], [-99.5]])), interval=interval
    )
    assert -100 <= got["low"][0].as_py() < got["change"][0].as_py() < got["high"][0].as_py()


def test_a_simultaneous_band_is_wider():
    own, all_at_once = (average_change(made(CHANGES), interval=i) for i in ("bootstrap-t", "simultaneous"))
    assert (all_at_once["high"].to_numpy() > own["high"].to_numpy()).all()
    assert average_change(made(CHANGES[:5]), interval="simultaneous")["low"].null_count == 3  # five are too few


@pytest.mark.parametrize("center", ["mean", "median", "ratio_of_means"])
def test_clusters(center):
    copied = made(np.repeat(CHANGES, 3, 0), np.repeat(CLEAN, 3))
    labels = {f"s{s}": s // 3 for s in range(60)}
    one, three = (
        average_change(t, center=center, cluster=c) for t, c in ((made(CHANGES, CLEAN), None), (copied, labels))
    )
    for name in ("change", "low", "high"):
        np.testing.assert_allclose(three[name].to_numpy(), one[name].to_numpy())
    assert three.equals(average_change(copied, center=center, cluster=labels.get))
    alone = average_change(copied, center=center)
    assert (alone["high"].to_numpy() < one["high"].to_numpy()).all()


def test_significance_is_corrected_over_tasks_too():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 10, (24, 4))
    values[:12, 1] -= 25
    rows = [
        row(f"s{s}", layer=layer, change=float(values[s, layer]), task="color" if s < 12 else "pitch")
        for s in range(24)
        for layer in range(4)
    ]
    table = table_from_rows(rows)
    found = significance(table, by_task=True)
    assert found["task"].to_pylist() == ["color"] * 4 + ["pitch"] * 4 and found["samples"].to_pylist() == [12] * 8
    p = found["p"].to_numpy()
    assert p[1] < 0.01 and (np.delete(p, 1) > 0.1).all()
    one = significance(table_from_rows([r for r in rows if r["task"] == "color"]))
    assert one["p"][1].as_py() <= p[1]  # less was looked at
    np.testing.assert_allclose(one["change"].to_numpy(), found["change"].to_numpy()[:4])
    assert significance(table.slice(0, 20))["p"].null_count == 4  # five samples


def test_a_difference_of_two_sweeps_is_paired():
    """Samples differ by much, the two sweeps of each by little: only the pairs tell."""
    rng = np.random.default_rng(3)
    base = rng.normal(-40, 15, (15, 3))
    a, b = base + rng.normal(0, 1, (15, 3)), base + rng.normal(0, 1, (15, 3))
    a[:, 1] -= 4
    found = difference(Results(made(a)), made(b))
    np.testing.assert_allclose(found["difference"].to_numpy(), (a - b).mean(0))
    np.testing.assert_allclose(found["change_a"].to_numpy(), a.mean(0))
    p, low, high = (found[name].to_numpy() for name in ("p", "low", "high"))
    assert p[1] < 0.01 and (p[[0, 2]] > 0.05).all()
    assert high[1] < 0 and (low[[0, 2]] < 0).all() and (high[[0, 2]] > 0).all()
    assert found["samples"].to_pylist() == [15] * 3
    fewer = difference(made(a), made(b).filter(pa.array([r >= 9 for r in range(45)])))
    assert fewer["samples"].to_pylist() == [12] * 3


def test_two_paths_of_one_sweep_and_models_of_unlike_depth():
    a, b = CHANGES, CHANGES + 5
    both = pa.concat_tables([made(a), made(b, knockout="audio->question")])
    found = difference(path(both, "video->question"), path(both, "audio->question"))
    np.testing.assert_allclose(found["difference"].to_numpy(), -5)
    assert set(found["knockout"].to_pylist()) == {"path"}
    deep = made(np.repeat(CHANGES, 2, 1)[:, :5])  # layers 0 .. 4, of a model twice as deep
    found = difference(made(CHANGES), deep, depth=True)
    assert found["layer"].to_pylist() == [0, 1, 2]
    np.testing.assert_allclose(found["change_b"].to_numpy(), np.repeat(CHANGES, 2, 1)[:, [0, 2, 4]].mean(0))


def test_csv_and_latex(tmp_path):
    results = Results(pa.concat_tables([made(CHANGES), made(CHANGES / 100, knockout="=1+1->last_%")]))
    text = results.to_csv(tmp_path / "rows.csv").read_text()
    assert text.count("\n") == 1 + len(results) and "'=1+1->last_%" in text and ",=1" not in text
    latex = results.to_latex(center="mean")
    strongest = int(np.abs(CHANGES.mean(0)).argmax())
    assert rf"video$\rightarrow$question & {strongest} & ${CHANGES.mean(0)[strongest]:.1f}$ & [$-" in latex
    assert r"=1+1$\rightarrow$last\_\%" in latex and r"\toprule" in latex and "$<0.001$" in latex
    assert "points" in results.to_latex(center="difference")
    with pytest.raises(InputError, match="nothing to tabulate"):
        Results(table_from_rows([row(change=None)])).to_latex()


def test_what_makes_no_sense():
    table = made(CHANGES)
    for call, message in (
        (lambda: average_change(table, center="mode"), "'mode'"),
        (lambda: average_change(table, interval="wald"), "'wald'"),
        (lambda: average_change(table, center="median", interval="simultaneous"), "median has no simultaneous"),
        (lambda: average_change(table, cluster={"s0": 1}), "names no cluster of prompt 's1'"),
        (lambda: average_change(table, cluster="video"), "cluster is 'video'"),
        (lambda: significance(table, center="median"), "median has no t"),
        (lambda: significance(table, flips=3), "flips"),
        (lambda: avflow.results.mean_change(table, center="median"), "average_change"),
        (lambda: difference(table, made(CHANGES, knockout="audio->last")), "no path and layer in common"),
        (lambda: difference(table, table, center="median"), "'median'"),
        (lambda: path(table, "audio->last"), "no path 'audio->last'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert average_change(table_from_rows([])).num_rows == 0 and significance(table_from_rows([])).num_rows == 0


def test_a_geometric_mean_does_not_leave_out_what_fell_to_nothing():
    """Without the four of eight whose probability fell to 0 it would say -20 %."""
    gone = {"p_knockout": 0.0, "change_percent": -100.0, "logp_knockout": -np.inf}
    table = table_from_rows([row(f"s{i}", change=-20.0, **(gone if i < 4 else {})) for i in range(8)])
    for run in (average_change, significance):
        with pytest.raises(InputError, match="falls to 0 in 4 of 8 samples"):
            run(table, center="log_ratio")
    with pytest.raises(InputError, match="pass another center"):
        difference(table, table, center="log_ratio")
    assert average_change(table)["change"].to_pylist() == [pytest.approx(-60.0)]


def test_no_samples_no_averages():
    none = table_from_rows([row()]).slice(0, 0)
    for center in ("mean", "median", "log_ratio"):
        assert average_change(none, center=center).num_rows == 0


def test_the_rows_of_two_runs_are_not_one_table():
    """The second run's rows would have replaced the first one's without a word."""
    table = made(CHANGES[:3])
    both = pa.concat_tables([table, made(CHANGES[3:6])])
    for run in (average_change, significance):
        with pytest.raises(InputError, match="prompt 's0' has several values of 'video->question' at layer 0"):
            run(both)
    assert average_change(table).num_rows == 3
