"""Looks and plans go through the loop of sweeps: workers, resume, failures, one config.yaml, one reader."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_job
import yaml

from avflow.errors import InputError, MediaError
from avflow.eviction.schedule import EvictionSchedule
from avflow.planning.plan_eviction import PlanRequest
from avflow.results.results import read
from avflow.runs.folder import RunFolder, experiment_of, read_config, read_records
from avflow.runs.loop import estimates, run
from avflow.runs.merge import merge
from avflow.runs.plan_run import run_plan

HERE = Path(__file__).parent
HELPERS = HERE.parent / "helpers"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HELPERS), *sys.path]), "OMP_NUM_THREADS": "1"}
RIGHT = "s0123456789"  # the tiny model answers it correctly, so that a plan has an accuracy to lose
LOOKS = {
    "share": {"layers": [0, 2]},
    "lens": {},
    "sinks": {"times": 1.1},
    "pathways": {"keep": {"video->question": None}, "random": 1},
    "text": {"knockouts": "video->last", "max_new_tokens": 2},
}
KINDS = [*LOOKS, "plan"]


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch, quick_workers):
    """As conftest's for this process: other numbers of threads round otherwise."""
    monkeypatch.setattr("avflow.runs.workers.processes.threads_for", lambda workers: 1)


def make(kind, path, **options):
    """A job of this kind over a JSONL file of samples."""
    if kind == "plan":
        return tiny_job.TinyPlan("tiny", path, PlanRequest(["video", "audio"], max_accuracy_drop=0.9), **options)
    return tiny_job.TinyLook("tiny", path, kind, LOOKS[kind], **options)


def carry_out(kind, path, out, debug=False, **options):
    job = make(kind, path, **options)
    if kind == "plan":
        return run_plan(job, out, Path(out).with_suffix(".json"), debug=debug, quiet=True)
    return run(job, out, debug=debug, quiet=True)


def rows(folder):
    return pq.read_table(Path(folder) / "rows.parquet").replace_schema_metadata(None)


@pytest.mark.parametrize("slots", [{"workers": 2}])
def test_a_plan_without_answers_on_workers(slots, tmp_path):
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", "s22", "s333"])
    found = []
    for name, more in (("one", {}), ("two", slots)):
        request = PlanRequest(["video", "audio"], max_accuracy_drop=0.9, max_kl=0.5, holdout=0)
        job = tiny_job.TinyPlan("tiny", path, request, **more)
        found.append(run_plan(job, tmp_path / name, tmp_path / f"{name}.json", quiet=True))
    assert rows(tmp_path / "two").equals(rows(tmp_path / "one"))
    assert found[0].schedule.steps == found[1].schedule.steps and found[0].schedule.figures["measure"] == "kl"


