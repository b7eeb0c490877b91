"""Streams that are closed, full or without a reader: the run ends well with all its files, and its own exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_job
from command import avflow_

from avflow.progress import Progress
from avflow.runs.records import read_records
from avflow.streams import printable

HERE = Path(__file__).parent
FOLDERS = [HERE.parent / "helpers", *sys.path]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, FOLDERS)), "OMP_NUM_THREADS": "1"}
# The command, with a tiny random model in place of a checkpoint. Forked, so that imports are paid for once: the child
# arranges its descriptors as a shell would, and has the streams that Python makes of them at its start.
PROGRAM = """
import io, json, os, sys
import tiny_job
from avflow.cli import main
from avflow.report import write
from avflow.runs import loop, sweep_job

class Job(tiny_job.TinyJob):
    def load(self):
        print("loading", file=sys.stderr, flush=True)  # as transformers does
        return super().load()

def nobody_reads():
    reads, writes = os.pipe()
    os.close(reads)
    return writes

def stream(number):
    try:
        return io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), line_buffering=number == 2)
    except OSError:
        return None

sweep_job.SweepJob = Job
write.report_and_finding = lambda folder, **options: ([], "")
loop.run(Job("tiny", sys.argv[2]), sys.argv[3], quiet=True)  # what that imports is paid for once
for arguments, out, err, log in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        for number, kind in ((1, out), (2, err)):
            if kind == "closed":
                os.close(number)
            else:
                file = nobody_reads() if kind == "no reader" else os.open(kind or log, os.O_WRONLY | os.O_CREAT)
                os.dup2(file, number)
        sys.stdout, sys.stderr, sys.argv = stream(1), stream(2), ["avflow", *arguments]
        try:
            main.main()
        except SystemExit as ended:
            os._exit(ended.code)
        finally:
            os._exit(99)
    print(os.WEXITSTATUS(os.waitpid(child, 0)[1]), flush=True)
"""
KINDS = ("closed", "no reader", "/dev/full")
CASES = [(kind, None) for kind in KINDS] + [(None, kind) for kind in KINDS] + [(kind, kind) for kind in KINDS]


def run_all(folder, cases):
    """The exit codes of (arguments of avflow, kind of stdout, kind of stderr, file for what is printed)."""
    first = tiny_job.write(folder / "first.jsonl", ["s1"])
    command = [sys.executable, "-c", PROGRAM, json.dumps(cases), str(first), str(folder / "first")]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(map(int, done.stdout.split()))


def sweep(samples, out, *more):
    options = ("--knockouts", "video->question", "--window", "3", "--select", "all", *more)
    return ["sweep", "tiny", str(samples), "--out", str(out), *options]


def test_a_run_ends_well_whatever_becomes_of_its_streams(tmp_path):
    good = tiny_job.write(tmp_path / "good.jsonl", ["s1", "s22"])
    cases = [(sweep(good, tmp_path / str(n)), *kinds, str(tmp_path / f"{n}.log")) for n, kinds in enumerate(CASES)]
    codes = run_all(tmp_path, cases)
    for n, (kinds, code) in enumerate(zip(CASES, codes, strict=True)):
        told = (tmp_path / f"{n}.log").read_text() if None in kinds else ""
        assert code == 0 and "Traceback" not in told, (kinds, code, told)
        assert [r["status"] for r in read_records(tmp_path / str(n))] == ["ok"] * 2, kinds
        assert {"rows.parquet", "summary.json"} <= {p.name for p in (tmp_path / str(n)).iterdir()}, kinds
        full = "error: cannot write the output: No space left on device" in told
        assert full == (kinds == ("/dev/full", None)), (kinds, told)


def test_failed_samples_and_refused_commands_keep_their_codes(tmp_path):
    bad = tiny_job.write(tmp_path / "bad.jsonl", ["s1", "broken"])
    cases = [(sweep(bad, tmp_path / "run", *more), kind, kind) for kind in KINDS for more in ((), ("--window", "9"))]
    assert run_all(tmp_path, [(*case, "") for case in cases]) == [1, 2] * 3


@pytest.mark.parametrize("redirection, code", [("> /dev/full", 2), ("| head -0", 0), ("2>&-", 0), (">&-", 0)])
def test_a_command_that_only_prints_fails_where_it_cannot(redirection, code):
    command = f"set -o pipefail; {sys.executable} -m avflow.cli.main --version {redirection}"
    done = subprocess.run(["bash", "-c", command], env=ENV, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr == ("error: cannot write the output: No space left on device\n" if code else "")


def test_a_file_that_is_opened_does_not_become_stderr(tmp_path):
    """With descriptor 2 closed the next file would get that number, and libraries would print into it."""
    code = "import os; from avflow.streams import tolerant_streams\n"
    code += f"with tolerant_streams(): f = open('{tmp_path}/x', 'w'); os.write(2, b'noise'); assert f.fileno() > 2"
    command = ["bash", "-c", f'{sys.executable} -c "$CODE" 2>&-']
    assert subprocess.run(command, env={**ENV, "CODE": code}).returncode == 0
    assert (tmp_path / "x").read_bytes() == b""


class Gone:
    encoding = "utf-8"

    def write(self, text=""):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write

    def isatty(self):
        return False


@pytest.mark.parametrize("stream", [None, Gone()], ids=["closed", "no reader"])
def test_a_bar_in_ones_own_program_needs_no_stderr(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(3) as bar:
        bar.begin(1)(0.5)
        bar.write("a line")
        bar.finish()


# What a file puts into an id, a reason or a name

ESCAPES = re.compile("\x1b(?!\\[A)")  # a bar within another one moves the cursor up


def test_control_characters_are_shown_as_escapes():
    assert printable("a\x1b[2Jb\nerror: c\u202ed\u2028\udc80") == r"a\x1b[2Jb\nerror: c\u202ed\u2028\udc80"
    assert printable("日本語\u3000ü 👩‍🔬 – naïve") == "日本語\u3000ü 👩‍🔬 – naïve"


def test_an_id_neither_forges_a_line_nor_steers_the_terminal(tmp_path):
    evil = "x\x1b[31m\nerror: all is lost"
    line = {"id": evil, "question": "?", "options": ["a", "b"], "answer": "A", "video": "none\x1b[2J.mp4"}
    (tmp_path / "s.jsonl").write_text(json.dumps(line) + "\n")
    done = avflow_("sweep", "tiny-omni", tmp_path / "s.jsonl", "--out", tmp_path / "run")
    assert done.exit_code == 1 and not ESCAPES.search(done.output) and "\nerror: all" not in done.output
    assert r"sample x\x1b[31m\nerror: all is lost failed: no such file" in done.stderr
    done = avflow_("sweep", "tiny-omni", tmp_path / "s.jsonl", "--dry-run")
    assert done.exit_code == 1 and not ESCAPES.search(done.output) and "\nerror: all" not in done.output
