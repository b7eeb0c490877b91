"""Short clips with a moving coloured shape and a tone, written as real mp4 files (H.264 + AAC where PyAV has libx264).

A clip is known in full from its `Clip`: at time t the shape stands at `shape_centre(clip, t)` in `COLORS[clip.color]`
on a plain background, and the sound is a sine of `PITCHES[clip.pitch]` Hz. Tests read colours and frequency back.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avflow.synthetic.files import SAMPLE_RATE, write_media

COLORS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (40, 70, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
PITCHES = {"low": 220.0, "middle": 660.0, "high": 1760.0}  # Hz
DIRECTIONS = ("left to right", "right to left")
BACKGROUND = (24, 24, 28)


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
