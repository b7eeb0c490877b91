"""Frames and sound as a real media file (H.264 + AAC where PyAV has libx264)."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from av.audio import AudioStream
    from av.container import OutputContainer

SAMPLE_RATE = 44100  # of the sound track, as in most files in the wild; avflow.media resamples to 16 kHz


def write_media(path: str | Path, frames: Iterable[np.ndarray], fps: int, sound: np.ndarray | None) -> Path:
    """Write RGB frames, uint8 [H, W, 3], sides even; sound: float32 [samples] at SAMPLE_RATE, None for no track.

    Raises:
        InputError: no frame.
    """
    import av

    path, frames = Path(path), iter(frames)
    if (first := next(frames, None)) is None:
        raise InputError(f"cannot write {path}: a video has at least one frame, none is given")
    webm = path.suffix == ".webm"
    with av.open(str(path), "w") as out:
        video = out.add_stream(_video_codec(webm), rate=fps)
        video.height, video.width = first.shape[:2]
        video.pix_fmt = "yuv420p"
        video.time_base = Fraction(1, fps)
        video.options = _video_options(video.codec.name)
        video.thread_count = 1  # one thread: the same bytes on every machine
        audio = None if sound is None else out.add_stream(*_audio_codec(webm))
        if audio is not None:
            audio.layout, audio.bit_rate = "mono", 128_000
        for i, pixels in enumerate(chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None and sound is not None:
            _write_sound(out, audio, sound)
    return path


def _write_sound(out: OutputContainer, stream: AudioStream, sound: np.ndarray) -> None:
    import av

    if sound.size == 0:
        return
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate, frame_size=1024)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, dtype=np.float32)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def _video_codec(webm: bool) -> Literal["libvpx-vp9", "libx264", "mpeg4"]:
    import av

    if webm:
        return "libvpx-vp9"
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _video_options(codec: str) -> dict[str, str]:
    if codec == "libx264":
        return {"preset": "veryfast", "crf": "16"}
    if codec == "libvpx-vp9":
        return {"cpu-used": "8", "deadline": "realtime"}
    return {"qscale": "3"}


def _audio_codec(webm: bool) -> tuple[Literal["libopus", "aac"], int]:
    return ("libopus", 48000) if webm else ("aac", SAMPLE_RATE)
