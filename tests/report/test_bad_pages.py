"""What users get wrong in tables, statistics, figures and pages is an InputError that names the value, at once."""

from __future__ import annotations

import page_cases as cases
import pyarrow as pa
import pytest

import avflow
from avflow import plots
from avflow.errors import InputError
from avflow.report.comparison import compare
from avflow.report.write import report, report_together
from avflow.results.change import average_change, difference, mean_change, path, significance
from avflow.results.refine import cells_to_refine
from avflow.results.tasks import between_tasks

STATISTICS = {
    "average_change": average_change,
    "mean_change": mean_change,
    "significance": significance,
    "between_tasks": between_tasks,
    "difference": lambda table, **more: difference(table, table, **more),
    "path": lambda table: path(table, "video->last"),
    "cells_to_refine": lambda table: cells_to_refine(table, 2),
}
WITH_INTERVALS = ("average_change", "between_tasks", "difference")
WRONG = [("seed", -1), ("seed", "1"), ("confidence", None), ("confidence", 95)]
FIGURES = {
    "flow": plots.flow,
    "flow_panels": plots.flow_panels,
    "heat_map": plots.heat_map,
    "widths": lambda table, **more: plots.widths(table, "video->question", **more),
    "accuracy": plots.accuracy,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.sweep(tmp_path_factory.mktemp("bad") / "run", 2)


@pytest.fixture(scope="module")
def results(folder):
    return avflow.read(folder)


@pytest.mark.parametrize("name", STATISTICS)
def test_what_is_no_sweep(name):
    with pytest.raises(InputError, match="got None: pass what avflow.sweep or avflow.read gave"):
        STATISTICS[name](None)
    with pytest.raises(InputError, match="lacks the column '.*', so it is no sweep's: it has a"):
        STATISTICS[name](pa.table({"a": [1]}))


@pytest.mark.parametrize("name", [*WITH_INTERVALS, "significance"])
@pytest.mark.parametrize(("argument", "value"), WRONG)
def test_statistics(results, name, argument, value):
    if argument == "confidence" and name not in WITH_INTERVALS:
        return
    with pytest.raises(InputError, match=f"{argument} is {value!r}: give"):
        STATISTICS[name](results, **{argument: value})


@pytest.mark.parametrize("resamples", [None, 0, 10**9])
def test_resamples(results, resamples):
    with pytest.raises(InputError, match=f"resamples is {resamples!r}: give 1 to 1,000,000"):
        average_change(results, resamples=resamples)


@pytest.mark.parametrize("name", FIGURES)
def test_figures(results, name):
    draw = FIGURES[name]
    with pytest.raises(InputError, match="title is -1: give text"):
        draw(results, title=-1)
    if name != "flow_panels":
        with pytest.raises(InputError, match="ax is 'top': pass a matplotlib Axes"):
            draw(results, ax="top")
    if name in ("flow", "heat_map", "accuracy"):
        with pytest.raises(InputError, match="paths must be texts, got -1"):
            draw(results, paths=-1)
        with pytest.raises(InputError, match="no rows of 'video->nobody'"):
            draw(results, paths="video->nobody")


def test_figures_of_attention_and_words(tmp_path):
    shares = avflow.read(cases.share(tmp_path / "share", 1))
    for draw in (plots.share_bars, plots.share_heads):
        with pytest.raises(InputError, match="token is 'last': give the number"):
            draw(shares, token="last")
    with pytest.raises(InputError, match="words must be texts, got -1"):
        plots.word_lines(avflow.read(cases.tokens(tmp_path / "tokens", 1)), "video", words=-1)
    with pytest.raises(InputError, match="seed is -1: give"):
        plots.lens_lines(avflow.read(cases.lens(tmp_path / "lens", 2)), seed=-1)


def test_one_path_is_as_good_as_a_list_of_it(results):
    assert len(plots.flow(results, paths="video->question")[1].get_legend().get_texts()) == 1


def test_files(results, folder, tmp_path):
    with pytest.raises(InputError, match=r"the figure is \(<Figure .*pass the first"):
        plots.save(plots.flow(results, paths=["video->last"]), tmp_path / "x")
    for dpi in (-1, 1, "200", 10**6):
        with pytest.raises(InputError, match="dpi is .*: give dots an inch"):
            plots.save(plots.flow(results, paths=["video->last"])[0], tmp_path / "x", dpi=dpi)
    with pytest.raises(InputError, match="title is None: give"):
        report(folder, title=None, media=False)
    for write in (compare, report_together):
        for one in (str(folder), folder, None, -1):
            with pytest.raises(InputError, match="folders = .*: pass a list of run folders"):
                write(one, tmp_path)
        with pytest.raises(InputError, match="a run folder must be a path, got 3"):
            write([3, 4], tmp_path)
    assert not list(tmp_path.iterdir())
