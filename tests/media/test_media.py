"""Real files in, frames and sound out: right pictures at the right times, right tone, and an error for each defect."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import COLORS, Clip, draw, shape_centre, tone, write_clip, write_wav
from demo_folder import clip_file

from avflow.errors import InputError, MediaError
from avflow.media.audio import align_sound, read_audio
from avflow.media.images import resize
from avflow.media.video import frame_count, read_video
from avflow.synthetic.files import SAMPLE_RATE

CLIP = Clip(color="blue", pitch="high")


def peak(sound: np.ndarray) -> float:
    """Loudest frequency in Hz."""
    return float(np.abs(np.fft.rfft(sound)).argmax() * 16000 / len(sound))


def assert_frames_show(clip: Clip, frames: torch.Tensor, times: list[float]) -> None:
    for frame, t in zip(frames, times, strict=True):
        x, y = shape_centre(clip, t)
        seen = frame[:, int(y), int(x)].tolist()
        assert np.abs(np.subtract(seen, COLORS[clip.color])).max() <= 24, (t, seen)
        error = (frame.permute(1, 2, 0).numpy().astype(int) - draw(clip, t)).__abs__().mean()
        assert error < 8, (t, error)  # a neighbour in time, one frame off, is at 10 and more


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_frames_and_sound_of_every_container(suffix):
    path = clip_file(CLIP, suffix)
    video = read_video(path)
    assert video.frames.shape == (8, 3, 84, 112) and video.frames.dtype == torch.uint8
    assert video.duration == pytest.approx(4.0, abs=2e-3) and video.seconds_per_frame == video.duration / 8
    # 48 frames at 12 per second; frame numbers 0, 6.71, 13.43 .. 47, rounded
    assert [round(t * 12) for t in video.times] == [0, 7, 13, 20, 27, 34, 40, 47] and video.has_sound
    assert_frames_show(CLIP, video.frames, video.times)
    sound, changed = align_sound(read_audio(path, start=video.start), video.duration)
    assert sound.shape == (round(video.duration * 16000),) and sound.dtype == np.float32
    assert peak(sound) == pytest.approx(1760, abs=1)
    # in time, too, to 5 ms: mkv and webm state times in whole ms, and older FFmpegs count its codec's delay in
    late = [np.corrcoef(np.roll(sound[:60000], lag), tone(CLIP, 16000)[:60000])[0, 1] for lag in range(-80, 81)]
    assert max(late) > 0.99
    assert changed in ("", "cut 0.02 s") or changed.startswith("padded 0.0")


def test_frame_counts_follow_the_published_recipe():
    assert frame_count(4.0, 48) == 8 and frame_count(5.4, 160) == 10 and frame_count(3.9999999, 120) == 8
    assert frame_count(0.5, 15) == 4  # never below min_frames ..
    assert frame_count(0.5, 3) == 2  # .. unless there are fewer
    assert frame_count(10_000, 250_000) == 768 and frame_count(60, 1800, fps=1, max_frames=33) == 32
    assert frame_count(4.0, 48, fps=1.0) == 4


def test_fps_and_limits_are_obeyed_and_spread_evenly():
    path = clip_file(CLIP)
    assert len(read_video(path, fps=4).frames) == 16
    assert read_video(path, fps=0.5).seconds_per_frame == pytest.approx(1.0)  # min_frames 4
    few = read_video(path, fps=2, max_frames=4)
    assert [round(t * 12) for t in few.times] == [0, 16, 31, 47] and few.seconds_per_frame == pytest.approx(1.0)
    assert len(read_video(path, fps=100).frames) == 48
    for bad in ({"fps": 0}, {"fps": float("nan")}, {"min_frames": 1}, {"min_frames": 8, "max_frames": 4}):
        with pytest.raises(InputError):
            read_video(path, **bad)


def test_frames_are_resized_as_they_are_decoded():
    path = clip_file(CLIP)
    asked = []

    def size(*shape):
        asked.append(shape)
        return 56, 84

    small = read_video(path, size=size)
    assert small.frames.shape == (8, 3, 56, 84) and asked == [(8, 84, 112)]
    assert torch.equal(small.frames, resize(read_video(path).frames, 56, 84))


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    """12 frames a second, then 2: sampled by number, most pictures would come from the first two seconds."""
    import av

    times = [i / 12 for i in range(24)] + [2 + i / 2 for i in range(8)]
    clip = Clip(seconds=6.0)
    with av.open(str(tmp_path / "v.mkv"), "w") as out:
        stream = out.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.options = 112, 84, "yuv420p", {"qscale": "2"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 12)
        for t in times:
            frame = av.VideoFrame.from_ndarray(draw(clip, t), format="rgb24")
            frame.pts, frame.time_base = round(t * 12), Fraction(1, 12)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    video = read_video(tmp_path / "v.mkv", fps=2)
    assert np.abs(np.array(video.times) - np.linspace(0, 5.5, len(video.times))).max() <= 0.26
    assert_frames_show(clip, video.frames, video.times)


def test_upright_frames_of_a_rotated_video(tmp_path):
    """Phones store a turn in the track header: here a quarter turn is written over the identity matrix."""
    data = bytearray(clip_file(CLIP).read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version, times and ids, reserved, layer .. volume
    identity = b"".join(v.to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    assert data[at : at + 36] == identity
    turned = (0, 1 << 16, 0, 0xFFFF0000, 0, 0, 84 << 16, 0, 1 << 30)  # shown clockwise by 90 degrees
    data[at : at + 36] = b"".join(v.to_bytes(4, "big") for v in turned)
    (tmp_path / "r.mp4").write_bytes(data)
    frames = read_video(tmp_path / "r.mp4").frames
    assert frames.shape == (8, 3, 112, 84)
    assert torch.equal(frames, torch.rot90(read_video(clip_file(CLIP)).frames, -1, dims=(2, 3)))


@pytest.mark.parametrize("suffix, codec", [(".flac", "flac"), (".mp3", "libmp3lame"), (".m4a", "aac")])
def test_sound_files_in_stereo_are_averaged_and_resampled(tmp_path, suffix, codec):
    import av

    path = tmp_path / f"a{suffix}"
    left = tone(Clip(pitch="middle"))
    stereo = np.stack([left, np.zeros_like(left)])
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=SAMPLE_RATE)
        stream.layout = "stereo"
        if stream.codec_context.format is None or codec != "flac":
            stream.bit_rate = 192_000
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=SAMPLE_RATE, frame_size=1024)
        frame = av.AudioFrame.from_ndarray(stereo, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    sound = read_audio(path)
    assert len(sound) == pytest.approx(64000, abs=1600) and peak(sound) == pytest.approx(660, abs=1)
    assert np.abs(sound[8000:56000]).max() == pytest.approx(0.2, abs=0.01)  # (0.4 + 0) / 2


def test_wav_is_read_exactly(tmp_path):
    sound = read_audio(write_wav(CLIP, tmp_path / "a.wav"))
    assert sound.shape == (64000,)
    assert np.abs(sound - tone(CLIP, 16000)).max() < 1e-4


def test_sound_stands_on_the_videos_clock(tmp_path):
    path = write_wav(CLIP, tmp_path / "a.wav")
    late, early = read_audio(path, start=-0.5), read_audio(path, start=0.25)
    whole = read_audio(path)
    assert len(late) == 72000 and not late[:8000].any() and np.array_equal(late[8000:], whole)
    assert len(early) == 60000 and np.array_equal(early, whole[4000:])


def test_small_differences_of_length_are_mended_and_large_ones_refused():
    sound = np.ones(64000, np.float32)
    assert align_sound(sound, 4.0)[1] == ""
    cut, what = align_sound(sound, 3.9)
    assert len(cut) == 62400 and what == "cut 0.10 s"
    padded, what = align_sound(sound, 4.4)
    assert len(padded) == 70400 and padded[:64000].all() and not padded[64000:].any() and what == "padded 0.40 s"
    kept, what = align_sound(sound, 3.4)  # it goes on after the last frame, as published
    assert len(kept) == 64000 and what == "0.60 s after the video kept"
    padded, what = align_sound(sound, 9.0)
    assert len(padded) == 144000 and not padded[64000:].any() and what == "padded 5.00 s"
    for duration in (3.4, 4.6):
        with pytest.raises(MediaError, match=rf"lasts 4.00 s and its video {duration:.2f} s.*use_audio_in_video=False"):
            align_sound(sound, duration, "x.mp4", strict=True)
    assert align_sound(np.ones(16000 * 97, np.float32), 100.0)[1] == "padded 3.00 s"  # within 5 %


def test_missing_and_foreign_files(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for read in (read_video, read_audio):
        with pytest.raises(MediaError, match="no such file: .*gone.mp4"):
            read(tmp_path / "gone.mp4")
        with pytest.raises(MediaError, match="is not a file"):
            read(tmp_path)
        with pytest.raises(MediaError, match="download it first"):
            read("https://example.com/a.mp4")
        for name in ("text.mp4", "empty.mp4"):
            with pytest.raises(MediaError, match=f"{name} cannot be opened as media"):
                read(tmp_path / name)


def test_a_name_that_looks_like_a_protocol(tmp_path, monkeypatch):
    """A file beside the caller, named as FFmpeg names an address."""
    monkeypatch.chdir(tmp_path)
    file = clip_file(Clip())
    (tmp_path / "a:b.mp4").write_bytes(file.read_bytes())
    assert torch.equal(read_video("a:b.mp4").frames, read_video(file).frames)
    assert np.array_equal(read_audio("a:b.mp4"), read_audio(file))


def test_tracks_that_are_not_there(tmp_path):
    silent = clip_file(CLIP, sound=False)
    assert not read_video(silent).has_sound
    with pytest.raises(MediaError, match="has no sound track.*use_audio_in_video=False"):
        read_audio(silent)
    wav = write_wav(CLIP, tmp_path / "a.wav")
    with pytest.raises(MediaError, match="has no video stream"):
        read_video(wav)
    empty = write_wav(Clip(seconds=0), tmp_path / "empty.wav")
    with pytest.raises(MediaError, match="its sound track is empty"):
        read_audio(empty)
    still = write_clip(Clip(seconds=1 / 12), tmp_path / "still.mp4", sound=False)
    with pytest.raises(MediaError, match=r"1 frame\(s\).*image="):
        read_video(still)


def test_a_sound_track_without_packets_counts_as_none(tmp_path):
    path = write_clip(CLIP, tmp_path / "e.mkv", sound=np.zeros(0, np.float32))
    assert not read_video(path).has_sound
    with pytest.raises(MediaError, match="sound track is empty"):
        read_audio(path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_truncated_files(tmp_path, suffix, share):
    data = clip_file(CLIP, suffix).read_bytes()
    path = tmp_path / f"t{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match="truncated|cannot be opened"):
        read_video(path)


def test_a_truncated_file_with_its_index_in_front(tmp_path):
    """The usual form on the web: it opens well, and ends early."""
    import av

    with av.open(str(clip_file(CLIP))) as source:
        with av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as out:
            streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    out.mux(packet)
    data = (tmp_path / "front.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    for read in (read_video, read_audio):
        with pytest.raises(MediaError, match=r"truncated: it holds 2\.\d\d s, its header states 4.00 s"):
            read(tmp_path / "cut.mp4")


def test_damage_inside_a_file_is_found(tmp_path):
    data = clip_file(CLIP).read_bytes()
    noise = random.Random(0)
    broken = bytearray(data)
    for at in range(len(data) // 5, len(data) * 4 // 5, 1500):  # in every stretch of either track
        broken[at : at + 300] = noise.randbytes(300)
    (tmp_path / "d.mp4").write_bytes(broken)
    with pytest.raises(MediaError, match="video (cannot be decoded after|is damaged at)"):
        read_video(tmp_path / "d.mp4")
    with pytest.raises(MediaError, match="audio cannot be decoded after"):
        read_audio(tmp_path / "d.mp4")


def test_a_recipe_may_choose_the_frames_itself(tmp_path):
    clip = Clip()  # 48 frames, 12 a second
    path = write_clip(clip, tmp_path / "c.mp4")
    told = []

    def choose(total, seconds):
        told.append((total, seconds))
        return [0, 5, 6, 47]

    video = read_video(path, fps=-1.0, choose=choose)  # its own rule: fps and limits are not looked at
    assert told == [(48, pytest.approx(4.0))]
    assert video.times == pytest.approx([0, 5 / 12, 0.5, 47 / 12]) and video.seconds_per_frame == pytest.approx(1.0)
    whole = read_video(path, fps=12.0)
    assert torch.equal(video.frames, whole.frames[[0, 5, 6, 47]])


def test_a_part_of_a_video(tmp_path):
    """The same as a file that holds only this part: frames of its time, counts of its length."""
    path = clip_file(CLIP)  # 4 s
    part = read_video(path, fps=2.0, span=(1.0, 3.0))
    assert len(part.frames) == 4 and part.duration == pytest.approx(2.0, abs=1 / CLIP.fps)
    assert part.start == pytest.approx(read_video(path).start + 1.0, abs=1 / CLIP.fps)
    assert_frames_show(CLIP, part.frames, [t + 1.0 for t in part.times])
    assert read_video(path, fps=2.0, span=(2.0, None)).duration == pytest.approx(2.0, abs=1 / CLIP.fps)
    assert read_video(path, fps=2.0, span=(None, 3.0)).duration == pytest.approx(3.0, abs=1 / CLIP.fps)
    whole = read_video(path, fps=2.0)
    assert torch.equal(read_video(path, fps=2.0, span=(0.0, 99.0)).frames, whole.frames)
    with pytest.raises(MediaError, match="no frame from 9.00 s to its end: it lasts 4.0"):
        read_video(path, span=(9.0, None))
    with pytest.raises(MediaError, match="1 frame"):
        read_video(path, span=(1.0, 1.05))


def test_sound_may_end_early():
    path = clip_file(CLIP)
    whole = read_audio(path)
    assert np.array_equal(read_audio(path, seconds=1.5), whole[:24000]) and len(read_audio(path, seconds=99)) == len(
        whole
    )
