"""Statistics have the unit of what they are of: nothing overflows or vanishes where probabilities are 1e-200."""

import numpy as np
import pytest
from result_rows import row

from avflow.results import average_change
from avflow.results.change import CENTERS
from avflow.results.table import table_from_rows
from avflow.statistics.intervals import interval
from avflow.statistics.many import band, p_values
from avflow.statistics.ratios import Ratios, scaled
from avflow.statistics.two_groups import differences

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
POWERS = (-1000, -560, 560, 1000)


def numbers(samples=9, cells=3):
    rng = np.random.default_rng(4)
    top = rng.normal(-1, 2, (samples, cells))
    top[2, 1] = np.nan
    return top, rng.uniform(0.1, 1, (samples, cells))


@pytest.mark.parametrize("power", POWERS)
def test_the_error_of_a_ratio_has_its_unit(power):
    top, bottom = numbers()
    plain, large = Ratios.of_two(top, bottom), Ratios.of_two(np.ldexp(top, power), bottom)
    assert np.array_equal(large.error, np.ldexp(plain.error, power)) and (plain.error > 0).all()
    low = Ratios.of_two(top, np.ldexp(bottom, power))
    assert np.array_equal(low.error, np.ldexp(plain.error, -power))
    both = Ratios.of_two(np.ldexp(top, power), np.ldexp(bottom, power))
    assert np.array_equal(both.error, plain.error) and np.array_equal(both.estimate, plain.estimate)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("kind", ["bootstrap-t", "bca", "percentile"])
def test_intervals_have_the_unit(kind, power):
    top, bottom = numbers()
    plain = interval(Ratios.of_two(top, bottom), 0.9, kind, 200)
    large = interval(Ratios.of_two(np.ldexp(top, power), bottom), 0.9, kind, 200)
    for a, b in zip(plain, large, strict=True):
        assert np.isfinite(a).all() and np.array_equal(np.ldexp(a, power), b)


@pytest.mark.parametrize("power", POWERS)
def test_tests_have_no_unit(power):
    top, bottom = numbers()
    plain, large = Ratios.of_two(top, bottom), Ratios.of_two(np.ldexp(top, power), bottom)
    assert np.array_equal(p_values(plain), p_values(large)) and (p_values(plain) < 1).any()
    for a, b in zip(band(plain), band(large), strict=True):
        assert np.array_equal(np.ldexp(a, power), b)


@pytest.mark.parametrize("power", [560, 1000])
def test_differences_have_the_unit(power):
    a, b = (Ratios.of_means(numbers(9 + k)[0] + k) for k in (0, 1))
    large = [Ratios(np.ldexp(r.top, power), r.bottom) for r in (a, b)]
    *plain, p = differences(a, b, exchanges=50)
    *scaled_up, same = differences(*large, exchanges=50)
    assert np.array_equal(p, same) and all(
        np.array_equal(np.ldexp(x, power), y) for x, y in zip(plain, scaled_up, strict=True)
    )


def test_scaled():
    values = np.array([[3e-320, 0.0, np.nan, 1e308], [-1e-320, 0.0, -7.0, 1.0]])
    inside, exponent = scaled(values)
    np.testing.assert_array_equal(np.ldexp(inside, exponent), values)
    largest = np.nanmax(np.abs(inside), 0)
    assert largest[1] == 0 and ((largest[[0, 2, 3]] >= 0.5) & (largest[[0, 2, 3]] < 1)).all()
    assert scaled(np.empty((0, 2)))[0].shape == (0, 2)


@pytest.mark.parametrize("center", CENTERS)
def test_a_table_of_long_answers(center):
    """p_clean 1e-200, and a knockout that makes it 1e-30: the percentage is 1e172."""
    rows = []
    for i, name in enumerate("abcdefg"):
        clean, knockout = (1 + i) * 1e-200, (2 + i % 3) * 1e-30
        change = {
            "p_clean": clean,
            "logp_clean": np.log(clean),
            "p_knockout": knockout,
            "logp_knockout": np.log(knockout),
        }
        rows.append(row(name, change=100 * (knockout - clean) / clean, **change))
    found = average_change(table_from_rows(rows), center=center).to_pylist()[0]
    assert 0 < found["low"] <= found["change"] <= found["high"] < np.inf
