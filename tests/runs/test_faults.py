"""Sweeps that are killed, or whose disk fails, wherever it may be; then the same command again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_job
from test_runs import CONFIG, rows_of

from avflow import files
from avflow.errors import RunError
from avflow.results.results import read
from avflow.runs.folder import RunFolder, read_records
from avflow.runs.loop import run

HERE = Path(__file__).parent
HELPERS = HERE.parent / "helpers"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HELPERS), *sys.path]), "OMP_NUM_THREADS": "1"}


# The disk fails at the n-th call that could change it, once or from then on, for every n


def failing_from(monkeypatch, n, code, once):
    """The calls so far, in a list."""
    calls = []

    def wrap(real):
        def call(*args, **kwargs):
            calls.append(real.__name__)
            if len(calls) == n + 1 or (len(calls) > n and not once):
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    for name in ("open", "write", "pwrite", "fsync", "replace", "ftruncate", "mkdir"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(files, "open", wrap(open), raising=False)
    return calls


def sweep_four(folder, told):
    with RunFolder(folder, CONFIG) as opened:
        for sample_id, status in (("a", "ok"), ("b", "failed"), ("c", "selected_out"), ("d", "ok")):
            if not opened.finished(sample_id):
                opened.add(sample_id, rows_of(sample_id) if status == "ok" else (), status=status, reason=status)
                told.append(sample_id)
        opened.finish("abcd")


@pytest.mark.parametrize("once", [True, False], ids=["one call fails", "all calls fail from there on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_call_costs_nothing_that_was_finished(tmp_path, monkeypatch, code, once):
    sweep_four(tmp_path / "whole", [])
    expected = read(tmp_path / "whole").table
    for n in range(500):
        folder, told = tmp_path / str(n) / "run", []
        with monkeypatch.context() as patched:
            calls = failing_from(patched, n, code, once)
            try:
                sweep_four(folder, told)
                error = None
            except RunError as raised:
                error = raised
        if len(calls) <= n:
            break
        assert error is not None or calls[n] in ("ftruncate", "mkdir"), (n, calls)  # the folder is there already
        if error is not None and code == errno.ENOSPC:
            assert "disk is full" in str(error), (n, calls[n], error)
        parts = {p: p.stat().st_ino for p in folder.glob("parts/*.parquet")}
        again = []
        sweep_four(folder, again)
        assert not set(told) & set(again) - {"b"}, (n, told, again)  # only what failed is tried again
        assert {p: p.stat().st_ino for p in parts} == parts, n
        assert read(folder).table.equals(expected), n
        assert [(r["id"], r["status"]) for r in read_records(folder)].count(("b", "failed")) == 1
        assert not list(folder.rglob("*.tmp")), n
    assert n > 40 and error is None  # every call has failed once, the last run had no call left to fail


def test_a_file_that_may_not_grow(tmp_path):
    """The system itself refuses to write: RLIMIT_FSIZE, as a full disk of this size."""
    code = """
import os, resource, signal, sys
from test_faults import sweep_four
from avflow.errors import RunError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in sys.argv[2:]:
    if os.fork() == 0:  # imports are paid for once; a limit is a process's own
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size),) * 2)
        try:
            sweep_four(os.path.join(sys.argv[1], size), [])
        except RunError as error:
            print(size, error, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
    sizes = ["10", "300", "3000"]
    told = subprocess.run([sys.executable, "-c", code, tmp_path, *sizes], env=ENV, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for size, said in zip(sizes, told.stdout.splitlines(), strict=True):
        folder = tmp_path / size
        assert said.startswith(f"{size} ") and "cannot write" in said, (size, told.stdout, told.stderr)
        sweep_four(folder, [])
        assert read(folder).table["prompt"].to_pylist() == ["a"] * 3 + ["d"] * 3


# kill -9

# Forked, so that imports and the model are paid for once: runs, killed after a random time, until one gets through.
KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import tiny_job
from avflow.runs.loop import run
from avflow.results import read
from avflow.runs.folder import RunFolder, read_records

folder, wanted = sys.argv[1], int(sys.argv[2])
ids = [f"s{n}" for n in range(8)] + ["broken"]
path = tiny_job.write(__import__("pathlib").Path(folder) / "samples.jsonl", ids)
model = tiny_job.job(path).load()
tiny_job.TinyJob.load = lambda self: model
run(tiny_job.job(path), f"{folder}/whole", quiet=True)
began = time.monotonic()
run(tiny_job.job(path), f"{folder}/second", quiet=True)
lasts = time.monotonic() - began
expected = read(f"{folder}/whole").table
rng, kills, number = random.Random(int(sys.argv[3])), 0, 0
until = began + float(sys.argv[4])
while kills < wanted and time.monotonic() < until:
    number += 1
    out, through, before = f"{folder}/{number}", False, {}
    while not through:
        child = os.fork()
        if child == 0:
            run(tiny_job.job(path), out, quiet=True)
            os._exit(0)
        time.sleep(rng.uniform(0, 0.8 * lasts))
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGKILL)
            through = os.waitpid(child, 0)[1] == 0
            kills += not through
        else:
            through = True
        parts = {e.name: e.inode() for e in os.scandir(f"{out}/parts")} if os.path.isdir(f"{out}/parts") else {}
        parts = {name: inode for name, inode in parts.items() if not name.startswith(".")}
        assert before.items() <= parts.items(), (number, before, parts)  # neither lost nor written again
        if before == parts:
            lasts *= 1.2  # it was measured while the machine had more to give: no run would get through
        before = parts
    assert read(out).table.equals(expected), number
    assert sorted(r["id"] for r in read_records(out)) == sorted(ids)
    assert not [f for _, _, fs in os.walk(out) for f in fs if f.endswith(".tmp")]
print("kills", kills)
"""


@pytest.mark.slow
def test_a_sweep_killed_at_random_times_ends_with_the_rows_of_one_that_was_not(tmp_path):
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), "20", "0", "60"]
    done = subprocess.run(arguments, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 5, done.stdout  # 20 where the machine is not busy with others, in 12 s


def with_workers(path, out):
    run(tiny_job.job(path, workers=2), out, quiet=True)


def workers_of(pid):
    """Processes whose parent is `pid` and that were spawned by multiprocessing."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"\nPPid:\t{pid}\n" in (entry / "status").read_text():
                if b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds workers in /proc")
def test_a_killed_run_takes_its_workers_along_and_is_resumed(tmp_path, warm, quick_workers):
    """The workers of the runs that are killed are spawned, as users' are."""
    ids = [f"slow{n}" for n in range(12)]
    path = tiny_job.write(tmp_path / "samples.jsonl", ids)
    for wanted in (1, 5):
        process = warm.Process(target=with_workers, args=(path, tmp_path / "run"))
        process.start()
        while len(list(tmp_path.glob("run/parts/*.parquet"))) < wanted:
            assert process.is_alive()
            time.sleep(0.05)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        process.kill()
        process.join()
        parts = {p: p.stat().st_ino for p in tmp_path.glob("run/parts/*.parquet")}
        until = time.monotonic() + 30
        while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers)
    with_workers(path, tmp_path / "run")
    assert {p: p.stat().st_ino for p in parts} == parts
    run(tiny_job.job(path), tmp_path / "alone", quiet=True)
    assert read(tmp_path / "run").table.equals(read(tmp_path / "alone").table)
    assert sorted(r["id"] for r in read_records(tmp_path / "run")) == sorted(ids)
