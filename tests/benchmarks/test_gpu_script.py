"""benchmarks/gpu.sh, which has a quarter of an hour on a GPU and must not fail for a typing error there."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
# A Python that notes what it is asked to run; a sanitizer that runs its command.
PYTHON = """#!/usr/bin/env bash
printf '%s\\t' "$@" >>"$CALLS"; echo >>"$CALLS"
[[ -z ${FAILS:-} || "$*" != *"$FAILS"* ]] || exit 7
for word; do [[ $word != *.json ]] || echo '{}' >"$word"; done
"""
SANITIZER = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do [[ $1 == --error* ]] || tool="$tool $2"; shift 2; done
exec "$@"
"""


def dry(*stages: str, folder: Path) -> dict[str, tuple[int, list[str]]]:
    """{stage: (seconds, words of its command)}"""
    command = ["bash", SCRIPT, "--dry-run", folder, *stages]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in shown.splitlines():
        name, seconds, told = line.split("\t")
        found[name] = int(seconds), shlex.split(told.replace("'", '"') if name != "doctor" else "doctor")
    return found


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    found = dry(folder=folder)
    assert list(folder.iterdir()) == []  # nothing ran
    return found


@pytest.fixture
def machine(tmp_path):
    """A bare machine on which every command ends at once; -> (run the script, what its Python was asked to run)."""
    (tmp_path / "bin").mkdir()
    for name, text in (("python3", PYTHON), ("compute-sanitizer", SANITIZER)):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "CALLS": str(calls), "HOME": str(tmp_path)}

    def run(*stages: str, **more: str) -> subprocess.CompletedProcess:
        calls.write_text("")
        command = ["bash", SCRIPT, tmp_path / "out", *stages]
        return subprocess.run(command, capture_output=True, text=True, env=environment | more)

    return run, lambda: [line.rstrip("\t").split("\t") for line in calls.read_text().splitlines()]


def test_two_calls_hold_everything(stages, tmp_path):
    """What is asked of a device: the kernels, sweeps in the media, eviction of both models, decoding, sanitizers."""
    halves = [dry(half, folder=tmp_path) for half in ("first", "second")]
    assert list(halves[0] | halves[1]) == list(stages) and not halves[0].keys() & halves[1].keys()
    wanted = set("build forms attention gather passes sweep towers evict decode profile tests patch".split())
    assert wanted | {"racecheck", "initcheck", "synccheck", "memcheck"} <= stages.keys()
    given = {name: " ".join(words) for name, (_, words) in stages.items()}
    assert "cuda/sweep" in given["sweep"] and "--shape 3b 7b --tokens 10240 16384" in given["sweep"]
    assert "--shape 3b 7b --tokens 8192 32768" in given["evict"]
    assert "cuda/evict" in given["decode"] and "--batch 8 1 32" in given["decode"]


def test_the_time_is_a_quarter_of_an_hour():
    """By the script's own words; a machine takes a minute or two to start and to be given back."""
    text = SCRIPT.read_text()
    halves = [int(n) for n in re.findall(r"AVFLOW_GPU_SECONDS=(\d+) benchmarks/gpu.sh OUTPUT_FOLDER \w+ ", text)]
    assert len(halves) == 2 and max(halves) <= 540 and sum(halves) + 120 <= 900


def test_the_limits_fit_the_time(tmp_path):
    """A stage that all before it let wait for their limits still begins; the last ones may wait for a third call."""
    text = SCRIPT.read_text()
    for half, seconds in re.findall(r"AVFLOW_GPU_SECONDS=(\d+) benchmarks/gpu.sh OUTPUT_FOLDER (\w+) ", text):
        found = dry(seconds, folder=tmp_path)
        limits = {name: limit for name, (limit, _) in found.items() if name not in ("tests", "patch")}
        assert sum(limits.values()) <= int(half), limits


def test_every_benchmark_takes_what_it_is_given(stages, scripts, monkeypatch):
    """Its own parser reads the options; limits are kept by the benchmark itself, with time to start and to end."""

    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def only(self, arguments=None, namespace=None):
        raise Parsed(parse(self, arguments, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only)
    names = set()
    for stage, (limit, words) in stages.items():
        if "benchmarks" not in words:
            continue
        name, *options = words[words.index("benchmarks") + 1 :]
        with pytest.raises(Parsed) as found:
            scripts(name).main(options)
        (args,) = found.value.args
        assert getattr(args, "seconds", 0) <= limit - 15, stage
        names.add(name)
    assert len(names) >= 8


def test_all_stages_run_and_are_summed_up(stages, machine, tmp_path):
    run, calls = machine
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {" ".join(words[:2]) for words in calls()} >= {
        "setup.py -q",
        "benchmarks cuda/evict",
        "benchmarks op/sanitize",
    }
    assert sum(words[:2] == ["benchmarks", "op/sanitize"] for words in calls()) == 4
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert all(f"{name}: passed" in summary for name in stages)
    made = {path.stem for path in (tmp_path / "out").glob("*.json")}
    assert made == set("forms attention gather passes sweep towers evict decode profile patch".split())


def test_a_stage_that_fails_stops_no_other(machine, tmp_path):
    run, calls = machine
    done = run("gather", "towers", "patch", FAILS="op/towers")
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "gather: passed" in summary and "towers: FAILED with 7" in summary and "patch: passed" in summary
    again = run("towers")  # the next call adds to what is there, and makes its own file anew
    assert again.returncode == 0 and "towers: FAILED with 7" in (tmp_path / "out" / "summary.txt").read_text()
    assert (tmp_path / "out" / "gather.json").exists()


def test_without_the_module_nothing_else_runs(machine, tmp_path):
    run, calls = machine
    assert run("first", FAILS="capabilities").returncode == 1
    assert "nothing else can run" in (tmp_path / "out" / "summary.txt").read_text()
    assert not any("benchmarks" in words[:1] for words in calls())


def test_no_time_is_said(machine, tmp_path):
    run, calls = machine
    assert run("gather", "towers", AVFLOW_GPU_SECONDS="0").returncode == 1
    assert "towers: NOT RUN, no time left" in (tmp_path / "out" / "summary.txt").read_text() and calls() == []


def test_the_tests_run_without_plugins(machine, tmp_path):
    """pytest-timeout and pytest-xdist may be missing; settings of a plugin that is missing must stop nothing."""
    run, calls = machine
    run("tests")
    assert any(words[-1].startswith("tests/") and "--timeout" in words for words in calls())
    run("tests", FAILS="pytest_timeout")
    (words,) = [words for words in calls() if "pytest" in words]
    assert "--timeout" not in words and "-n" not in words
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "--noconftest"]
    command += ["-p", "no:timeout", "-p", "no:xdist", "-p", "no:cacheprovider", *words[words.index("-o") :][:2]]
    done = subprocess.run([*command, tmp_path / "test_one.py"], capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
