"""What a notebook shows of results: what they are, and of a sweep the strongest paths first, with intervals."""

import re
import time

import numpy as np
import pyarrow as pa
import pytest
from result_rows import row

from avflow.results import Results
from avflow.results.schemas import SCHEMAS


def cells(html: str) -> list[list[str]]:
    lines = re.findall("<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in lines]


def test_a_sweep_shows_its_strongest_paths_first():
    changes = {"audio->last": [-1, -2], "video->question": [-10, -60], "question->last": [-20, 4]}
    rows = [
        row(f"s{n}", path, layer, change + n / 10)
        for path, along in changes.items()
        for layer, change in enumerate(along)
        for n in range(8)
    ]
    html = Results.from_rows(rows)._repr_html_()
    assert "avflow.sweep: 8 samples, 1 task, 3 paths, 2 layers, 48 rows" in html
    head, *lines = cells(html)
    assert [line[:3] for line in lines] == [
        ["video→question", "1", "−29.8"],  # half of -60 %: the clean probability is one half
        ["question→last", "0", "−9.8"],
        ["audio→last", "1", "−0.8"],
    ]
    assert all(re.fullmatch(r"\[−[\d.]+, −[\d.]+\]", line[3]) for line in lines) and lines[0][4] == "8"
    assert "windows of 7 layers." in html


def test_what_is_not_drawn_is_said():
    rows = [row("a", f"video->question (heads {h})", 0, -h, window=w) for h in range(10) for w in (3, 7)]
    html = Results.from_rows([*rows, row("b", "video->last", correct=False)])._repr_html_()
    assert "3 weaker paths not shown; windows of 7 layers, the widest; with samples that are answered wrong" in html
    assert len(cells(html)) == 1 + 8


def test_text_from_the_data_is_shown_as_text():
    html = Results.from_rows([row("a", "<b>x</b>", 0)])._repr_html_()
    assert "<b>x</b>" not in html and "&lt;b&gt;x&lt;/b&gt;" in html


@pytest.mark.parametrize("experiment", SCHEMAS)
def test_every_experiment_shows_something_also_without_rows(experiment):
    html = Results.from_tuples(experiment, [])._repr_html_()
    assert f"avflow.{experiment}: 0 rows" in html and "<table>" in html


def test_rows_without_a_value_and_rows_of_two_runs():
    assert "No row has a value" in Results.from_rows([row(change=None)])._repr_html_()
    html = Results.from_rows([row(), row()])._repr_html_()  # no average of these: the rows as they are
    assert cells(html)[0][:4] == ["prompt", "task", "knockout", "layer"] and "p_clean" in html


def test_an_unfinished_run_is_named_and_long_texts_are_cut():
    html = Results.from_tuples("attention_share", [("s" * 500, "", 0, 0, "", None, "video", 0.123456)])
    html.meta["finished"] = False
    shown = html._repr_html_()
    assert "not finished" in shown and "s" * 60 not in shown and "0.1235" in shown


def test_two_hundred_samples_are_shown_at_once():
    names = [f"video->question (heads {h})" for h in range(15)]
    place = np.stack(np.meshgrid(range(200), range(15), range(36), indexing="ij"), -1).reshape(-1, 3)
    table = Results.from_rows([row()]).table.take(pa.array(np.zeros(len(place), int)))
    columns = {
        "prompt": pa.array([f"s{n}" for n in place[:, 0]]),
        "knockout": pa.array([names[n] for n in place[:, 1]]),
        "layer": pa.array(place[:, 2], pa.int32()),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    begun = time.process_time()
    Results(table)._repr_html_()
    assert time.process_time() - begun < 10  # under one second on an idle core
