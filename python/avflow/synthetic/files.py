"""Short clips with a moving coloured shape and a tone, written as real mp4 files (H.264 + AAC where PyAV has libx264).

A clip is known in full from its `Clip`: at time t the shape stands at `shape_centre(clip, t)` in `COLORS[clip.color]`
on a plain background, and the sound is a sine of `PITCHES[clip.pitch]` Hz. Tests read colours and frequency back.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

COLORS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (40, 70, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
PITCHES = {"low": 220.0, "middle": 660.0, "high": 1760.0}  # Hz
DIRECTIONS = ("left to right", "right to left")
BACKGROUND = (24, 24, 28)
SAMPLE_RATE = 44100  # of the sound track, as in most files in the wild; avflow.media resamples to 16 kHz


@dataclass(frozen=True)
class Clip:
    """What a clip shows and sounds like. `width`, `height` in pixels (even); `fps`: frames per second in the file."""

    color: str = "red"
    shape: str = "circle"
    pitch: str = "middle"
    direction: str = "left to right"
    seconds: float = 4.0
    fps: int = 12
    width: int = 112
    height: int = 84

    @property
    def name(self) -> str:
        return f"{self.color}-{self.shape}-{self.pitch}-{self.direction.split()[0]}"

    @property
    def frames(self) -> int:
        return round(self.seconds * self.fps)


def shape_centre(clip: Clip, t: float) -> tuple[float, float]:
    """(x, y) in pixels of the shape's centre at time `t` in seconds: one crossing of the picture per clip."""
    share = min(max(t / clip.seconds, 0.0), 1.0)
    if clip.direction == "right to left":
        share = 1.0 - share
    margin = 0.2 * clip.width
    return margin + share * (clip.width - 2 * margin), clip.height / 2


def draw(clip: Clip, t: float) -> np.ndarray:
    """The picture at time `t` in seconds: uint8 [height, width, 3], RGB."""
    y, x = np.mgrid[0 : clip.height, 0 : clip.width]
    cx, cy = shape_centre(clip, t)
    r = 0.28 * clip.height
    if clip.shape == "circle":
        inside = (x - cx) ** 2 + (y - cy) ** 2 <= r * r
    elif clip.shape == "square":
        inside = (abs(x - cx) <= 0.9 * r) & (abs(y - cy) <= 0.9 * r)
    else:  # triangle, point up: its half width grows from 0 at the top to r at the foot
        inside = (abs(y - cy) <= r) & (abs(x - cx) <= (y - cy + r) / 2)
    return np.where(inside[..., None], np.uint8(COLORS[clip.color]), np.uint8(BACKGROUND))


def tone(clip: Clip, rate: int = SAMPLE_RATE) -> np.ndarray:
    """The sound: float32 [samples] in -0.4..0.4 with 20 ms fades, so that the codec sees no click."""
    t = np.arange(round(clip.seconds * rate)) / rate
    fade = np.clip(np.minimum(t, clip.seconds - t) / 0.02, 0.0, 1.0)
    return (0.4 * fade * np.sin(2 * np.pi * PITCHES[clip.pitch] * t)).astype(np.float32)


def write_clip(clip: Clip, path, sound: np.ndarray | None | bool = True) -> Path:
    """Write `clip` to `path`; the container follows the suffix (.mp4, .mkv, .webm).

    `sound`: True = the clip's own tone, False or None = no sound track, or float32 [samples] at SAMPLE_RATE.
    """
    sound = tone(clip) if sound is True else None if sound is False else sound
    return write_media(path, (draw(clip, i / clip.fps) for i in range(clip.frames)), clip.fps, sound)


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


def write_wav(clip: Clip, path, rate: int = 16000) -> Path:
    """The clip's tone alone, as 16-bit mono wav at `rate` Hz."""
    path = Path(path)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((tone(clip, rate) * 32767).astype("<i2").tobytes())
    return path


def write_png(clip: Clip, path, t: float = 0.0) -> Path:
    """The clip's picture at `t` seconds as an image file (format by suffix)."""
    from PIL import Image

    path = Path(path)
    Image.fromarray(draw(clip, t)).save(path)
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
