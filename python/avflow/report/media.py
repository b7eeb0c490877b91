"""What a sample shows and sounds like, small enough for a page: pictures of its frames, the outline of its sound."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import AvflowError
from ..media.audio import SAMPLE_RATE, read_audio
from ..media.images import resize
from ..media.stills import read_image
from ..media.video import read_video
from ..prompts.sample import SOUND_FILES, Sample


@dataclass(frozen=True)
class Sizes:
    """frames: of a strip, at most. pixels: of a picture's longer side. quality: of its JPEG. columns: of a waveform."""

    frames: int = 16
    pixels: int = 144
    quality: int = 88
    columns: int = 480

    def small(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture."""
        scale = min(1.0, self.pixels / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


FULL = Sizes()
FEW = Sizes(frames=8, pixels=96, quality=72, columns=240)  # of a page of many samples: some 15 kB each


def media_of(sample: Sample, sizes: Sizes = FULL) -> list[dict[str, Any]]:
    """Strips of pictures {label, pictures: [data URI], times: [s] or None} and sounds {label, low, high, seconds}.

    Raises:
        MediaError: a file is gone, or cannot be read.
    """
    found: list[dict[str, Any]] = []
    if sample.video:
        span = (sample.start, sample.end)
        video = read_video(sample.video, size=sizes.small, max_frames=max(4, 2 * sizes.frames), span=span)
        keep = np.unique(np.linspace(0, len(video.times) - 1, sizes.frames).round().astype(int))
        times = [round(video.times[i], 2) for i in keep]
        pictures = [_uri(video.frames[i], sizes) for i in keep]
        found.append({"label": "video", "pictures": pictures, "times": times})
        if sample.dub:
            found.append(_sound("sound put to the video", sample.dub, sizes))
        elif video.has_sound and sample.use_audio_in_video is not False and not sample.audio:
            part = (video.start, video.duration) if span != (None, None) else (None, None)
            found.append(_sound("sound of the video", sample.video, sizes, *part))
    paths = [sample.image, *(sample.candidates or []), sample.reference, *(sample.tagged or {}).values(), sample.audio]
    given = [path for path in paths if path]
    sounds = [path for path in given if path == sample.audio or Path(path).suffix.lower() in SOUND_FILES]
    images = [path for path in given if path not in sounds]
    if images:
        small = [_uri(resize(p, *sizes.small(1, *p.shape[-2:])), sizes) for p in map(read_image, images)]
        found.append({"label": "images", "pictures": small, "times": None})
    return found + [_sound(Path(path).name, path, sizes) for path in sounds]


def media_or_none(fields: dict[str, Any], sizes: Sizes = FEW) -> list[dict[str, Any]]:
    """`media_of` the sample of these fields; none where a file is gone or cannot be read: a run outlives its media."""
    try:
        return media_of(Sample(**fields), sizes)
    except (AvflowError, TypeError, OSError):
        return []


def _uri(pixels: torch.Tensor, sizes: Sizes) -> str:
    """uint8 [3, H, W] as a data URI."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(out, "JPEG", quality=sizes.quality)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _sound(
    label: str, path: str, sizes: Sizes, start: float | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """The waveform's lowest and highest value in each of equal stretches, -1..1. start, seconds: as of read_audio."""
    sound = read_audio(path, start, seconds)
    stretches = np.array_split(sound, min(sizes.columns, len(sound)))
    low, high = ([round(float(f(s)), 3) for s in stretches] for f in (np.min, np.max))
    return {"label": label, "low": low, "high": high, "seconds": round(len(sound) / SAMPLE_RATE, 3)}
