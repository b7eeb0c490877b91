"""Several workers: the same rows as one, and nothing lost with a worker that is killed. Here and on Ray."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter

import pytest
import tiny_job

from avflow.errors import InputError, MediaError, RunError
from avflow.results.results import read
from avflow.runs.folder import read_records
from avflow.runs.loop import run, work
from avflow.runs.workers.dispatch import Event, dispatch
from avflow.runs.workers.processes import ProcessPool


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch):
    """As conftest's for this process: other numbers of threads round otherwise."""
    monkeypatch.setattr("avflow.runs.workers.processes.threads_for", lambda workers: 1)


# Dispatch, without processes: a pool of made-up workers


class Scripted:
    """Workers that do as told: `lose` says of (sample id, times begun) whether the worker dies with it."""

    def __init__(self, size, lose=lambda sample, times: False, starts=lambda number: "ready"):
        self.size, self.lose, self.starts = size, lose, starts
        self.begun, self.flights, self.events, self.closed, self.most = Counter(), {}, [], False, 0

    def start(self):
        number = len(self.flights)
        self.flights[number] = []
        kind = self.starts(number)
        self.events.append(Event(kind, number, value=InputError("no") if kind == "refused" else "signal SIGKILL"))
        return number

    def send(self, worker, sample):
        self.flights[worker].append(sample)
        self.most = max(self.most, len(self.flights[worker]))

    def wait(self):
        if self.events:
            return [self.events.pop(0)]
        worker = next(w for w, flight in self.flights.items() if flight)
        sample = self.flights[worker][0]
        self.begun[sample.id] += 1
        if self.lose(sample.id, self.begun[sample.id]):
            self.flights[worker] = []
            return [Event("lost", worker, value="signal SIGKILL")]
        self.flights[worker].pop(0)
        return [Event("done", worker, sample.id, {"status": "ok"})]

    def close(self):
        self.closed = True


def dispatched(pool, ids):
    done = [(sample.id, record) for sample, record in dispatch(tiny_job.samples(ids), pool)]
    assert sorted(i for i, _ in done) == sorted(ids) and pool.closed
    return dict(done)


IDS = [f"s{n}" for n in range(9)]


@pytest.mark.parametrize("size", [1, 2, 4, 20])
def test_each_sample_is_done_once(size):
    pool = Scripted(size)
    assert {r["status"] for r in dispatched(pool, IDS).values()} == {"ok"}
    assert set(pool.begun.values()) == {1} and len(pool.flights) == min(size, 9) and pool.most <= 2


@pytest.mark.parametrize("size", [1, 2, 4])
def test_samples_of_a_lost_worker_go_to_another(size):
    pool = Scripted(size, lose=lambda sample, times: sample in ("s0", "s5") and times == 1)
    assert {r["status"] for r in dispatched(pool, IDS).values()} == {"ok"}
    assert pool.begun["s0"] == pool.begun["s5"] == 2
    assert len(pool.flights) - size in (1, 2)  # replaced, where there is work left for it


@pytest.mark.parametrize("size", [1, 2])
def test_a_sample_that_kills_workers_fails_and_takes_no_other_with_it(size):
    pool = Scripted(size, lose=lambda sample, times: sample in ("s1", "s2", "s8"))
    records = dispatched(pool, IDS)
    assert {i for i, r in records.items() if r["status"] == "failed"} == {"s1", "s2", "s8"}
    assert records["s1"]["reason"] == "2 workers were lost with it, the last one by signal SIGKILL"


def test_workers_that_never_start_end_the_run():
    pool = Scripted(2, starts=lambda number: "lost")
    with pytest.raises(RunError, match="while they load the model .signal SIGKILL.*Use fewer"):
        list(dispatch(tiny_job.samples(IDS), pool))
    assert pool.closed and len(pool.flights) <= 3
    pool = Scripted(2, starts=lambda number: "refused")
    with pytest.raises(InputError, match="no"):
        list(dispatch(tiny_job.samples(IDS), pool))
    assert pool.closed


def test_a_run_that_is_given_up_closes_its_pool():
    pool = Scripted(2)
    next(given_up := dispatch(tiny_job.samples(IDS), pool))
    given_up.close()
    assert pool.closed


# Processes


def alone(tmp_path, ids):
    path = tiny_job.write(tmp_path / "samples.jsonl", ids)
    return path, run(tiny_job.job(path), tmp_path / "alone", quiet=True)


def test_two_workers_give_the_rows_of_one(tmp_path):
    ids = ["s1", "s22", "broken", "s333", "s4444", "once"]
    (tmp_path / "once.mp4").touch()  # has been fatal before
    path, one = alone(tmp_path, ids)
    two = run(tiny_job.job(path, workers=2), tmp_path / "two", quiet=True)
    assert two.counts == one.counts == {"ok": 5, "selected_out": 0, "failed": 1}
    assert read(tmp_path / "two").table.equals(read(tmp_path / "alone").table)
    assert read(tmp_path / "two").table.num_rows == 5 * 3 * 4
    (failed,) = [r for r in read_records(tmp_path / "two") if r["status"] == "failed"]
    assert failed["reason"] == f"cannot decode {tmp_path}/broken.mp4"
    assert run(tiny_job.job(path), tmp_path / "two", quiet=True).skipped == 5  # resumed by one process


