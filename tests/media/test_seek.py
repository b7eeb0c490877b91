"""Decoding from key frames gives the frames that decoding everything gives, bit for bit, and reads the file once."""

from __future__ import annotations

import contextlib
import os

import av
import numpy as np
import pytest
import torch
from clips import Clip
from demo_folder import clip_file
from recordings import write_recording

from avflow.media import container, frames
from avflow.media.audio import read_audio
from avflow.media.container import open_media
from avflow.media.video import read_video

CLIP = Clip(seconds=10.0)
RECORDINGS = {
    "b frames": ("a.mp4", {"codec": "libx264", "g": "30", "bf": "3"}),
    "pyramid": ("a.mkv", {"codec": "libx264", "g": "40", "x264-params": "bframes=5:b-pyramid=normal:ref=5"}),
    "open groups": ("a.ts", {"codec": "libx264", "g": "30", "x264-params": "open-gop=1:bframes=3"}),
    "refresh without key frames": ("a.mp4", {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=30"}),
    "cavlc": ("a.flv", {"codec": "libx264", "g": "30", "x264-params": "cabac=0:slices=4"}),
    "interlaced": ("a.ts", {"codec": "libx264", "g": "40", "flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "h265": ("a.mp4", {"codec": "libx265", "x265-params": "keyint=30:log-level=none"}),
    "mpeg2": ("a.mpg", {"codec": "mpeg2video", "g": "15", "bf": "2"}),
    "mpeg4": ("a.mp4", {"codec": "mpeg4", "g": "25", "bf": "2"}),
    "mpeg4 in avi": ("a.avi", {"codec": "mpeg4", "g": "25", "bf": "2"}),
    "motion jpeg": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "g": "30", "deadline": "realtime", "cpu-used": "8"}),
    "av1": ("a.mkv", {"codec": "libsvtav1", "g": "30", "preset": "12"}),
}
READS = [
    {"fps": 2.0},
    {"max_frames": 6},
    {"span": (8.0, None)},
    {"span": (3.1, 7.7), "fps": 5.0},
    {"choose": lambda total, seconds: [0, 3, total // 3, total // 2 + 1, total - 2, total - 1]},
]


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_same_frames_as_decoding_everything(tmp_path, monkeypatch, name):
    file, options = RECORDINGS[name]
    path = write_recording(CLIP, tmp_path / file, **options)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # or every test after this one takes the machine
    quick = [read_video(path, **how) for how in READS]
    with monkeypatch.context() as large:  # a file whose packets are not kept: they are sought, or read again
        large.setattr(container, "KEPT_BYTES", 1000)
        again = [read_video(path, **how) for how in READS]
    assert all(torch.equal(a.frames, b.frames) and a.times == b.times for a, b in zip(again, quick, strict=True))
    monkeypatch.setattr(frames, "_runs", lambda track, targets: [])
    for video, how in zip(quick, READS, strict=True):
        whole = read_video(path, **how)
        assert torch.equal(video.frames, whole.frames) and video.times == whole.times


def test_what_lies_between_is_not_decoded(tmp_path, monkeypatch):
    path = write_recording(CLIP, tmp_path / "a.mp4", codec="mpeg4", g="30")
    decoded = []
    frames_of = frames._frames_of

    def counted(stream, packets, run):
        for frame in frames_of(stream, packets, run):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(frames, "_frames_of", counted)
    assert len(read_video(path, span=(9.0, None)).frames) == 4
    assert len(decoded) <= 30  # of 300
    decoded.clear()
    read_video(path, choose=lambda total, seconds: [0, 150, 290])
    assert len(decoded) <= 1 + 1 + 21 + 3 * frames.MARGIN


def test_a_file_is_read_once_for_index_picture_and_sound(monkeypatch):
    path, opened = clip_file(Clip()), []
    av_open = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args) or av_open(*args, **kwargs))
    with open_media(path) as file:
        video = read_video(file)
        sound = read_audio(file, start=video.start)
    assert len(opened) == 1
    assert torch.equal(video.frames, read_video(path).frames)
    assert np.array_equal(sound, read_audio(path, start=video.start))


def test_packets_of_a_large_file_are_read_again(monkeypatch):
    path = clip_file(Clip())
    video, sound = read_video(path), read_audio(path)
    monkeypatch.setattr(container, "KEPT_BYTES", 1000)
    assert torch.equal(read_video(path).frames, video.frames) and np.array_equal(read_audio(path), sound)
    with open_media(path) as file:  # twice from one file, too
        assert all(torch.equal(read_video(file).frames, video.frames) for _ in range(2))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_packets_of_a_large_file_are_sought(tmp_path, monkeypatch, suffix):
    """Of ten seconds, the packets of the last one are read again, and decoding everything is not needed."""
    path = write_recording(CLIP, tmp_path / f"a{suffix}", codec="mpeg4", g="30")
    whole = read_video(path, span=(9.0, None))
    monkeypatch.setattr(container, "KEPT_BYTES", 1000)
    monkeypatch.setattr(frames, "_decode_all", None)
    read, opened = [], container._opened

    class Counted:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def demux(self, *streams):
            return (read.append(1) or packet for packet in self.file.demux(*streams))

    monkeypatch.setattr(
        container,
        "_opened",
        lambda path: contextlib.contextmanager(lambda: (Counted(f) for f in _each(opened(path))))(),
    )
    assert torch.equal(read_video(path, span=(9.0, None)).frames, whole.frames)
    assert 330 < len(read) < 345  # 301 for the index, which has an end of its own, and a second's


def _each(block):
    with block as one:
        yield one


def test_sound_is_decoded_no_further_than_it_is_wanted(monkeypatch):
    from avflow.media import audio

    path, count = clip_file(Clip(seconds=8.0)), []
    decoded = audio.decoded
    monkeypatch.setattr(audio, "decoded", lambda *args: (count.append(1) or frame for frame in decoded(*args)))
    begin = read_audio(path, seconds=1.0)
    assert len(count) < 60  # of 345 packets of 23 ms
    assert np.array_equal(begin, read_audio(path)[:16000])
