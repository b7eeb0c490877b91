"""Containers as recorders, phones and editors leave them: read as players do, or an error that says what is wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from clips import Clip
from demo_folder import clip_file
from recordings import write_recording, write_tones

from avflow.errors import MediaError
from avflow.media.audio import read_audio
from avflow.media.container import open_media
from avflow.media.video import read_video

CLIP = Clip(seconds=4.0, fps=30)
TS = 188  # bytes of a packet of an MPEG transport stream


def test_a_pause_before_frames_that_are_decoded_out_of_order(tmp_path):
    """The first frame stands for 18 s, then 2 s of B frames: an mp4's durations lie between decoding times."""
    times = [0.0, *(18 + np.arange(60) / 30)]
    video = read_video(write_recording(Clip(seconds=20.0), tmp_path / "v.mp4", times, bf="3"))
    assert video.duration == pytest.approx(20.0) and len(video.frames) == 40
    with open_media(tmp_path / "v.mp4") as file:
        assert file.index.video.end > 25  # what adding up packet by packet gives


def test_b_frames_in_an_avi_are_shown_in_order(tmp_path):
    """An AVI has decoding times only."""
    frames = read_video(write_recording(CLIP, tmp_path / "b.avi", bf="3")).frames
    same = read_video(write_recording(CLIP, tmp_path / "b.mkv", bf="3"))
    assert torch.equal(frames, same.frames) and len(frames) == 8


def test_an_avi_that_was_written_to_a_pipe(tmp_path):
    path = write_recording(CLIP, tmp_path / "p.avi", codec="mpeg4")
    data = bytearray(path.read_bytes())
    header = data.index(b"strh") + 8
    data[4:8] = b"\xff" * 4
    struct.pack_into("<I", data, header + 32, 46461)  # frames that the header states
    (tmp_path / "pipe.avi").write_bytes(data)
    assert read_video(tmp_path / "pipe.avi").duration == pytest.approx(4.0)
    struct.pack_into("<I", data, 4, len(data) - 8)  # a finished header is believed
    (tmp_path / "short.avi").write_bytes(data)
    with pytest.raises(MediaError, match="short.avi is truncated"):
        read_video(tmp_path / "short.avi")


def test_a_piece_of_a_longer_matroska_recording(tmp_path):
    """Its clock goes on from the piece before, and its header states where it ends on that clock."""
    video = read_video(write_recording(CLIP, tmp_path / "piece.mkv", start=8.0))
    assert (video.duration, video.start) == (pytest.approx(4.0, abs=2e-3), pytest.approx(8.0, abs=0.1))
    data = (tmp_path / "piece.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="truncated"):
        read_video(tmp_path / "cut.mkv")


def test_a_transport_stream_that_begins_between_key_frames(tmp_path):
    data = write_recording(CLIP, tmp_path / "whole.ts", g="30", bf="2", sc_threshold="0").read_bytes()
    whole = read_video(tmp_path / "whole.ts", fps=30)
    with open_media(tmp_path / "whole.ts") as file:
        keys = np.flatnonzero(file.index.video.keys)
        second = file.index.video.times[keys[1]]
    (tmp_path / "cut.ts").write_bytes(data[len(data) // TS // 10 * TS :])
    video = read_video(tmp_path / "cut.ts", fps=30)
    assert video.start == second and video.duration == pytest.approx(3.0)
    assert torch.equal(video.frames, whole.frames[-len(video.frames) :])


@pytest.mark.parametrize("later", [0.0, 60.0])
def test_transport_streams_that_were_joined(tmp_path, later):
    parts = [write_recording(CLIP, tmp_path / f"{at}.ts", start=at).read_bytes() for at in (5.0, later)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    with pytest.raises(MediaError, match=r"its clock jumps from \d+\.\d\d s to \d+\.\d\d s.*ffmpeg -i IN OUT.mp4"):
        read_video(tmp_path / "joined.ts")


def test_damage_that_the_container_knows_of(tmp_path):
    data = bytearray(write_recording(CLIP, tmp_path / "w.ts", g="15").read_bytes())
    at = len(data) // 2 // TS * TS
    data[at : at + 8 * TS] = bytes(8 * TS)
    (tmp_path / "d.ts").write_bytes(data)
    with pytest.raises(MediaError, match=r"d\.ts: its video is damaged at \d\.\d\d s"):
        read_video(tmp_path / "d.ts", max_frames=2, min_frames=2)  # though the frames that are wanted are not
    whole = read_video(tmp_path / "w.ts", span=(0.0, 1.0))  # nor does damage behind the part that is asked for matter
    assert torch.equal(read_video(tmp_path / "d.ts", span=(0.0, 1.0)).frames, whole.frames)


def test_the_default_sound_track_is_heard(tmp_path):
    for default, hertz in enumerate((400.0, 1000.0)):
        sound = read_audio(write_tones(tmp_path / f"{default}.mkv", (400.0, 1000.0), default))
        assert np.abs(np.fft.rfft(sound)).argmax() * 16000 / len(sound) == pytest.approx(hertz, abs=2)


ONE = 1 << 16
MATRICES = {  # a, b, c, d of the track header: a pixel at (x, y) is shown at (a x + c y, b x + d y)
    "mirrored": ((-1, 0, 0, 1), lambda x: x.flip(-1)),
    "upside down": ((1, 0, 0, -1), lambda x: x.flip(-2)),
    "half turn": ((-1, 0, 0, -1), lambda x: x.flip(-1).flip(-2)),
    "quarter turn": ((0, 1, -1, 0), lambda x: torch.rot90(x, -1, dims=(2, 3))),
    "other quarter turn": ((0, -1, 1, 0), lambda x: torch.rot90(x, 1, dims=(2, 3))),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(2, 3)),
    "transposed the other way": ((0, -1, -1, 0), lambda x: x.transpose(2, 3).flip(-1).flip(-2)),
}


def with_matrix(path, a, b, c, d):
    data = bytearray(clip_file(CLIP).read_bytes())
    at = data.index(b"tkhd") + 44  # version, times and ids, reserved, layer .. volume
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_and_mirrored_as_the_file_says(tmp_path, name):
    numbers, expected = MATRICES[name]
    frames = read_video(with_matrix(tmp_path / "t.mp4", *(n * ONE for n in numbers))).frames
    assert torch.equal(frames, expected(read_video(clip_file(CLIP)).frames))


def test_a_slanted_video_is_refused(tmp_path):
    part = round(ONE / 2**0.5)
    with pytest.raises(MediaError, match="turned by -?45 degrees, only quarters"):
        read_video(with_matrix(tmp_path / "t.mp4", part, part, -part, part))


def test_a_stream_without_times_is_refused(tmp_path):
    path = write_recording(CLIP, tmp_path / "raw.h264", container="h264")
    with pytest.raises(MediaError, match="states no times of its frames: put them into a container"):
        read_video(path)
