"""Damage in a run folder: what is broken is named, and restored or measured again; nothing of it is merged."""

from __future__ import annotations

import shutil

import pytest
from test_runs import CONFIG, fill, rows_of

from avflow.cli.options import warnings_as_lines
from avflow.errors import InputError, RunError
from avflow.results.results import read
from avflow.runs.folder import RunFolder
from avflow.runs.merge import merge
from avflow.runs.records import part_name, read_records


def flip(path, at=0.3):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 4
    path.write_bytes(data)


@pytest.fixture
def whole(tmp_path):
    """A finished run over a, b and c; its rows."""
    fill(tmp_path / "run", ["a", "b", "c"])
    return tmp_path / "run", read(tmp_path / "run").table


def part(folder, sample_id="b"):
    return folder / "parts" / part_name(sample_id)


@pytest.mark.parametrize("at", [0.3, 0.9, -0.001], ids=["a page", "the footer", "the last byte"])
def test_a_damaged_part_is_measured_again_before_a_merge(tmp_path, at):
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("a", rows_of("a"))
        run.add("b", rows_of("b"))
    flip(part(tmp_path), at)
    with pytest.raises(InputError, match=r"parts/b\.parquet .*run the command that made it again"):
        read(tmp_path)
    with pytest.warns(UserWarning, match=r"parts/b\.parquet .*measured again"):
        assert fill(tmp_path, ["a", "b"]) == ["b"]
    assert read(tmp_path).table["prompt"].to_pylist() == ["a"] * 3 + ["b"] * 3


def test_a_damaged_part_is_restored_from_rows_parquet(whole):
    """Also where its sample is not asked for again: its rows would be lost."""
    folder, rows = whole
    records, data = read_records(folder), part(folder).read_bytes()
    flip(part(folder))
    with pytest.warns(UserWarning, match=r"parts/b\.parquet is damaged.*restored from rows\.parquet"):
        assert fill(folder, ["a"]) == []
    assert read(folder).table.sort_by("prompt").equals(rows) and read_records(folder) == records
    assert part(folder).read_bytes() == data


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:1000])])
def test_a_damaged_rows_parquet_is_made_anew(whole, damage):
    folder, rows = whole
    damage(folder / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet .*run the command that made it again"):
        read(folder)
    with pytest.warns(UserWarning, match=r"rows\.parquet .*made anew from parts/"):
        assert fill(folder, ["a", "b", "c"]) == []
    assert read(folder).table.equals(rows)


def test_where_both_are_damaged_the_sample_is_measured_again(whole):
    folder, rows = whole
    flip(folder / "rows.parquet")
    flip(part(folder))
    with pytest.warns(UserWarning, match=r"parts/b\.parquet is damaged.*measured again"):
        assert fill(folder, ["a", "b", "c"]) == ["b"]
    assert read(folder).table.equals(rows)


def test_a_part_under_another_samples_name_is_not_taken_for_it(whole):
    folder, rows = whole
    shutil.copy(part(folder, "a"), part(folder, "b"))
    with pytest.warns(UserWarning, match=r"parts/b\.parquet is no part of a run.*restored"):
        fill(folder, ["a", "b", "c"])
    assert read(folder).table.equals(rows)


def test_a_damaged_part_is_not_merged_into_another_run(whole, tmp_path):
    folder, _ = whole
    fill(tmp_path / "other", ["d"])
    flip(part(folder))
    with pytest.raises(InputError, match=r"parts/b\.parquet cannot be read .*is damaged.*run that sweep again"):
        merge(tmp_path / "merged", [folder, tmp_path / "other"])


@pytest.mark.parametrize("damage", [lambda folder: shutil.rmtree(folder / "parts"), lambda folder: flip(part(folder))])
def test_parts_that_are_gone_or_damaged_when_they_are_merged_are_told(tmp_path, damage):
    with RunFolder(tmp_path, CONFIG) as run:
        run.add("b", rows_of("b"))
        damage(tmp_path)
        with pytest.raises(RunError, match=r"the part of sample 'b', .*b\.parquet.*run the same command again"):
            run.finish(["b"])
    with pytest.warns(UserWarning) if part(tmp_path).exists() else pytest.MonkeyPatch.context():
        assert fill(tmp_path, ["b"]) == ["b"]
    assert read(tmp_path).meta["finished"]


def test_the_command_tells_of_damage_in_a_line(whole, capsys):
    folder, _ = whole
    flip(folder / "rows.parquet")
    with warnings_as_lines(), RunFolder(folder, CONFIG):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith("made anew from parts/ at the end of this run")
