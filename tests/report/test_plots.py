"""Figures: what is drawn is what the table says."""

import matplotlib.colors
import numpy as np
import pytest
from result_rows import row

from avflow.errors import InputError
from avflow.knockouts.presets import PRESETS
from avflow.plots import information_flow as plots
from avflow.plots.style import PANELS, distinct_styles, panel_of, path_label, path_style
from avflow.results.change import average_change, mean_change
from avflow.results.table import table_from_rows

PATHS = ["video->question", "audio->question", "question->last"]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return table_from_rows(
        [
            row(f"s{s}", path, layer, float(rng.normal(-10 * k, 2)), task="color" if s % 2 else "sound", correct=s > 1)
            for s in range(6)
            for k, path in enumerate(PATHS)
            for layer in range(5)
        ]
        + [row("s0", "audio->last", layer, None) for layer in range(5)]
    )


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def test_flow_draws_the_means_and_the_bands(table):
    figure, ax = plots.flow(table, title="Color", seed=4)
    means = mean_change(table, seed=4)
    lines = lines_of(ax)
    assert list(lines) == ["video → question", "audio → question", "question → last"]  # no line without a value
    for path in PATHS:
        rows = [r for r in means.to_pylist() if r["knockout"] == path]
        line = lines[path_label(path)]
        np.testing.assert_allclose(line.get_xdata(), [r["layer"] for r in rows])
        np.testing.assert_allclose(line.get_ydata(), [r["mean"] for r in rows])
    band = ax.collections[0].get_paths()[0].vertices
    rows = [r for r in means.to_pylist() if r["knockout"] == PATHS[0]]
    assert band[:, 1].min() == pytest.approx(min(r["low"] for r in rows))
    assert band[:, 1].max() == pytest.approx(max(r["high"] for r in rows))
    zero = [line for line in ax.get_lines() if list(line.get_ydata()) == [0, 0]]
    assert len(zero) == 1
    assert ax.get_title(loc="left") == "Color (6 samples)"
    assert "probability" in ax.get_ylabel() and "Layer" in ax.get_xlabel()
    figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= ax.get_window_extent().x1  # outside


def test_the_axis_says_which_average_it_is(table):
    _, ax = plots.flow(table, center="ratio_of_means", interval="percentile")
    assert ax.get_ylabel() == "Change in mean answer probability (%)"
    want = average_change(table, center="ratio_of_means", interval="percentile")
    line = lines_of(ax)["video → question"]
    rows = [r for r in want.to_pylist() if r["knockout"] == PATHS[0]]
    np.testing.assert_allclose(line.get_ydata(), [r["change"] for r in rows])


def test_noise_of_a_hundredth_of_a_percent_does_not_fill_the_axis():
    rows = [row(f"s{s}", PATHS[0], layer, 0.01 * (-1) ** (s + layer)) for s in range(6) for layer in range(4)]
    for figure in (plots.flow(table_from_rows(rows))[1], plots.flow_panels(table_from_rows(rows))[1][0]):
        low, high = figure.get_ylim()
        assert high - low == pytest.approx(plots.LEAST_SPAN) and low < -2 < 2 < high


def test_layers_may_count_from_one(table):
    for first in (0, 1):
        _, ax = plots.flow(table, first_layer=first)
        assert list(lines_of(ax)["video → question"].get_xdata()) == [first + k for k in range(5)]
    _, ax = plots.heat_map(table, first_layer=1)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "3", "4", "5"]
    with pytest.raises(InputError, match="first_layer is 2"):
        plots.flow(table, first_layer=2)


def test_selection_and_choice_of_paths(table):
    _, ax = plots.flow(table, select="correct", paths=["question->last"], title="")
    assert list(lines_of(ax)) == ["question → last"]
    assert ax.get_title(loc="left").endswith("(4 samples)")
    with pytest.raises(InputError, match="'video->last'"):
        plots.flow(table, paths=["video->last"])


def test_one_layer_shows_a_marker():
    _, ax = plots.flow(table_from_rows([row("a", layer=3), row("b", layer=3)]))
    assert lines_of(ax)["video → question"].get_marker() == "o"


def test_panels_hold_each_path_once_on_one_scale(table):
    figure, axes = plots.flow_panels(table)
    assert [ax.get_title(loc="left") for ax in axes] == [PANELS[1], PANELS[2]]
    assert [set(lines_of(ax)) for ax in axes] == [{"video → question", "audio → question"}, {"question → last"}]
    assert len({ax.get_ylim() for ax in axes}) == 1


def test_heat_map_shows_the_means(table):
    _, ax = plots.heat_map(table)
    grid = ax.collections[0].get_array().reshape(3, 5)
    means = mean_change(table, resamples=1)
    np.testing.assert_allclose(grid.ravel(), means["mean"].to_numpy())
    low, high = ax.collections[0].get_clim()
    assert low == -high  # white is zero
    assert [t.get_text() for t in ax.get_yticklabels()] == [path_label(p) for p in PATHS]


