"""Frames beside those of decord, which published pipelines read videos with (extra `anchors`; skipped without it)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from clips import Clip
from recordings import write_recording

from avflow.media.video import read_video

if importlib.util.find_spec("decord") is None:
    pytest.skip("the extra `anchors` is not installed", allow_module_level=True)

CLIP = Clip(seconds=6.0)
RECORDINGS = {
    "b frames": ("a.mp4", {"codec": "libx264", "g": "30", "bf": "3"}),
    "matroska": ("a.mkv", {"codec": "libx264", "g": "40", "bf": "2"}),
    "mpeg4": ("a.mp4", {"codec": "mpeg4", "g": "25"}),  # with B frames decord's seeking differs from its own reading
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "g": "30", "deadline": "realtime", "cpu-used": "8"}),
}


# In a process of its own: decord brings an FFmpeg whose symbols clash with PyAV's.
PROGRAM = """
import sys, decord, numpy as np
path, fps, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]
reader = decord.VideoReader(path)
count = int(min(max(len(reader) / reader.get_avg_fps() * fps, 4), 768, len(reader)) // 2 * 2)
numbers = np.linspace(0, len(reader) - 1, count).round().astype(int)
np.savez(out, numbers=numbers, frames=reader.get_batch(numbers).asnumpy())
"""


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("fps", [1.0, 2.0, 7.0])
def test_the_frames_of_the_published_rule(tmp_path, name, fps):
    file, options = RECORDINGS[name]
    path = write_recording(CLIP, tmp_path / file, **options)
    subprocess.run([sys.executable, "-c", PROGRAM, path, str(fps), tmp_path / "out.npz"], check=True)
    theirs = np.load(tmp_path / "out.npz")  # numbers [T], frames uint8 [T, H, W, 3]
    video = read_video(path, fps=fps)
    assert len(video.frames) == len(theirs["numbers"])
    assert [round(t * 30) for t in video.times] == theirs["numbers"].tolist()
    apart = np.abs(video.frames.permute(0, 2, 3, 1).numpy().astype(int) - theirs["frames"]).mean((1, 2, 3))
    assert apart.max() < 1.5  # of 255: its FFmpeg turns YUV into RGB a little otherwise; a frame off is 8 and more