@pytest.mark.parametrize("kind", ["share", "text", "plan"])
def test_two_workers_give_the_rows_of_one(kind, tmp_path):
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", RIGHT, "broken", "s22", "s333"])
    one = carry_out(kind, path, tmp_path / "one")
    two = carry_out(kind, path, tmp_path / "two", workers=2)
    assert two.counts == one.counts == {"ok": 4, "selected_out": 0, "failed": 1}
    assert two.failed == one.failed == {"broken": f"cannot decode {tmp_path}/broken.mp4"}
    assert rows(tmp_path / "two").equals(rows(tmp_path / "one")) and two.table.num_rows
    if kind == "plan":
        assert two.schedule.steps == one.schedule.steps and one.schedule.steps
        assert EvictionSchedule.load(tmp_path / "two.json").data == one.schedule.data
        assert pq.read_table(tmp_path / "two" / "plan.parquet").equals(one.schedule.plan.table)
    again = carry_out(kind, path, tmp_path / "two")  # resumed by one process
    assert again.skipped == 4 and again.samples == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_goes_on(kind, tmp_path, monkeypatch):
    """Ctrl-C in the third sample; the second run measures what is left, and the rows are those of an unbroken one."""
    path, out = tiny_job.write(tmp_path / "samples.jsonl", ["s1", RIGHT, "s22", "s333"]), tmp_path / "run"
    cls, measured = type(make(kind, path)), []
    real = cls.record

    def stopped(job, model, prompt, tick=None):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(prompt.id)
        return real(job, model, prompt, tick)

    with monkeypatch.context() as patched:
        patched.setattr(cls, "record", stopped)
        with pytest.raises(KeyboardInterrupt):
            carry_out(kind, path, out)
    parts = {p: p.stat().st_ino for p in out.glob("parts/*.parquet")}
    assert len(parts) == 2 and not (out / "rows.parquet").exists()
    assert [r["id"] for r in read_records(out)] == measured == ["s1", RIGHT]
    outcome = carry_out(kind, path, out)
    assert outcome.skipped == 2 and {p: p.stat().st_ino for p in parts} == parts
    carry_out(kind, path, tmp_path / "whole")
    assert rows(out).equals(rows(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("kind, workers", [("lens", 2), ("plan", 1)])
def test_a_killed_run_is_resumed(kind, workers, tmp_path, warm):
    ids = [f"slow{n}" for n in range(6)] + [RIGHT]
    path, out = tiny_job.write(tmp_path / "samples.jsonl", ids), tmp_path / "run"
    process = warm.Process(target=carry_out, args=(kind, path, out), kwargs={"workers": workers})
    process.start()
    while len(list(out.glob("parts/*.parquet"))) < 2:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    parts = {p: p.stat().st_ino for p in out.glob("parts/*.parquet")}
    assert len(parts) < len(ids) and not (out / "rows.parquet").exists()
    carry_out(kind, path, out, workers=workers)
    assert {p: p.stat().st_ino for p in parts} == parts
    carry_out(kind, path, tmp_path / "whole")
    assert rows(out).equals(rows(tmp_path / "whole"))


def test_debug_ends_a_look_with_the_samples_exception(tmp_path):
    path = tiny_job.write(tmp_path / "samples.jsonl", ["broken", "s1"])
    with pytest.raises(MediaError, match="cannot decode"):
        carry_out("lens", path, tmp_path / "run", debug=True)


def test_a_plan_is_chosen_by_this_process_alone(tmp_path, monkeypatch):
    """Workers measure. Where all is measured, the model is loaded once more, for the choice."""
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", RIGHT])
    loads = []
    real = tiny_job.TinyPlan.load
    monkeypatch.setattr(tiny_job.TinyPlan, "load", lambda self: loads.append(os.getpid()) or real(self))
    for workers in (2, None):
        carry_out("plan", path, tmp_path / f"run{workers}", workers=workers)
        assert loads == [os.getpid()], workers
        loads.clear()
    carry_out("plan", path, tmp_path / "runNone")
    assert loads == [os.getpid()]


@pytest.mark.parametrize("kind", [*KINDS, "sweep"])
def test_the_folder_says_what_it_holds(kind, tmp_path):
    path, out = tiny_job.write(tmp_path / "samples.jsonl", [RIGHT]), tmp_path / "run"
    if kind == "sweep":
        run(tiny_job.job(path), out, quiet=True)
    else:
        carry_out(kind, path, out)
    config = read_config(out)
    assert config["experiment"] == experiment_of(config) == kind
    meta = json.loads(pq.read_schema(out / "rows.parquet").metadata[b"avflow"])
    assert meta["config"] == config and meta["experiment"] == kind and meta["versions"]["torch"] and meta["parts"] == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["config"] == config and summary["failed"] == {}


def test_a_folder_of_version_0_1_is_resumed(tmp_path):
    """Its config.yaml names no experiment, but for looks."""
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", RIGHT])
    for kind in ("sweep", "plan"):
        out, job = tmp_path / kind, tiny_job.job(path, limit=1) if kind == "sweep" else make("plan", path, limit=2)
        config = job.config()
        del config["experiment"]
        assert experiment_of(config) == kind
        run(job, out, quiet=True)
        (out / "config.yaml").write_text(yaml.safe_dump(config))
        job.limit = None
        assert run(job, out, quiet=True).skipped == (1 if kind == "sweep" else 2)
        assert read_config(out) == config  # as it was
        with pytest.raises(InputError, match="another configuration .experiment: '.*' there, 'lens' now"):
            RunFolder(out, {**config, "experiment": "lens"})


@pytest.mark.parametrize("kind", ["lens", "plan"])
def test_looks_and_plans_merge(kind, tmp_path):
    """Two runs of a half each are the run over both; a plan then chooses without another measurement."""
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", RIGHT, "s22"])
    carry_out(kind, path, tmp_path / "whole")
    run(make(kind, path, limit=1), tmp_path / "one", quiet=True)
    run(make(kind, path, shuffle_seed=3, limit=2), tmp_path / "two", quiet=True)
    merge(tmp_path / "out", [tmp_path / "one", tmp_path / "two"])
    assert read_config(tmp_path / "out") == read_config(tmp_path / "whole")
    again = carry_out(kind, path, tmp_path / "out")
    assert again.skipped == 3 and rows(tmp_path / "out").equals(rows(tmp_path / "whole"))
    if kind == "lens":
        with pytest.raises(InputError, match="different configurations .experiment: 'lens', 'sinks'"):
            run(make("sinks", path, limit=1), tmp_path / "other", quiet=True)
            merge(tmp_path / "bad", [tmp_path / "one", tmp_path / "other"])


def test_estimates(tmp_path):
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", "broken"])
    for job in (make("plan", path), tiny_job.job(path)):
        found = dict(estimates(job))
        assert found["s1"]["walks"] >= 1 and found["s1"]["peak_bytes"] > 0 and "cannot decode" in found["broken"]
    assert dict(estimates(make("lens", path)))["s1"].startswith("no estimate for lens")


@pytest.mark.parametrize("kind", KINDS)
def test_avflow_reads_every_run_folder_finished_or_not(kind, tmp_path):
    path, out = tiny_job.write(tmp_path / "samples.jsonl", ["s1", RIGHT]), tmp_path / "run"
    carry_out(kind, path, out)
    whole = read(out)
    assert whole.meta["finished"] and whole.table.equals(pq.read_table(out / "rows.parquet"))
    assert experiment_of(whole.meta["config"]) == kind and whole.table.num_rows
    (out / "rows.parquet").unlink()
    parts = read(out)
    assert not parts.meta["finished"] and parts.table.sort_by("prompt").equals(whole.table.sort_by("prompt"))