@pytest.mark.slow
def test_killed_workers_lose_nothing(tmp_path, quick_workers):
    """One sample kills its worker once, another always; and a worker is killed from outside."""
    ids = ["once", "s1", "s22", "deadly", "s333", "slow1", "slow22", "s4444"]
    path, one = alone(tmp_path, [i for i in ids if i not in ("deadly", "once")])
    samples = tiny_job.samples(ids, tmp_path)
    job = tiny_job.job(path, workers=2)
    pool = ProcessPool(job, 2)
    records, killed = {}, False
    for sample, record in dispatch(samples, pool):
        assert sample.id not in records
        records[sample.id] = record
        if not killed and "once" in records:  # not before: that would be its second time
            killed = True
            os.kill(next(iter(pool.pids.values())), signal.SIGKILL)
    assert killed and set(records) == set(ids) and (tmp_path / "once.mp4").exists()
    assert {i for i, r in records.items() if r["status"] == "failed"} == {"deadly"}
    assert records["deadly"]["reason"].endswith("by signal SIGKILL")
    for sample_id in {"s1", "s22", "s333", "s4444", "slow1", "slow22"}:
        rows = [row for row in one.results.table.to_pylist() if row["prompt"] == sample_id]
        assert records[sample_id]["rows"] == rows
    assert not pool.pids


@pytest.mark.slow
def test_what_a_worker_cannot_load_is_told(tmp_path, quick_workers):
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1", "s2"])
    with pytest.raises(InputError, match="no folder 'refused'"):
        run(tiny_job.job(path, workers=2, model="refused"), tmp_path / "a", quiet=True)
    with pytest.raises(RunError, match="workers are lost while they load the model .signal SIGKILL"):
        run(tiny_job.job(path, workers=2, model="dies"), tmp_path / "b", quiet=True)
    with pytest.raises(InputError, match="workers is 0"):
        tiny_job.job(path, workers=0)


def test_debug_ends_the_run_with_the_samples_exception(tmp_path, quick_workers):
    path = tiny_job.write(tmp_path / "samples.jsonl", ["broken", "s1"])
    with pytest.raises(MediaError, match="cannot decode"):
        run(tiny_job.job(path, workers=2), tmp_path / "a", quiet=True, debug=True)
    with pytest.raises(MediaError, match="cannot decode"):
        run(tiny_job.job(path), tmp_path / "b", quiet=True, debug=True)


# Ray


@pytest.mark.slow
def test_ray_gives_the_same_rows_and_survives_a_killed_worker(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'avflow[ray]'")
    from avflow.runs.workers.on_ray import RayPool

    ids = ["once", "s1", "broken", "s22", "s333", "slow1", "slow22", "s4444"]
    path, one = alone(tmp_path, [i for i in ids if i != "once"])
    found = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}
    }  # for tiny_job; avflow itself is installed on a node
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=found)
    try:
        two = run(
            tiny_job.job(tiny_job.write(path, [i for i in ids if i != "once"]), ray="auto"),
            tmp_path / "ray",
            quiet=True,
        )
        assert two.counts == one.counts == {"ok": 6, "selected_out": 0, "failed": 1}
        assert read(tmp_path / "ray").table.equals(read(tmp_path / "alone").table)
        pool = RayPool(tiny_job.job(path), "auto", 2)
        records, killed = {}, False
        for sample, record in dispatch(tiny_job.samples(ids, tmp_path), pool):
            assert sample.id not in records
            records[sample.id] = record
            if not killed and "once" in records and pool.pids:  # not before: that would be its second time
                killed = True
                os.kill(next(iter(pool.pids.values())), signal.SIGKILL)
        assert killed and set(records) == set(ids)
        assert {i for i, r in records.items() if r["status"] == "failed"} == {"broken"}
        with pytest.raises(InputError, match="3 workers on a Ray cluster with 2 CPUs"):
            RayPool(tiny_job.job(path), "auto", 3)
        with pytest.raises(InputError, match="no folder 'refused'"):
            run(tiny_job.job(path, ray="auto", model="refused"), tmp_path / "refused", quiet=True)
    finally:
        ray.shutdown()


def test_without_ray_the_mend_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    path = tiny_job.write(tmp_path / "samples.jsonl", ["s1"])
    with pytest.raises(InputError, match=r"pip install 'avflow\[ray\]'"):
        list(work(tiny_job.job(path, ray="auto"), tiny_job.samples(["s1"])))


# Prefetch
