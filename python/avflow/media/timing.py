"""Two readings of a file's clock: that of a player, and that of the published pipelines, which count frames.

A player shows every frame at its own time and starts each track where the container says. qwen-vl-utils and
qwen-omni-utils take frames by their numbers, as if all stood equally long, and the sound from its own first sample.
For one constant frame rate and tracks that begin together both are the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch

from ..errors import MediaError
from .index import Index

Timing = Literal["player", "published"]
TIMINGS = ("player", "published")


def counted_duration(index: Index) -> float:
    """Seconds from the first frame to the latest end that any packet states, which published readers divide by.

    `Index.duration` asks for the end of the last frame instead, where B frames have the durations of others.
    """
    end = index.end if index.video is None or not math.isfinite(index.video.end) else index.video.end
    return float(end - index.times[0])


def numbered_part(total: int, rate: float, span: tuple[float | None, float | None], path: str | Path) -> range:
    """Numbers of the frames within the span, in seconds, of a video of `total` frames at `rate` frames a second.

    Raises:
        MediaError: less than two.
    """
    if span == (None, None):
        return range(total)
    longest = total / rate
    first = 0 if span[0] is None else math.ceil(min(max(span[0], 0.0), longest) * rate)
    last = total - 1 if span[1] is None else min(math.floor(min(max(span[1], 0.0), longest) * rate), total - 1)
    if first >= last:
        raise MediaError(
            f"{path} has no two frames from {span[0] or 0.0:.2f} s to {longest if span[1] is None else span[1]:.2f} s, "
            f"counted as published: it has {total} in {longest:.2f} s"
        )
    return range(first, last + 1)


def published_numbers(part: range, rate: float, fps: float, min_frames: int, max_frames: int) -> list[int]:
    """Which frames of the part are taken: rising numbers, evenly spread, an even number of them.

    In float32 and rounding halves to even, as torch.linspace(...).round() does.
    """
    low, high = math.ceil(min_frames / 2) * 2, min(max_frames, len(part)) // 2 * 2
    wanted = min(max(len(part) / rate * fps, low), high, len(part))
    count = math.floor(wanted / 2) * 2
    return torch.linspace(part[0], part[-1], count).round().long().tolist()