def test_heat_map_leaves_holes():
    table = table_from_rows([row(layer=0, change=0.0), row(layer=1, change=None), row(layer=2, change=0.0)])
    _, ax = plots.heat_map(table)
    grid = ax.collections[0].get_array()
    assert list(np.ma.getmaskarray(grid).ravel()) == [False, True, False]


def test_nothing_to_draw_is_said():
    for rows in ([], [row(change=None)]):
        for draw in (plots.flow, plots.flow_panels, plots.heat_map):
            with pytest.raises(InputError, match="nothing to draw"):
                draw(table_from_rows(rows))


def test_every_path_of_the_preset_can_be_told_apart():
    paths = list(PRESETS["av_video"])
    for group in [paths] + [[p for p in paths if panel_of(p) == name] for name in PANELS]:
        seen = {
            (s["color"], str(s["linestyle"])) for s in map(lambda p: path_style(p, len(group) == len(paths)), group)
        }
        assert len(seen) == len(group)
    assert len({path_label(p) for p in paths}) == len(paths)


def test_colours_are_stable_and_a_control_differs_from_its_path():
    control = "video->question (random 0.5, seed 0)"
    alone, (first, second) = path_style("video->question"), distinct_styles(["video->question", control])
    assert first == alone and second["color"] == alone["color"] and second != first
    mine = path_style("my groups->last")
    assert mine == path_style("my groups->last") and matplotlib.colors.is_color_like(mine["color"])
    many = distinct_styles([f"video->question (heads {k})" for k in range(4)])
    assert len({str(style) for style in many}) == 4


@pytest.mark.parametrize(
    "path, label",
    [
        ("cross:video", "frame → other frames"),
        ("cross:audio", "audio segment → other segments"),
        ("cross:options", "options → other options"),
        ("audio<->video", "audio ↔ video"),
        ("last->last (self)", "last → last"),
        ("option_incorrect->last", "incorrect options → last"),
        ("video+audio->question_text", "video + audio → question text"),
        ("video->last (heads 1,2)", "video → last (heads 1,2)"),
        ("my own name", "my own name"),
    ],
)
def test_labels(path, label):
    assert path_label(path) == label


def test_saved_as_png_and_pdf_the_same_each_time(table, tmp_path):
    first = plots.save(plots.flow(table)[0], tmp_path / "new" / "flow.v1", dpi=50)
    assert [p.name for p in first] == ["flow.v1.png", "flow.v1.pdf"]
    assert first[0].read_bytes()[:4] == b"\x89PNG" and first[1].read_bytes()[:4] == b"%PDF"
    second = plots.save(plots.flow(table)[0], tmp_path / "again", dpi=50)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_width_ablation_draws_a_line_per_width():
    rows = [
        row(f"s{s}", "video->question", layer, -w * (layer + 1.0) - s, window=w)
        for w in (1, 3, 7)
        for s in range(3)
        for layer in range(4)
    ]
    table = table_from_rows([*rows, row("s0", "audio->last", 0, -1.0)])
    figure, ax = plots.widths(table, "video->question", first_layer=1)
    lines = lines_of(ax)
    assert list(lines) == ["1 layer", "3 layers", "7 layers"]
    for label, w in zip(lines, (1, 3, 7), strict=True):
        np.testing.assert_allclose(lines[label].get_xdata(), [1, 2, 3, 4])
        np.testing.assert_allclose(lines[label].get_ydata(), [-w * x - 1.0 for x in (1, 2, 3, 4)])
    assert len({str(line._unscaled_dash_pattern) for line in lines.values()}) == 3  # told apart without colour
    with pytest.raises(InputError, match="windows of"):
        plots.flow(table)
    with pytest.raises(InputError, match="no rows of"):
        plots.widths(table, "video->last")


def test_plots_are_one_import_and_take_the_old_name_of_select(table):
    from avflow import plots as exported

    for name in exported.__all__:
        assert callable(getattr(exported, name)), name  # a function, not a module of that name
    with pytest.warns(DeprecationWarning, match=r"which= is now select= in flow\(\)"):
        _, ax = exported.flow(table, which="correct")
    assert ax.get_title(loc="left") == exported.flow(table, select="correct")[1].get_title(loc="left")
    for draw in (exported.flow_panels, exported.heat_map, lambda t, **k: exported.widths(t, PATHS[0], **k)):
        with pytest.warns(DeprecationWarning):
            draw(table, which="wrong")


def test_a_notebook_shows_what_a_figure_function_returns(table):
    drawn = plots.flow(table)
    figure, axes = drawn
    assert drawn[0] is figure and len(drawn) == 2 and axes in figure.axes
    assert drawn._repr_png_().startswith(b"\x89PNG")
