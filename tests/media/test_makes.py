"""Codecs, containers, rates and shapes: every frame shows the number that its time says, sound is heard in time."""

from __future__ import annotations

import numpy as np
import pytest
from anchor_files import FILMS, RECORDINGS, number_of, tones

from avflow.media.audio import read_audio
from avflow.media.container import open_media
from avflow.media.video import read_video

TURNED_BACK = {(0, 1, -1, 0): 1, (-1, 0, 0, -1): 2, (0, -1, 1, 0): 3}  # quarters, against the display matrix
READS = {
    "a few": {"fps": 4.0},
    "all": {"fps": 100.0},
    "a part": {"span": (0.04, 1.37), "fps": 10.0},
    "by number": {"fps": 7.0, "timing": "published"},
    "a part by number": {"span": (0.04, 1.37), "fps": 10.0, "timing": "published"},
}


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("how", READS)
def test_the_frame_of_every_time(makes, name, how):
    path = makes.get(f"film/{name}") or pytest.skip("this FFmpeg has no encoder for it")
    video = read_video(path, **READS[how])
    with open_media(path) as file:
        times = file.index.times
    meant = [int(np.abs(times - video.start - t).argmin()) % 64 for t in video.times]
    frames = np.rot90(video.frames.numpy(), TURNED_BACK.get(FILMS[name].matrix, 0), (2, 3))
    assert [number_of(frame) for frame in frames] == meant
    assert len(meant) == len(video.frames) > 1


@pytest.mark.parametrize("name", RECORDINGS)
def test_sound_begins_when_it_begins(makes, name):
    """To a sample of 16 kHz; an mp3's first frame may hold 47 samples, of which a resampler gives nothing yet."""
    path = makes.get(f"sound/{name}") or pytest.skip("this FFmpeg has no encoder for it")
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[RECORDINGS[name].sound.layout]
    meant, sound = tones(channels, 16000, 2.0).mean(0), read_audio(path)
    like = {lag: np.corrcoef(np.roll(sound[:32000], lag), meant)[0, 1] for lag in range(-30, 31)}
    assert max(like, key=lambda lag: like[lag]) == 0 and like[0] > 0.99
