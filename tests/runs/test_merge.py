"""Runs put together, and runs compared, from small run folders made here."""

from __future__ import annotations

import csv
import json

import pyarrow.compute as pc
import pytest
from test_runs import CONFIG, rows_of
from typer.testing import CliRunner

from avflow.cli import main as cli
from avflow.errors import InputError
from avflow.report.comparison import compare, compare_path, comparison_rows, read_runs
from avflow.results.results import read
from avflow.runs.folder import RunFolder, read_config, read_records
from avflow.runs.merge import merge


def make(folder, ids, config=None, *, layers=3, change=-10.0, task="", finish=True, digest=None, **status):
    """A run over `ids`; status: id -> "failed" or "selected_out" for those that are not ok."""
    with RunFolder(folder, {**CONFIG, "samples": str(folder), **(config or {})}) as run:
        for i in ids:
            how = status.get(i, "ok")
            rows = [{**r, "task": task} for r in rows_of(i, layers, change)] if how == "ok" else []
            run.add(i, rows, status=how, reason=how, p_clean=0.5, correct=how == "ok", seconds=1.0, digest=digest)
        if finish:
            run.finish(ids)
    return folder


def test_runs_merge_into_a_run(tmp_path):
    one = make(tmp_path / "1", ["a", "b"], b="failed")
    two = make(tmp_path / "2", ["b", "c", "d"], c="selected_out", finish=False)
    three = make(tmp_path / "3", ["e"], e="failed")
    out = tmp_path / "out"
    results = merge(out, [one, two, three])
    assert results.table["prompt"].unique().to_pylist() == ["a", "b", "d"]
    assert read(out).table.equals(results.table) and read(out).meta["finished"]
    assert {r["id"]: r["status"] for r in read_records(out)} == {
        "a": "ok", "b": "ok", "c": "selected_out", "d": "ok", "e": "failed",
    }  # fmt: skip
    assert read_config(out) == {**CONFIG, "samples": [str(one), str(two), str(three)]}
    assert json.loads((out / "summary.json").read_text())["merged"] == [str(one), str(two), str(three)]
    assert merge(out, [one, two, three]).table.equals(results.table)  # again: goes on, or changes nothing
    assert len(merge(tmp_path / "more", [out, make(tmp_path / "4", ["f"])]).table) == 12


def test_a_sample_of_two_runs_must_be_the_same(tmp_path):
    one, same = make(tmp_path / "1", ["a", "b"]), make(tmp_path / "2", ["b", "c"])
    assert len(merge(tmp_path / "out", [one, same]).table) == 9
    for name, options, says in [
        ("rows", dict(change=-11.0), "'b' stands in .*1 and .*rows, and has other rows"),
        ("out", dict(b="selected_out"), "is ok in the one and selected_out in the other"),
    ]:
        with pytest.raises(InputError, match=says):
            merge(tmp_path / "bad", [one, make(tmp_path / name / name, ["b"], **options)])
    one = make(tmp_path / "5", ["b"], digest="1")
    with pytest.raises(InputError, match="is another sample"):
        merge(tmp_path / "bad", [one, make(tmp_path / "6", ["b"], digest="2")])
    assert not (tmp_path / "bad").exists()


def test_other_configurations_do_not_merge(tmp_path):
    one, two = make(tmp_path / "1", ["a"]), make(tmp_path / "2", ["b"], {"window": 9, "fps": 2.0})
    with pytest.raises(InputError, match="window: 7, 9; fps: 'absent', 2.0.: they do not merge"):
        merge(tmp_path / "out", [one, two])
    with pytest.raises(InputError, match="two or more run folders"):
        merge(tmp_path / "out", [one])
    with pytest.raises(InputError, match="is one of the runs"):
        merge(one, [one, two])
    with pytest.raises(InputError, match="not a run folder"):
        merge(tmp_path / "out", [one, tmp_path / "nowhere"])
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_not_merged_away(tmp_path):
    one, two = make(tmp_path / "1", ["a"]), make(tmp_path / "2", ["b"])
    (two / "parts" / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="b.parquet cannot be read .* run that sweep again"):
        merge(tmp_path / "out", [one, two])


def test_comparison_table_figures_and_page(tmp_path):
    small = make(tmp_path / "small" / "run", ["a", "b"], {"model": "/models/small-3B"}, task="color")
    large = make(
        tmp_path / "large" / "run", ["a", "c", "d"], {"model": "org/large-7B"}, layers=5, change=-20.0, d="failed"
    )
    with RunFolder(small, read_config(small)) as run:
        run.add("z", [{**r, "task": "count"} for r in rows_of("z", 3, -40.0)], correct=False)
        run.finish()
    runs = read_runs([small, large])
    assert [(r.name, r.model, r.last_layer) for r in runs] == [
        ("small/run", "small-3B", 2),
        ("large/run", "large-7B", 4),
    ]
    rows = {(r["run"], r["task"]): r for r in comparison_rows(runs)}
    assert set(rows) == {("small/run", "all"), ("small/run", "color"), ("small/run", "count"), ("large/run", "all")}
    assert rows["small/run", "all"]["change_percent"] == -20 and rows["small/run", "all"]["samples"] == 3
    assert rows["small/run", "all"]["accuracy"] == round(2 / 3, 4) and rows["small/run", "count"]["accuracy"] == 0
    assert rows["large/run", "all"]["accuracy"] == round(2 / 3, 4)  # "d" failed after its clean answer was known
    files = compare([small, large], tmp_path / "out", title="3B & 7B")
    assert all(f.stat().st_size for f in files)
    assert {f.suffix for f in files} == {".csv", ".png", ".pdf", ".html"}
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "3B &amp; 7B" in page and page.count("data:image/png") == 1 and "small/run" in page
    with open(tmp_path / "out" / "comparison.csv") as file:
        assert len(list(csv.DictReader(file))) == 4
    _, ax = compare_path(runs, "video->question")
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
    assert [list(line.get_xdata()) for line in lines] == [[0, 0.5, 1], [0, 0.25, 0.5, 0.75, 1]]
    assert len({line.get_color() for line in lines}) == 2


def test_what_cannot_be_compared(tmp_path):
    one = make(tmp_path / "1", ["a"])
    with pytest.raises(InputError, match="two or more"):
        compare([one], tmp_path / "out")
    with pytest.raises(InputError, match="given twice"):
        compare([one, one], tmp_path / "out")
    empty = make(tmp_path / "2", ["a"], a="selected_out")
    with pytest.raises(InputError, match="nothing to compare"):
        compare([empty, make(tmp_path / "3", ["b"], b="selected_out")], tmp_path / "out")


def test_on_the_command_line(tmp_path):
    one, two = make(tmp_path / "1", ["a"]), make(tmp_path / "2", ["b"], change=-30.0)
    said = CliRunner().invoke(cli.app, ["merge", str(tmp_path / "out"), str(one), str(two)])
    assert said.exit_code == 0, said.output
    assert pc.mean(read(tmp_path / "out").table["change_percent"]).as_py() == -20
    assert (tmp_path / "out" / "report.html").exists() and "rows.parquet (6)" in said.stdout
    said = CliRunner().invoke(cli.app, ["report", str(one), str(two), "--out", str(tmp_path / "both")])
    assert said.exit_code == 0 and str(tmp_path / "both" / "comparison.html") in said.stdout
    said = CliRunner().invoke(cli.app, ["merge", str(tmp_path / "out"), str(one)])
    assert said.exit_code == 2 and said.stderr.startswith("error: give two or more")
