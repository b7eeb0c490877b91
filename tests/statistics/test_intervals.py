"""Intervals of averages: against their definitions, against scipy, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from avflow.errors import InputError
from avflow.statistics.intervals import draws_of, interval, median_interval
from avflow.statistics.ratios import Ratios

RNG = np.random.default_rng(0)


def skewed(shape, rng=RNG):
    return 100 * np.expm1(rng.normal(size=shape))


def test_a_mean_and_its_error_are_the_usual_ones():
    values = skewed((9, 5))
    values[3, 2] = values[0, 4] = np.nan
    ratios = Ratios.of_means(values)
    np.testing.assert_allclose(ratios.estimate, np.nanmean(values, 0))
    counts = (~np.isnan(values)).sum(0)
    np.testing.assert_allclose(ratios.error, np.nanstd(values, 0, ddof=1) / np.sqrt(counts))
    assert list(ratios.units) == list(counts)


def test_clusters_are_sums_over_their_samples():
    values, labels = skewed((7, 3)), ["a", "b", "a", "c", "b", "a", "d"]
    values[1, 0] = np.nan
    ratios = Ratios.of_means(values, labels)
    assert ratios.top.shape == (4, 3)
    np.testing.assert_allclose(ratios.top[0], values[[0, 2, 5]].sum(0))
    np.testing.assert_allclose(ratios.estimate, np.nanmean(values, 0))
    one_each = Ratios.of_means(values, range(7))
    np.testing.assert_allclose(one_each.error, Ratios.of_means(values).error)
    # A cluster of copies is one sample, whatever it is copied to.
    copied = Ratios.of_means(np.repeat(values[:, 1:], 3, 0), np.repeat(range(7), 3).tolist())
    np.testing.assert_allclose(copied.error, Ratios.of_means(values[:, 1:]).error)


def test_a_ratio_of_means():
    top, bottom = RNG.normal(size=(20, 2)), RNG.uniform(0.1, 1, (20, 2))
    ratios = Ratios.of_two(top, bottom)
    np.testing.assert_allclose(ratios.estimate, top.mean(0) / bottom.mean(0))
    drawn, _ = ratios.weighted(draws_of(20, 4000, 3))
    np.testing.assert_allclose(ratios.error, drawn.std(0), rtol=0.1)


@pytest.mark.parametrize(("method", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_against_scipy(method, theirs):
    values = skewed((25, 1))
    low, high = interval(Ratios.of_means(values), 0.9, method, resamples=40_000, seed=1)
    want = stats.bootstrap(
        (values[:, 0],), np.mean, confidence_level=0.9, method=theirs, n_resamples=40_000, rng=np.random.default_rng(2)
    ).confidence_interval
    width = want.high - want.low
    assert abs(low[0] - want.low) < 0.02 * width and abs(high[0] - want.high) < 0.02 * width


def test_the_studentised_bootstrap_by_its_definition():
    values = skewed((12, 1))[:, 0]
    low, high = interval(Ratios.of_means(values[:, None]), 0.9, "bootstrap-t", resamples=500, seed=5)
    t, error = [], values.std(ddof=1) / np.sqrt(12)
    for counts in draws_of(12, 500, 5).astype(int):
        drawn = np.repeat(values, counts)
        t.append((drawn.mean() - values.mean()) / max(drawn.std(ddof=1) / np.sqrt(12), error / 4))
    lower, upper = np.quantile(t, [0.05, 0.95])
    np.testing.assert_allclose([low[0], high[0]], [values.mean() - upper * error, values.mean() - lower * error])


def test_few_and_equal_values():
    values = np.array([[1.0, 5.0, np.nan, 2.0], [3.0, 5.0, np.nan, np.nan], [8.0, 5.0, np.nan, np.nan]])
    low, high = interval(Ratios.of_means(values))
    want = stats.t.interval(0.95, 2, values[:, 0].mean(), stats.sem(values[:, 0]))
    np.testing.assert_allclose([low[0], high[0]], want)  # below 5 samples: Student's
    assert low[1] == high[1] == 5.0
    assert np.isnan(low[2:]).all() and np.isnan(high[2:]).all()
    for method in ("bootstrap-t", "bca", "percentile"):
        ends = np.stack(interval(Ratios.of_means(np.vstack([values] * 3)), method=method))
        assert np.isfinite(ends[:, [0, 1, 3]]).all() and np.isnan(ends[:, 2]).all()


def test_one_huge_change_among_small_ones():
    """Draws without the huge one have no spread to divide by: what counts is a quarter of the sample's."""
    values = np.full((12, 1), 2.0) + np.random.default_rng(1).normal(size=(12, 1))
    values[0] = 5000.0
    ratios = Ratios.of_means(values)
    low, high = interval(ratios, method="bootstrap-t")
    assert low < values.mean() < high < values.mean() + 5 * ratios.error
    low, high = interval(ratios, method="bca")
    assert 0 < low < values.mean() < high < values.max()


