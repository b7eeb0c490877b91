"""The bar moves within a sample, never backwards, and ends at the number of samples."""

import pytest
import tiny

import avflow
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
