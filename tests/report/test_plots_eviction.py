"""The figure of an eviction plan draws what its table says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from avflow.errors import InputError
from avflow.planning.choice import SCHEMA, Tolerance, Trials, table_of
from avflow.plots import information_flow as plots
from avflow.plots.eviction import eviction_lines

GROUPS = ["video", "audio", "question_text", "image", "video+audio+question_text+image"]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    grid = [(group, layer) for group in GROUPS for layer in (3, 5, 8)]
    shape = (12, len(grid))
    clean = rng.random(12) < 0.8
    trials = Trials([str(i) for i in range(12)], [""] * 12, np.full(12, 9), -rng.random(12), clean,
                    -rng.random(shape), rng.random(shape) < 0.7)  # fmt: skip
    return table_of(trials, grid, Tolerance())


@pytest.mark.parametrize("first", [0, 1])
def test_lines_bands_and_marks(table, first):
    figure, (left, right) = eviction_lines(table, {"video": 5, "question_text": 3}, first_layer=first, title="Plan")
    for ax, value, scale in ((left, "accuracy", 100), (right, "p", 1)):
        lines = {line.get_label(): line for line in ax.get_lines()}
        for number, (group, label) in enumerate(
            zip(
                GROUPS,
                [
                    f"video, leaves after {5 + first}",
                    "audio",
                    f"question text, leaves after {3 + first}",
                    "image",
                    "video + audio + question text + image",
                ],
                strict=True,
            )
        ):
            rows = [r for r in table.to_pylist() if r["group"] == group]
            assert lines[label].get_xdata().tolist() == [3 + first, 5 + first, 8 + first]
            assert lines[label].get_ydata() == pytest.approx([scale * r[value] for r in rows])
            band = ax.collections[number].get_paths()[0].vertices[:, 1]
            low = [r["accuracy_clean"] + r["change_low"] if scale == 100 else r["p_low"] for r in rows]
            assert band.min() == pytest.approx(scale * min(low))
        marks = [line for line in ax.get_lines() if line.get_linestyle() == "None"]
        chosen = [r for r in table.to_pylist() if (r["group"], r["layer"]) in (("video", 5), ("question_text", 3))]
        assert [(float(m.get_xdata()[0]), float(m.get_ydata()[0])) for m in marks] == [
            (r["layer"] + first, pytest.approx(scale * r[value])) for r in chosen
        ]
    assert left.get_lines()[-1].get_ydata()[0] == 100 * table["accuracy_clean"][0].as_py()
    assert "Plan (12 samples)" in figure.get_suptitle()


@pytest.mark.parametrize("first", [0, 1])
def test_before_layer_0_is_said(first):
    trials = Trials(["a"], [""], np.ones(1), -np.ones(1), np.ones(1, bool), -np.ones((1, 2)), np.ones((1, 2), bool))
    drawn = eviction_lines(
        table_of(trials, [("video", -1), ("video", 3)], Tolerance()), {"video": -1}, first_layer=first
    )
    (line, *_) = drawn[1][0].get_lines()
    assert line.get_label() == f"video, leaves before {first}" and line.get_xdata().tolist() == [first - 1, first + 3]


def test_marks_on_one_place_are_rings_around_each_other(table):
    layers = table["layer"].to_pylist()
    same = table.set_column(table.column_names.index("accuracy"), "accuracy", pa.array([0.5] * len(layers)))
    _, (left, right) = eviction_lines(same, {"video": 5, "audio": 5, "image": 8})
    marks = [line for line in left.get_lines() if line.get_linestyle() == "None"]
    assert [mark.get_markersize() for mark in marks] == [15, 8, 8]  # video's around audio's; image's elsewhere
    assert marks[0].get_markerfacecolor() == "none" and marks[1].get_markerfacecolor() != "none"


def test_groups_differ_without_colour(table):
    _, (left, _) = eviction_lines(table)
    lines = [line for line in left.get_lines() if len(line.get_xdata()) == 3]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == len(GROUPS)
    assert len({(str(line._dash_pattern), line.get_marker()) for line in lines}) == len(GROUPS)


def test_files(table, tmp_path):
    figure, _ = eviction_lines(table, {"audio": 3})
    assert [p.suffix for p in plots.save(figure, tmp_path / "plan")] == [".png", ".pdf"]
    assert all(p.stat().st_size > 5000 for p in tmp_path.iterdir())


def test_one_prompt_has_lines_and_no_band():
    trials = Trials(["0"], [""], np.array([9]), np.array([-1.0]), np.array([True]), np.array([[-1.0, -2.0]]),
                    np.array([[True, False]]))  # fmt: skip
    figure, (left, _) = eviction_lines(table_of(trials, [("video", 0), ("video", 1)], Tolerance()), {"video": 0})
    figure.canvas.draw()
    assert left.get_lines()[0].get_ydata().tolist() == [100, 0] and "(1 sample)" in figure.get_suptitle()


def test_bad_input(table):
    with pytest.raises(InputError, match="no rows"):
        eviction_lines(SCHEMA.empty_table())
    with pytest.raises(InputError, match="'smell'"):
        eviction_lines(table, {"smell": 3})
    with pytest.raises(InputError, match="first_layer"):
        eviction_lines(table, first_layer=2)
