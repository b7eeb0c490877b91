"""Accuracy by layer: what is drawn is what the table counts."""

import numpy as np
import pytest
from result_rows import row

from avflow import plots
from avflow.errors import InputError
from avflow.planning.exact import share_limits
from avflow.results.table import table_from_rows

PATHS = ("video->question", "question->last")


@pytest.fixture(scope="module")
def table():
    """Of ten samples seven are right; a cut at layer n takes n of these, and of the second path also two each."""
    return table_from_rows(
        [
            row(f"s{s}", path, layer, correct=s < 7, correct_knockout=s < 7 - layer - 2 * k)
            for s in range(10)
            for k, path in enumerate(PATHS)
            for layer in range(4)
        ]
        + [row("s0", "audio->last", 0, None)]
    )


def test_shares_bands_and_the_clean_model(table):
    _, ax = plots.accuracy(table, title="All", first_layer=1)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["video → question", "question → last", "clean"]
    np.testing.assert_allclose(lines["video → question"].get_ydata(), [70, 60, 50, 40])
    np.testing.assert_allclose(lines["question → last"].get_ydata(), [50, 40, 30, 20])
    np.testing.assert_allclose(lines["video → question"].get_xdata(), [1, 2, 3, 4])
    assert set(lines["clean"].get_ydata()) == {70} and ax.get_ylabel() == "Accuracy (%)"
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    low, high = share_limits(np.array([7, 4]), 10, 0.025)
    assert band.max() == pytest.approx(100 * high[0]) and band.min() == pytest.approx(100 * low[1])
    assert ax.get_title(loc="left") == "All (10 samples)"


def test_one_path_alone_and_what_is_not_there(table):
    _, ax = plots.accuracy(table, paths=["question->last"], select="wrong")
    assert [line.get_label() for line in ax.get_lines()] == ["question → last", "clean"]
    assert set(ax.get_lines()[0].get_ydata()) == {0}
    with pytest.raises(InputError, match="no rows of 'audio->last'"):
        plots.accuracy(table, paths=["audio->last"])
    with pytest.raises(InputError, match="nothing to draw"):
        plots.accuracy(table.slice(0, 0), paths=None)
    with pytest.raises(InputError, match="first_layer"):
        plots.accuracy(table, first_layer=2)
