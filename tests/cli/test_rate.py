"""What a run would take, in time; and a GPU that nobody asked for is named."""

import re
import time

import pytest
from command import avflow_

import avflow
import avflow_ext
from avflow.cli.options import as_time
from avflow.cli.rate import measured_rate
from avflow.synthetic import make_items, write_items

UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_items(make_items("heldout", 2, tasks=["color"]), tmp_path_factory.mktemp("clips"))


def test_a_dry_run_tells_the_time_to_within_an_order_of_magnitude(samples):
    dry = avflow_("sweep", "tiny-omni", samples, "--dry-run", "--knockouts", "after_media")
    assert dry.exit_code == 0, dry.output
    number, unit = re.search(r"about (\S+) (s|min|h|days) or somewhat more, at [\d,]+ GFLOP/s", dry.stdout).groups()
    model = avflow.load("tiny-omni")
    prompts = [model.prepare(sample) for sample in avflow.Sample.read_jsonl(samples)]
    seconds = []
    for _ in range(3):  # the first plans, and the machine is shared
        begun = time.process_time()
        avflow.sweep(model, prompts, "after_media", select="all")
        seconds.append(time.process_time() - begun)
    assert 1 / 30 < float(number) * UNITS[unit] / min(seconds) < 10


def test_the_rate_is_of_the_models_own_sizes(omni):
    assert 1e7 < measured_rate(omni, 200) < 1e14
    assert 1e7 < measured_rate(omni, 1) < 1e14 > measured_rate(omni, 10**9)  # rows are within bounds


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (3600, "60 min"),
        (36000, "10 h"),
        (1e6, "12 days"),
    ],
)
def test_times_are_in_two_digits(seconds, text):
    assert as_time(seconds) == text


@pytest.mark.parametrize(
    "path, given, told",
    [("cuda-sm80", [], True), ("cuda-sm80", ["--device", "cpu"], False), (None, [], False)],
)
def test_an_idle_gpu_is_named(monkeypatch, samples, tmp_path, path, given, told):
    there = avflow_ext.capabilities()
    cuda = {"path": path, "why": "", "runtime": "13.0", "archs": [], "devices": []}
    monkeypatch.setattr(avflow_ext, "capabilities", lambda: {**there, "cuda": cuda})
    commands = (
        ["sweep", "no-such-model", samples, "--dry-run"],
        ["look", "lens", "no-such-model", samples, "--out", tmp_path / "look"],
        ["plan", "no-such-model", samples, "--dry-run"],
        ["generate", "--model", "no-such-model", "--question", "?", "--video", samples.parent / "none.mp4"],
        ["bench", "no-such-model"],
    )
    for command in commands:
        result = avflow_(*command, *given)
        assert result.exit_code == 2
        assert ("--device cuda --dtype bfloat16" in result.stderr) == told, command
