"""Samples prepared ahead of their turn: order, bounds, errors and the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from clips import Clip
from demo_folder import clip_file, model

import avflow
from avflow.data.ahead import ahead
from avflow.errors import InputError, MediaError

STOPPED = """
import sys, time, torch
from avflow.data.ahead import ahead

def make(n):
    begun = time.monotonic()
    while n and time.monotonic() - begun < 0.5:
        torch.nn.functional.interpolate(torch.rand(1, 3, 64, 64), size=32, mode="bicubic")
    return n

for n in ahead(make, range(3)):
    sys.exit(130)
"""
ASK = {"question": "Which?", "options": ["red", "blue"], "answer": "red"}


def sample(number: int, path=None) -> avflow.Sample:
    return avflow.Sample(id=str(number), video=str(path or clip_file(Clip())), **ASK)


def test_in_order_and_no_further_than_asked():
    begun = []

    def make(n):
        begun.append(n)
        time.sleep(0.02 * (n % 3 == 0))  # the first of three is the last to be ready
        return n * n

    squares = ahead(make, range(20), threads=3)
    for n in range(5):
        assert next(squares) == n * n
        time.sleep(0.05)
        assert len(begun) == n + 4  # the one that is used, and three
    assert list(squares) == [n * n for n in range(5, 20)]


def test_several_at_once():
    meet = threading.Barrier(4, timeout=60)  # passes only if four are made at one time
    assert list(ahead(lambda n: meet.wait() >= 0, range(8), threads=4)) == [True] * 8


def test_an_error_is_raised_at_its_turn():
    made = ahead(lambda n: 1 // (n - 2), range(5), threads=4)
    assert next(made) == -1 and next(made) == -1
    with pytest.raises(ZeroDivisionError):
        next(made)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, None])
def test_nothing_is_waited_for_at_the_end(ending):
    hold, begun = threading.Event(), []

    def make(n):
        begun.append(n)
        if n:
            hold.wait(60)
        return n

    made = ahead(make, range(100), threads=2)
    next(made)
    at = time.monotonic()
    if ending is None:
        made.close()
    else:
        with pytest.raises(ending):
            made.throw(ending)
    assert time.monotonic() - at < 30  # a busy machine may be slow, but what was begun takes 60
    hold.set()
    time.sleep(0.1)
    assert len(begun) <= 3
    assert not any(t.name == "avflow-ahead" and t.is_alive() for t in threading.enumerate())


def test_a_program_that_is_stopped_ends_by_itself():
    """Python ends daemon threads where they stand: within torch's code that was SIGABRT."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_sweep_is_the_same_with_threads(tmp_path):
    samples = [sample(n) for n in range(4)]
    plain = avflow.sweep(model(), samples, "video->question", layers=[1], select="all")
    quick = avflow.sweep(model(), iter(samples), "video->question", layers=[1], select="all", decode_threads=3)
    assert quick.table.equals(plain.table) and "failed" not in plain.meta
    with pytest.raises(InputError, match="decode_threads"):
        avflow.sweep(model(), samples, "video->question", decode_threads=-1)
    with pytest.raises(InputError, match="decode_threads"):
        avflow.sweep(model(), samples, "video->question", decode_threads=10**8)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_sample_is_recorded_or_ends_the_sweep(tmp_path, threads):
    (tmp_path / "bad.mp4").write_text("no video")
    samples = [sample(0), sample(1, tmp_path / "bad.mp4"), sample(2)]
    ask = {"knockouts": "video->question", "layers": [1], "select": "all", "decode_threads": threads}
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        avflow.sweep(model(), samples, **ask)
    found = avflow.sweep(model(), samples, on_error="record", **ask)
    assert found.table.column("prompt").to_pylist() == ["0", "2"]
    assert list(found.meta["failed"]) == ["1"] and "bad.mp4 cannot be opened" in found.meta["failed"]["1"]
    none = avflow.sweep(model(), samples[1:2], on_error="record", **ask)
    assert none.table.num_rows == 0 and list(none.meta["failed"]) == ["1"]
    with pytest.raises(InputError, match="on_error.*'ignore'.*raise.*record"):
        avflow.sweep(model(), samples, on_error="ignore", **ask)


def test_a_prompt_that_cannot_be_measured_is_recorded(monkeypatch):
    """Also where it shares its walk with others."""
    from avflow.experiments import sweep as module

    swept = module._sweep

    def broken(model, batch, *rest):
        if any(one.prompt.id == "1" for one in batch):
            raise avflow.errors.NumericError("NaN in the run")
        return swept(model, batch, *rest)

    monkeypatch.setattr(module, "_sweep", broken)
    ask = {"knockouts": "video->question", "layers": [1], "select": "all"}
    found = avflow.sweep(model(), [sample(n) for n in range(3)], on_error="record", **ask)
    assert found.table.column("prompt").to_pylist() == ["0", "2"] and found.meta["failed"] == {"1": "NaN in the run"}
