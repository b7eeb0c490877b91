"""Parts of the samples in runs of their own, merged and gone on with; rows that make no sample, told in the folder."""

import json

import pytest
import tiny_job
from command import avflow_, one_line_error

import avflow
import avflow.models
from avflow.errors import InputError
from avflow.runs.folder import read_config
from avflow.runs.loop import run
from avflow.runs.merge import merge
from avflow.runs.source import parse_shard

IDS = ["a", "b", "c", "d", "e"]


def swept(path, out, **options):
    return run(tiny_job.job(path, layers=[1], **options), out, quiet=True)


def test_shards_are_parts_of_the_samples_and_merge_to_all(tmp_path):
    path = tiny_job.write(tmp_path / "s.jsonl", IDS)
    parts = [swept(path, tmp_path / f"run-{i}", shard=f"{i}/2") for i in (1, 2)]
    assert [[s.id for s in part.asked] for part in parts] == [["a", "c", "e"], ["b", "d"]]
    merge(tmp_path / "merged", [tmp_path / "run-1", tmp_path / "run-2"])
    whole = swept(path, tmp_path / "whole")
    merged = avflow.read(tmp_path / "merged").table
    assert merged.sort_by("prompt").equals(whole.table.sort_by("prompt"))
    assert "shard" not in read_config(tmp_path / "merged")
    again = swept(path, tmp_path / "merged")
    assert again.skipped == 5  # the merged run is a run as any other


def test_a_merged_run_over_different_files_goes_on_with_each_of_them(tmp_path):
    one, two = (tiny_job.write(tmp_path / f"{n}.jsonl", ids) for n, ids in enumerate((["a", "b"], ["c"])))
    for n, path in enumerate((one, two)):
        swept(path, tmp_path / f"run-{n}")
    merge(tmp_path / "merged", [tmp_path / "run-0", tmp_path / "run-1"])
    config = read_config(tmp_path / "merged")
    assert config["samples"] == [str(one), str(two)]
    tiny_job.write(two, ["c", "d"])
    more = swept(two, tmp_path / "merged")
    assert (more.samples, more.skipped) == (2, 1) and read_config(tmp_path / "merged") == config
    assert set(avflow.read(tmp_path / "merged").table["prompt"].to_pylist()) == {"a", "b", "c", "d"}
    other = tiny_job.write(tmp_path / "other.jsonl", ["x"])
    with pytest.raises(InputError, match="another configuration .samples"):
        swept(other, tmp_path / "merged")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", 1])
def test_a_shard_that_is_none(tmp_path, text):
    with pytest.raises(InputError, match="shard"):
        tiny_job.job(tmp_path / "s.jsonl", shard=text)


def test_more_shards_than_samples(tmp_path):
    path = tiny_job.write(tmp_path / "s.jsonl", IDS[:2])
    assert parse_shard("3/3") == (3, 3)
    with pytest.raises(InputError, match="no more shards than there are samples"):
        swept(path, tmp_path / "run", shard="3/3")


def test_commands_tell_of_bad_rows_and_take_shards(tmp_path, monkeypatch):
    loaded = tiny_job.job(tmp_path).load()
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loaded)
    path = tiny_job.write(tmp_path / "s.jsonl", IDS)
    path.write_text(path.read_text() + '{"id": "bad"}\n{"id": "worse"}\n')
    given = ["m", path, "--knockouts", "video->last", "--layers", "1", "--select", "all"]
    done = avflow_("sweep", *given, "--out", tmp_path / "run", "--shard", "2/2")
    assert done.exit_code == 0 and "2 swept" in done.stdout, done.output
    assert f"2 rows make no sample, left out: {path}, line 6: has no 'question'" in done.stderr
    assert f", and 1 more: see {tmp_path / 'run' / 'bad_rows.jsonl'}" in done.stderr
    dry = avflow_("sweep", *given, "--dry-run")
    assert dry.exit_code == 0 and "2 rows make no sample" in dry.stderr and dry.stdout.count("\n") == 8
    strict = avflow_("sweep", *given, "--out", tmp_path / "x", "--no-skip-bad")
    assert "line 6: has no 'question'" in one_line_error(strict)
    assert "write i/n" in one_line_error(avflow_("sweep", *given, "--out", tmp_path / "x", "--shard", "3/2"))


def test_bad_rows_are_told_in_the_run_folder(tmp_path):
    path = tiny_job.write(tmp_path / "s.jsonl", IDS[:2])
    whole = path.read_text()
    path.write_text(whole + json.dumps({"id": "c", "question": "?", "options": ["x", "x"], "answer": "x"}) + "\n{\n")
    with pytest.raises(InputError, match="line 3"):
        swept(path, tmp_path / "strict", skip_bad=False)
    outcome = swept(path, tmp_path / "run")
    told = [json.loads(line) for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()]
    assert outcome.samples == 2 and [row["row"] for row in told] == [f"{path}, line 3", f"{path}, line 4"]
    assert outcome.bad == {row["row"]: row["reason"] for row in told} and "not JSON" in told[1]["reason"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["bad_rows"] == outcome.bad
    path.write_text(whole)
    assert swept(path, tmp_path / "run").bad == {} and not (tmp_path / "run" / "bad_rows.jsonl").exists()
