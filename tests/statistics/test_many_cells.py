"""Tests and bands over many paths and layers at once: by their definition, on noise, and on an effect that is there."""

import itertools

import numpy as np
import pytest
from scipy import stats

from avflow.statistics.many import band, p_values, signs_of
from avflow.statistics.ratios import Ratios

PATHS, LAYERS = 15, 36


def noise(samples, rng, spread=20.0):
    """Changes of no path, alike in neighbouring layers as windows make them: [samples, paths, layers]."""
    values = rng.normal(size=(samples, PATHS, LAYERS))
    for layer in range(1, LAYERS):
        values[:, :, layer] = 0.9 * values[:, :, layer - 1] + (1 - 0.81) ** 0.5 * values[:, :, layer]
    return spread * values


def of(values):
    return Ratios.of_means(values.reshape(len(values), -1))


def test_p_by_its_definition():
    values = np.random.default_rng(0).normal(0.4, 1, (8, 5))
    best = []
    for signs in itertools.product([1.0, -1.0], repeat=8):
        flipped = values * np.array(signs)[:, None]
        best.append(np.abs(stats.ttest_1samp(flipped, 0).statistic).max())
    seen = np.abs(stats.ttest_1samp(values, 0).statistic)
    want = [(np.array(best) >= t - 1e-9).mean() for t in seen]
    np.testing.assert_allclose(p_values(Ratios.of_means(values)), want)


def test_random_patterns_come_near_all_of_them():
    values = np.random.default_rng(1).normal(0.3, 1, (12, 30))
    every, some = p_values(Ratios.of_means(values)), p_values(Ratios.of_means(values), flips=1000)
    assert not np.array_equal(every, some)
    np.testing.assert_allclose(every, some, atol=0.06)


def test_patterns():
    every = np.concatenate(list(signs_of(9, 256, 0)))
    assert every.shape == (256, 9) and len({tuple(row) for row in every}) == 256 and (every[0] == 1).all()
    assert not {tuple(row) for row in every} & {tuple(row) for row in -every}
    some = np.concatenate(list(signs_of(40, 600, 0)))
    assert some.shape == (600, 40) and (some[0] == 1).all() and set(np.unique(some)) == {-1.0, 1.0}


@pytest.mark.parametrize("samples", [8, 12, 30])
def test_noise_is_called_a_finding_as_rarely_as_it_says(samples):
    rng, runs = np.random.default_rng(samples), 120
    found = sum((p_values(of(noise(samples, rng)), flips=500) < 0.05).any() for _ in range(runs))
    assert stats.binomtest(found, runs, 0.05, alternative="greater").pvalue > 0.01
    # What a test of each cell by itself finds in the same noise: nearly always something.
    alone = noise(samples, rng)
    assert (stats.ttest_1samp(alone.reshape(samples, -1), 0).pvalue < 0.05).any()


@pytest.mark.parametrize(("samples", "least"), [(12, 0.6), (30, 0.99)])
def test_an_effect_that_is_there_is_found(samples, least):
    rng, runs, found = np.random.default_rng(samples), 120, 0
    for _ in range(runs):
        values = noise(samples, rng)
        values[:, 2, 10:18] -= 30  # over a window of layers
        p = p_values(of(values), flips=500).reshape(PATHS, LAYERS)
        found += (p[2, 10:18] < 0.05).any()
    assert found / runs >= least


def test_a_band_holds_all_cells_at_once():
    rng, runs, held = np.random.default_rng(5), 120, 0
    truth = np.zeros((PATHS, LAYERS))
    truth[2, 10:18] = -30
    for _ in range(runs):
        low, high = band(of(noise(12, rng) + truth), flips=500)
        held += ((low <= truth.ravel()) & (truth.ravel() <= high)).all()
    assert stats.binomtest(held, runs, 0.95, alternative="less").pvalue > 0.01


def test_few_samples_say_nothing_and_weigh_on_no_other():
    rng = np.random.default_rng(6)
    values = rng.normal(-1.5, 1, (12, 3))
    alone = p_values(Ratios.of_means(values))
    few = np.full((12, 2), np.nan)
    few[:5] = -50 + rng.normal(size=(5, 2)) / 1e3  # as sure as five can look
    p = p_values(Ratios.of_means(np.concatenate([values, few], 1)))
    np.testing.assert_array_equal(p, [*alone, np.nan, np.nan])
    low, high = band(Ratios.of_means(np.concatenate([values, few], 1)))
    assert np.isfinite(low[:3]).all() and np.isnan(low[3:]).all() and np.isnan(high[3:]).all()
    assert np.isnan(p_values(Ratios.of_means(few))).all()


def test_unlike_many_samples_are_on_one_scale():
    """Six samples of one task have large |t| by chance; they must not hide what sixty of another show."""
    rng, found = np.random.default_rng(8), 0
    for _ in range(40):
        values = np.full((66, 40), np.nan)
        values[:60, :20] = rng.normal(0, 1, (60, 20))
        values[:60, 0] -= 0.7
        values[60:, 20:] = rng.normal(0, 1, (6, 20))
        found += p_values(Ratios.of_means(values), flips=500)[0] < 0.05
    assert found >= 34


def test_questions_on_one_video_are_flipped_together():
    rng, found = np.random.default_rng(9), [0, 0]
    labels = np.repeat(range(12), 3).tolist()
    for _ in range(100):
        values = np.repeat(rng.normal(size=(12, 1, 10)), 3, 1) + 0.5 * rng.normal(size=(12, 3, 10))
        for number, clusters in enumerate((labels, None)):
            p = p_values(Ratios.of_means(values.reshape(36, 10), clusters), flips=500)
            found[number] += (p < 0.05).any()
    assert found[0] <= 12 < 25 < found[1]


def test_equal_and_empty_values():
    p = p_values(Ratios.of_means(np.zeros((8, 2))))
    assert (p == 1).all()
    p = p_values(Ratios.of_means(np.full((8, 1), -3.0)))
    assert p[0] == 1 / 128
    assert p_values(Ratios.of_means(np.full((8, 2), np.nan))).tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
    assert p_values(Ratios.of_means(np.empty((0, 2)))).shape == (2,)
