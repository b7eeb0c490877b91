"""The bar moves within a sample, never backwards, and ends at the number of samples."""

import pytest
import tiny

import avflow
from avflow import progress
from avflow.progress import Progress


@pytest.mark.parametrize("select, memory", [("all", "1GB"), ("all", "2.2MB"), ("correct", "1GB")])
def test_layers_move_the_bar(omni, monkeypatch, select, memory):
    seen = []
    monkeypatch.setattr(Progress, "_show", lambda self, show=Progress._show: (show(self), seen.append(self._shown)))
    prompts = [tiny.av_prompt("interleaved", seed=1, id="a"), tiny.av_prompt("interleaved", seed=2, id="b")]
    avflow.sweep(omni, prompts, "av_video", window=2, select=select, memory=memory)
    assert seen == sorted(seen) and seen[-1] == 2
    assert len({round(s, 3) for s in seen}) >= 4


def test_the_line_tells_rate_and_time_left(capsys):
    with Progress(4, done=1) as bar:
        tick = bar.begin(2)
        tick(0.25)
        tick(0.75)
        tick(0.75)  # more than there is: a clean pass before the walk counts too
        bar.finish(2)
        bar.write("a line")
    text = capsys.readouterr().err
    assert "a line" in text and "3.0/4 samples" in text and "<" in text


def test_time_left_is_told_from_the_first_finished_sample_on(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress(10, done=2) as bar:
        clock[0] = 600.0  # the model loads
        tick = bar.begin(1)
        clock[0] = 601.0
        tick(0.001)
        assert "<?, ?sample/s]" in str(bar._bar)  # nobody knows yet
        clock[0] = 610.0
        bar.finish()
        assert "<01:10, 10.00s/sample]" in str(bar._bar)  # seven more
        bar.begin(1)(0.5)
        clock[0] = 615.0
        assert "<01:05, 10.00s/sample]" in str(bar._bar)


def test_a_run_by_workers_tells_time_left_too(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress(3) as bar:  # nothing is begun here
        clock[0] = 4.0
        bar.finish()
        assert "<00:08,  4.00s/sample]" in str(bar._bar)