@pytest.mark.parametrize(("samples", "least"), [(20, 0.6), (40, 0.85)])
def test_coverage_where_one_sample_in_twenty_changes(samples, least):
    """A set without any holds no interval: .36 and .13 of them."""
    rng = np.random.default_rng(samples)
    values = np.where(rng.random((samples, 1000)) < 0.05, -100 * rng.uniform(0.5, 1, (samples, 1000)), 0.0)
    low, high = interval(Ratios.of_means(values), resamples=1000)
    covered = (low <= -3.75) & (-3.75 <= high)
    assert covered.mean() >= least
    some = (values != 0).any(0)
    assert covered[some].mean() >= 0.95 and np.median((high - low)[some]) < 30


@pytest.mark.parametrize("samples", [3, 5, 10, 40])
@pytest.mark.parametrize(
    ("draw", "truth", "least"),
    [
        (lambda shape, rng: rng.normal(size=shape), 0.0, {3: 0.93, 5: 0.93, 10: 0.92, 40: 0.93}),
        (skewed, 100 * np.expm1(0.5), {3: 0.8, 5: 0.85, 10: 0.87, 40: 0.9}),
    ],
    ids=["normal", "skewed"],
)
def test_coverage(samples, draw, truth, least):
    values = draw((samples, 1000), np.random.default_rng(samples))
    low, high = interval(Ratios.of_means(values), resamples=1000)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert covered >= least[samples]
    low, high = interval(Ratios.of_means(values), method="percentile", resamples=1000)
    assert ((low <= truth) & (truth <= high)).mean() < covered or samples == 40


@pytest.mark.parametrize("correlation", [0.3, 0.6])
def test_coverage_with_three_questions_a_video(correlation):
    rng = np.random.default_rng(7)
    video, question = rng.normal(size=(20, 1, 1000)), rng.normal(size=(20, 3, 1000))
    values = (video * correlation**0.5 + question * (1 - correlation) ** 0.5).reshape(60, 1000)
    covered = []
    for labels in (np.repeat(range(20), 3).tolist(), None):
        low, high = interval(Ratios.of_means(values, labels), resamples=1000)
        covered.append(((low <= 0) & (0 <= high)).mean())
    assert covered[0] >= 0.92 and covered[1] < 0.9  # taken for independent, they promise too much


def test_medians():
    values = skewed((9, 3))
    values[2, 1] = np.nan
    values[:, 2] = np.nan
    draws = draws_of(9, 400, 2)
    middle, low, high = median_interval(values, draws, 0.9)
    np.testing.assert_allclose(middle[:2], np.nanmedian(values[:, :2], 0))
    medians = [np.nanmedian(np.repeat(values[:, :2], counts.astype(int), 0), 0) for counts in draws]
    want = np.percentile(medians, [5, 95], axis=0)
    np.testing.assert_allclose([low[:2], high[:2]], want)
    assert np.isnan([middle[2], low[2], high[2]]).all()


def test_what_makes_no_sense():
    ratios = Ratios.of_means(np.ones((3, 1)))
    for asked, message in (
        (dict(confidence=95), "confidence is 95"),
        (dict(resamples=0), "resamples is 0"),
        (dict(method="normal"), "'normal'"),
    ):
        with pytest.raises(InputError, match=message):
            interval(ratios, **asked)
