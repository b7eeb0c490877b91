"""Figures are written whole or not at all, and a table that a figure cannot draw is told."""

import errno
import os

import page_cases as cases
import pyarrow as pa
import pytest

from avflow import files, plots
from avflow.errors import InputError, RunError
from avflow.plots.drawable import LONGEST_TITLE
from avflow.report.write import report
from avflow.results.results import read
from avflow.results.table import read_parquet


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    cases.plan(folder / "plan")
    found = {"sweep": cases.sweep(folder / "sweep", 2), "share": cases.share(folder / "share")}
    found["lens"] = cases.lens(folder / "lens")
    pathways = pa.table({"prompt": ["a"], "run": ["full"], "edges_kept": [1.0], "correct": [True]})
    plan = read_parquet(folder / "plan" / "plan.parquet")
    return {name: read(path) for name, path in found.items()} | {"plan": plan, "pathways": pathways}


FIGURES = {
    "flow": ("sweep", plots.flow),
    "flow_panels": ("sweep", plots.flow_panels),
    "heat_map": ("sweep", plots.heat_map),
    "widths": ("sweep", lambda table: plots.widths(table, "video->question")),
    "share_bars": ("share", plots.share_bars),
    "lens_lines": ("lens", plots.lens_lines),
    "eviction_lines": ("plan", plots.eviction_lines),
    "pathway_bars": ("pathways", plots.pathway_bars),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_another_table_is_refused(tables, name):
    own, draw = FIGURES[name]
    draw(tables[own])
    for other, table in tables.items():
        if other != own:
            with pytest.raises(InputError, match="this figure draws the table of .* lacks"):
                draw(table)
    for wrong in (None, 3, "run", {"table": 1}):
        with pytest.raises(InputError, match="this figure draws the Results of .* got"):
            draw(wrong)


def test_a_map_is_drawn_of_a_map_only(tables):
    with pytest.raises(InputError, match="what avflow.attention_map gives"):
        plots.map_image(tables["share"], 0)


def test_a_long_title_is_cut(tables):
    _, ax = plots.flow(tables["sweep"], title="x" * 20_000)
    assert ax.get_title("left") == "x" * (LONGEST_TITLE - 3) + "... (4 samples)"


def test_a_task_is_text_and_no_formula(tmp_path):
    assert report(cases.sweep(tmp_path / "run", 2, tasks=(r"$\frac$", "color")))


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_figure_on_a_full_disk_is_told_and_the_old_one_stays(tables, tmp_path, monkeypatch, call):
    figure, _ = plots.flow(tables["sweep"])
    before = {path: path.read_bytes() for path in plots.save(figure, tmp_path / "flow")}
    assert sorted(p.name for p in before) == ["flow.pdf", "flow.png"]

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":

        class File(open(os.devnull, "wb").__class__):
            write = full

        monkeypatch.setattr(files, "open", lambda path, mode: File(open(path, mode).detach()), raising=False)
    else:
        monkeypatch.setattr(files.os, call, full)
    other, _ = plots.heat_map(tables["sweep"])
    with pytest.raises(RunError, match="cannot write .*flow.png: the disk is full"):
        plots.save(other, tmp_path / "flow")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
