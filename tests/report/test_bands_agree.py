"""Questions on one file are drawn together: in the figures of a folder as on its page."""

import json

import numpy as np
import page_cases as cases
import pytest
from matplotlib.collections import PolyCollection

from avflow import plots
from avflow.experiments.patch import SCHEMA as PATCH
from avflow.plots import information_flow
from avflow.report.collect import collect
from avflow.report.comparison import compare_path, read_runs
from avflow.report.flow import lines_of
from avflow.report.write import report
from avflow.results.table import read_parquet
from avflow.runs.look_figures import draw_look


def on_few_files(folder):
    """The run's records, as if three samples each were asked about one file."""
    path = folder / "samples.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(records):
        record["media"] = {f"clip-{number // 3}.mp4": [1, 1, f"1-{0:016x}"]}
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved, by the stem of their file."""
    figures = {}

    def keep(figure, stem, **_):
        figures[stem.name] = figure
        return []

    monkeypatch.setattr(information_flow, "save", keep)
    return figures


def bands(ax):
    """{(low, high) of one layer}, of all bands of the axes."""
    found = set()
    for band in ax.collections:
        if isinstance(band, PolyCollection):
            x, y = np.round(band.get_paths()[0].vertices, 6).T
            found |= {(float(y[x == layer].min()), float(y[x == layer].max())) for layer in set(x)}
    return found


def on_the_page(entry):
    return {(round(p[2], 6), round(p[3], 6)) for line in lines_of(entry) for p in line["points"]}


def test_a_sweep(tmp_path, drawn):
    folder = on_few_files(cases.sweep(tmp_path / "run"))
    report(folder, media=False)
    whole, *tasks = collect([folder])["sweeps"][0]["flow"]
    assert bands(drawn["flow"].axes[0]) == on_the_page(whole) != bands(plots.flow(read_runs([folder])[0].table)[1])
    assert {entry["task"] for entry in tasks} == {"color", "pitch"}
    for entry in tasks:
        assert bands(drawn[f"flow_{entry['task']}"].axes[0]) == on_the_page(entry)


def test_a_comparison(tmp_path):
    folder = on_few_files(cases.sweep(tmp_path / "run"))
    _, ax = compare_path(read_runs([folder]), "video->question", relative=False)
    entry = collect([folder])["sweeps"][0]["flow"][0]
    (line,) = (line for line in lines_of(entry) if line["path"] == "video->question")
    assert bands(ax) == {(round(p[2], 6), round(p[3], 6)) for p in line["points"]}


def test_patching(tmp_path, drawn):
    folder = on_few_files(cases.patch(tmp_path / "run"))
    table = read_parquet(folder / "rows.parquet")
    assert table.schema.names == PATCH.names
    draw_look(folder, "patch", table)
    assert bands(drawn["patch"].axes[0]) == on_the_page(collect([folder])["patch"][0])
