"""Frames and sound as a real media file (H.264 + AAC where PyAV has libx264)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

SAMPLE_RATE = 44100  # of the sound track, as in most files in the wild; avflow.media resamples to 16 kHz


def write_media(path, frames, fps: int, sound: np.ndarray | None) -> Path:
    """Write RGB frames, uint8 [H, W, 3], sides even; sound: float32 [samples] at SAMPLE_RATE, None for no track."""
    import av

    path = Path(path)
    webm = path.suffix == ".webm"
    with av.open(str(path), "w") as out:
        video = audio = None
        for i, pixels in enumerate(frames):
            if video is None:
                video = out.add_stream(_video_codec(webm), rate=fps)
                video.height, video.width, video.pix_fmt = *pixels.shape[:2], "yuv420p"
                video.time_base = Fraction(1, fps)
                video.options = _video_options(video.codec.name)
                video.thread_count = 1  # one thread: the same bytes on every machine
                audio = None if sound is None else out.add_stream(*_audio_codec(webm))
                if audio is not None:
                    audio.layout, audio.bit_rate = "mono", 128_000
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            _write_sound(out, audio, sound)
    return path


def _write_sound(out, stream, sound: np.ndarray) -> None:
    import av

    if sound.size == 0:
        return
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate, frame_size=1024)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, dtype=np.float32)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def _video_codec(webm: bool) -> str:
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


def _audio_codec(webm: bool) -> tuple[str, int]:
    return ("libopus", 48000) if webm else ("aac", SAMPLE_RATE)
