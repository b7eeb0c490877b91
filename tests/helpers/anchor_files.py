"""Small files of many makes, for comparisons with published readers. Every frame shows its number, so none is mistaken.

A file is made by a function of its path; `VIDEOS`, `SOUNDS` and `PICTURES` name them all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from priority import ordinary_priority

TICK = Fraction(1, 90000)


def numbered(n: int, width: int, height: int) -> np.ndarray:
    """Frame number n: uint8 [height, width, 3]. Six blocks, black or white, are its last bits on a coloured slope."""
    y, x = np.mgrid[0:height, 0:width]
    slope = np.stack([60 + 100 * x // width, 60 + 100 * y // height, np.full_like(x, 90)], -1)
    block = x * 6 // width
    bits = (n >> block) & 1
    inside = (y >= height // 4) & (y < 3 * height // 4)
    return np.where(inside[..., None], (30 + 190 * bits)[..., None], slope).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number, of 64, that a frame uint8 [3, height, width] shows."""
    height, width = frame.shape[1:]
    middles = frame[:, height // 2, [(2 * k + 1) * width // 12 for k in range(6)]].mean(0)
    return sum(1 << k for k, level in enumerate(middles) if level > 125)


def tones(channels: int, rate: int, seconds: float) -> np.ndarray:
    """A tone a channel, 300 Hz and up: float32 [channels, samples], with fades of 20 ms."""
    t = np.arange(round(seconds * rate)) / rate
    fade = np.clip(np.minimum(t, seconds - t) / 0.02, 0, 1)
    return np.stack([0.3 * fade * np.sin(2 * np.pi * (300 + 170 * c) * t) for c in range(channels)]).astype(np.float32)


@dataclass(frozen=True)
class Sound:
    """A sound track. start: seconds at which it begins on the container's clock."""

    codec: str = "aac"
    rate: int = 44100
    layout: str = "mono"
    seconds: float = 2.0
    start: float = 0.0
    format: str | None = None


@dataclass(frozen=True)
class Film:
    """A video track, and sounds. frames: how many at `rate`; None: for 2 s. times: seconds of the frames instead."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    rate: Fraction | int = 25
    width: int = 112
    height: int = 84
    frames: int | None = None
    times: Sequence[float] | None = None
    start: float = 0.0
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    sounds: tuple[Sound, ...] = ()
    default: int | None = None  # number of the sound that is marked as default
    matrix: tuple[int, int, int, int] | None = None  # a, b, c, d of an mp4's display matrix
    about: dict[str, Any] = field(default_factory=dict)  # attributes of the codec's context

    @property
    def codecs(self) -> list[str]:
        return [self.codec, *(sound.codec for sound in self.sounds)]

    def write(self, path: Path) -> None:
        import av

        count = round(2 * self.rate) if self.frames is None else self.frames
        times = np.arange(count) / float(self.rate) if self.times is None else self.times
        with ordinary_priority(), av.open(str(path), "w") as out:
            stream = out.add_stream(self.codec, rate=self.rate, options=dict(self.options))
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixels
            tick = TICK if self.times is not None or self.start else 1 / Fraction(self.rate)
            if self.codec not in ("mpeg2video", "mpeg4"):  # which know a list of rates, or 16 bits of ticks
                stream.codec_context.time_base = tick
            for name, value in self.about.items():
                setattr(stream.codec_context, name, value)
            heard = [_add_sound(out, one, n == self.default) for n, one in enumerate(self.sounds)]
            for n, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(numbered(n, self.width, self.height), format="rgb24")
                frame.time_base = tick
                frame.pts = round((time + self.start) / tick)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
            for one, track in zip(self.sounds, heard, strict=True):
                _encode(out, track, one)
        if self.matrix is not None:
            _turn(path, self.matrix)


def _add_sound(out: Any, sound: Sound, default: bool) -> Any:
    from av.stream import Disposition

    stream = out.add_stream(sound.codec, rate=sound.rate, layout=sound.layout)
    if sound.format is not None:
        stream.codec_context.format = sound.format
    stream.disposition = Disposition.default if default else Disposition(0)
    return stream


def _encode(out: Any, stream: Any, sound: Sound) -> None:
    import av

    context = stream.codec_context
    frame = av.AudioFrame.from_ndarray(
        tones(len(context.layout.channels), sound.rate, sound.seconds), format="fltp", layout=sound.layout
    )
    frame.sample_rate, frame.time_base, frame.pts = sound.rate, Fraction(1, sound.rate), round(sound.start * sound.rate)
    if not context.is_open:
        context.open()
    resampler = av.AudioResampler(context.format, sound.layout, sound.rate, frame_size=context.frame_size or 1024)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def _turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    data = bytearray(path.read_bytes())
    a, b, c, d = (n << 16 for n in matrix)
    at = data.index(b"tkhd") + 44  # version, times and ids, reserved, layer .. volume
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@dataclass(frozen=True)
class Recording:
    """A file of sound alone."""

    suffix: str
    sound: Sound

    @property
    def codecs(self) -> list[str]:
        return [self.sound.codec]

    def write(self, path: Path) -> None:
        import av

        with av.open(str(path), "w") as out:
            _encode(out, _add_sound(out, self.sound, True), self.sound)


@dataclass(frozen=True)
class Picture:
    """A picture file. paint: uint8 [height, width, 3] -> what Pillow saves."""

    suffix: str = ".png"
    width: int = 120
    height: int = 90
    paint: Callable[[Any], Any] = lambda image: image
    saved: dict[str, Any] = field(default_factory=dict)
    codecs: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        from PIL import Image

        y, x = np.mgrid[0 : self.height, 0 : self.width]
        pixels = np.stack([255 * x // self.width, 255 * y // self.height, 128 + 60 * np.sin(x / 9)], -1)
        self.paint(Image.fromarray(pixels.astype(np.uint8))).save(path, **self.saved)


def _hole(image: Any) -> Any:
    """Transparent in the middle."""
    from PIL import Image

    mask = np.full((image.height, image.width), 255, np.uint8)
    mask[20:50, 20:60], mask[60:80] = 0, 120
    image.putalpha(Image.fromarray(mask))
    return image


def _turned(number: int) -> dict[str, Any]:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = number
    return {"exif": exif, "quality": 95}


B_FRAMES = {"bf": "3", "g": "30", "sc_threshold": "0"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "30"}
PAUSE = [*np.arange(12) / 25, *(1.5 + np.arange(20) / 25)]
STUTTER = np.cumsum([0, *np.resize([0.02, 0.05, 0.04, 0.13], 39)]).tolist()
X265 = "log-level=none:keyint=25"

FILMS: dict[str, Film] = {
    "h264": Film(sounds=(Sound(),)),
    "h264 b frames": Film(options=B_FRAMES, rate=30),
    "h264 pyramid": Film(suffix=".mkv", options={"x264-params": "bframes=5:b-pyramid=normal:ref=5:keyint=40"}),
    "h264 open groups": Film(suffix=".ts", options={"x264-params": "open-gop=1:bframes=3:keyint=15"}),
    "h264 interlaced": Film(suffix=".ts", options={"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "h264 444": Film(pixels="yuv444p"),
    "h264 ten bits": Film(suffix=".mkv", pixels="yuv420p10le"),
    "h264 full range": Film(pixels="yuvj420p"),
    "h264 bt709": Film(width=160, height=96, about={"colorspace": 1, "color_range": 1}),
    "h264 mov": Film(suffix=".mov", rate=50, options=B_FRAMES, sounds=(Sound(layout="stereo"),)),
    "h264 flv": Film(suffix=".flv", sounds=(Sound(),)),
    "h264 avi": Film(suffix=".avi", options={"bf": "0"}),
    "h264 23.976": Film(suffix=".mkv", rate=Fraction(24000, 1001), options=B_FRAMES),
    "h264 29.97": Film(rate=Fraction(30000, 1001), sounds=(Sound(rate=48000),)),
    "h264 12": Film(rate=12),
    "h264 60": Film(rate=60, options=B_FRAMES),
    "h264 5": Film(rate=5),
    "h265": Film(codec="libx265", options={"x265-params": X265}),
    "h265 mkv": Film(suffix=".mkv", codec="libx265", rate=24, options={"x265-params": X265 + ":bframes=4"}),
    "mpeg4": Film(codec="mpeg4", options={"g": "25"}),
    "mpeg4 avi": Film(suffix=".avi", codec="mpeg4", options={"g": "25"}, sounds=(Sound("libmp3lame"),)),
    "mpeg2": Film(suffix=".mpg", codec="mpeg2video", options={"g": "15", "bf": "2"}),
    "mpeg2 ts": Film(suffix=".ts", codec="mpeg2video", options={"g": "15"}, sounds=(Sound("ac3", 48000, "5.1"),)),
    "vp9": Film(suffix=".webm", codec="libvpx-vp9", options=VP9, sounds=(Sound("libopus", 48000),)),
    "vp9 mp4": Film(codec="libvpx-vp9", options=VP9, rate=30),
    "av1": Film(suffix=".mkv", codec="libsvtav1", options={"preset": "10", "g": "30", "crf": "20"}),
    "motion jpeg": Film(suffix=".avi", codec="mjpeg", pixels="yuvj420p"),
    "prores": Film(suffix=".mov", codec="prores_ks", pixels="yuv422p10le"),
    "ffv1": Film(suffix=".mkv", codec="ffv1"),
    "odd size": Film(width=98, height=66),
    "upright format": Film(width=48, height=160),
    "wide format": Film(width=320, height=48),
    "large": Film(width=640, height=360, rate=10),
    "variable rate": Film(suffix=".mkv", times=STUTTER),
    "variable rate mp4": Film(times=STUTTER, options={"bf": "0"}),
    "a pause": Film(suffix=".mkv", times=PAUSE, options={"bf": "0"}),
    "late clock": Film(suffix=".mkv", start=5.0),
    "four frames": Film(frames=4),
    "odd number of frames": Film(frames=7),
    "quarter turn": Film(matrix=(0, 1, -1, 0)),
    "half turn": Film(matrix=(-1, 0, 0, -1)),
    "other quarter turn": Film(matrix=(0, -1, 1, 0)),
    "late sound": Film(suffix=".mkv", sounds=(Sound("pcm_s16le", 16000, start=0.5),)),
    "late video": Film(suffix=".mkv", start=0.4, sounds=(Sound("flac", 16000),)),
    "short sound": Film(sounds=(Sound(seconds=0.9),)),
    "long sound": Film(sounds=(Sound(seconds=3.5),)),
    "second sound is the default": Film(
        suffix=".mkv", sounds=(Sound("pcm_s16le", 16000), Sound("pcm_s16le", 16000, "stereo")), default=1
    ),
}
RECORDINGS: dict[str, Recording] = {
    "wav 8 kHz": Recording(".wav", Sound("pcm_s16le", 8000)),
    "wav 16 kHz": Recording(".wav", Sound("pcm_s16le", 16000)),
    "wav 24 bits": Recording(".wav", Sound("pcm_s24le", 48000, "stereo")),
    "wav float 5.1": Recording(".wav", Sound("pcm_f32le", 44100, "5.1")),
    "flac": Recording(".flac", Sound("flac", 44100, "stereo", format="s16")),
    "flac 96 kHz": Recording(".flac", Sound("flac", 96000, format="s32")),
    "mp3": Recording(".mp3", Sound("libmp3lame", 44100, "stereo")),
    "mp3 22 kHz": Recording(".mp3", Sound("libmp3lame", 22050)),
    "aac": Recording(".m4a", Sound("aac", 48000, "stereo")),
    "opus": Recording(".ogg", Sound("libopus", 48000, "stereo")),
}
PICTURES: dict[str, Picture] = {
    "png": Picture(),
    "png grey": Picture(paint=lambda image: image.convert("L")),
    "png palette": Picture(paint=lambda image: image.quantize(64)),
    "png transparent": Picture(paint=_hole),
    "jpg": Picture(".jpg", saved={"quality": 95}),
    "jpg cmyk": Picture(".jpg", paint=lambda image: image.convert("CMYK"), saved={"quality": 95}),
    "jpg upright": Picture(".jpg", saved=_turned(6)),
    "webp": Picture(".webp", saved={"lossless": True}),
    "webp transparent": Picture(".webp", paint=_hole, saved={"lossless": True}),
    "large": Picture(width=640, height=480),
    "strip": Picture(width=900, height=30),
    "tiny": Picture(width=20, height=12),
}


def write_all(folder: Path) -> dict[str, Path]:
    """Every file that this FFmpeg has the codecs for, by "kind/name"."""
    import av

    paths: dict[str, Path] = {}
    kinds: dict[str, dict[str, Any]] = {"film": FILMS, "sound": RECORDINGS, "picture": PICTURES}
    for kind, files in kinds.items():
        for name, file in files.items():
            if all(codec in av.codecs_available for codec in file.codecs):
                path = folder / f"{kind} {name}{file.suffix}".replace(" ", "-")
                file.write(path)
                paths[f"{kind}/{name}"] = path
    return paths
