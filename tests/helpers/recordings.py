"""Video files of unusual make: any codec, container, frame times and tracks. What they show is a `clips.Clip`."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import Clip, draw
from priority import ordinary_priority

RATE = 30


def write_recording(
    clip: Clip,
    path: Path,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    start: float = 0.0,
    container: str | None = None,
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """The clip at `times` (default: 30 a second), which begin at `start` on the container's clock; no sound."""
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    tick = Fraction(1, RATE)
    with ordinary_priority(), av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, pixels
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1  # x264 in several threads, on a busy machine, is not always the same
        for t in np.arange(round(clip.seconds * RATE)) / RATE if times is None else times:
            frame = av.VideoFrame.from_ndarray(draw(clip, t), format="rgb24")
            frame.pts, frame.time_base = round((t + start) * RATE), tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_tones(path: Path, tones: Sequence[float], default: int, seconds: float = 2.0, rate: int = 16000) -> Path:
    """A sound track in mono for each frequency in Hz; the one of number `default` is marked as such."""
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as out:
        streams = []
        for number in range(len(tones)):
            stream = out.add_stream("aac", rate=rate)
            stream.layout = "mono"
            stream.disposition = Disposition.default if number == default else Disposition(0)
            streams.append(stream)
        for stream, hertz in zip(streams, tones, strict=True):
            wave = (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
            for at in range(0, len(wave) - 1023, 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def write_channels(path: Path, signals: Sequence[np.ndarray], rate: int = 16000) -> Path:
    """A WAV file of 16 bits with a channel for each of the signals, which are within -1..1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(signals))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack(signals, 1) * 32767).round().astype("<i2").tobytes())
    return path
