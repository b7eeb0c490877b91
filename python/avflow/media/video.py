"""Video from real files, as the models want it: sampled frames and their times. Decoded by PyAV.

A file's packets are read once without decoding, for the times of its frames; then the wanted ones are decoded and kept,
at their final size if asked, so memory does not grow with the video's length or resolution.
Anything a file lacks or that cannot be decoded is a `MediaError`; nothing is replaced or concealed in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import MediaError
from .arguments import check_choice, check_sampling, check_span
from .container import Source, open_media
from .frames import Size, keep_frames
from .index import Index, check_undamaged
from .timing import TIMINGS, Timing, counted_duration, numbered_part, published_numbers


@dataclass
class Video:
    """Sampled frames of a video.

    Attributes:
        frames: uint8 [T, 3, H, W]. times: seconds [T] after `start`, when each frame is shown.
        seconds_per_frame: duration / T, what one frame stands for. duration: seconds from first to after the last one.
        start: container time of the first frame, in seconds. has_sound: there is a sound track, and it is not empty.
    """

    frames: torch.Tensor
    times: list[float]
    seconds_per_frame: float
    duration: float
    start: float
    has_sound: bool


def frame_count(duration: float, total: int, fps: float = 2.0, min_frames: int = 4, max_frames: int = 768) -> int:
    """How many of `total` frames to sample: duration x fps, within the limits and what there is, rounded down to even.

    The rule of the published recipe for Qwen2.5-Omni, whose temporal patches hold two frames.
    """
    wanted = min(max(duration * fps + 1e-6, min_frames), max_frames, total)
    return int(wanted) // 2 * 2


def read_video(
    source: Source,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 768,
    size: Size | None = None,
    choose: Callable[[int, float], list[int]] | None = None,
    span: tuple[float | None, float | None] = (None, None),
    check: Callable[[Index], None] | None = None,
    timing: Timing = "player",
) -> Video:
    """Decode about `fps` frames per second, an even number, evenly spread in time from the first frame to the last.

    Args:
        source: a file's name, or the file from `open_media`, whose sound can then be read without opening it again.
        choose: (frames in the file, seconds) -> rising numbers of those to keep, for a recipe with a rule of its own;
            fps and the limits are then not used.
        span: seconds after the first frame: the part of the video to take, as if the file held no more. None: from its
            begin, to its end.
        size: (frames, height, width) -> (height, width); every kept frame is resized to it as it is decoded.
        check: called with the part's index before anything is decoded, to refuse what the caller cannot use.
        timing: "player": a part and the spread go by the frames' times. "published": by their numbers, as
            qwen-vl-utils does it (without `choose`).

    Raises:
        MediaError: no such file, no or an empty video stream, truncated, or not decodable at some time.
        InputError: fps, frame limits, a span or a timing that make no sense.
    """
    if choose is None:
        check_sampling(fps, min_frames, max_frames)
    check_span(span)
    check_choice("timing", timing, TIMINGS)
    with open_media(source) as file:
        path, stream = file.path, file.video
        if stream is None:
            raise MediaError(f"{path} has no video stream: give it as audio= or image=, or another file")
        count = timing == "published" and len(file.index.times) > 1
        counted = _counted(file.index, span, path) if count else None
        index = _part(file.index, span, path) if counted is None else counted.index
        total, least = len(index.times), 2 if choose is None else 1
        if not total and index.video is not None and len(index.video.times) > 1:
            raise MediaError(f"{path} states no times of its frames: put them into a container (ffmpeg -i IN OUT.mp4)")
        if total < least:
            raise MediaError(f"{path}: its video has {total} frame(s), {least} needed: give a still as image=")
        check_undamaged(index.video, "video", path, float(index.times[0]), index.end)
        if check is not None:
            check(index)
        if choose is None and counted is not None:
            numbers = published_numbers(counted.numbers, counted.rate, fps, min_frames, max_frames)
            targets = file.index.times[numbers]
        elif choose is None:
            targets = _spread(index.times, frame_count(index.duration, total, fps, min_frames, max_frames))
        else:
            targets = index.times[choose(total, index.duration)]
        frames, times = keep_frames(file, stream, targets, 2 * index.duration / total, size)
    start = float(index.times[0])
    return Video(
        frames=frames,
        times=[t - start for t in times],
        seconds_per_frame=index.duration / len(targets),
        duration=index.duration,
        start=start,
        has_sound=index.sound is not None and index.sound.packets > 0,
    )


def _part(index: Index, span: tuple[float | None, float | None], path: str | Path) -> Index:
    """The frames within the span. Raises MediaError where there is none."""
    if tuple(span) == (None, None) or not len(index.times):
        return index
    first = index.times[0]
    begin, end = first + (span[0] or 0.0), min(index.end, np.inf if span[1] is None else first + span[1])
    inside = index.times[(index.times >= begin - 1e-6) & (index.times < end - 1e-6)]
    if not len(inside):
        asked = f"{span[0] or 0.0:.2f} s to {'its end' if span[1] is None else f'{span[1]:.2f} s'}"
        raise MediaError(f"{path} has no frame from {asked}: it lasts {index.duration:.2f} s")
    return replace(index, times=inside, end=float(end))


@dataclass
class _Counted:
    """A part of a video, counted in frames. numbers: of its frames. rate: frames a second of the whole video."""

    index: Index
    numbers: range
    rate: float


def _counted(index: Index, span: tuple[float | None, float | None], path: str | Path) -> _Counted:
    rate = len(index.times) / counted_duration(index)
    numbers = numbered_part(len(index.times), rate, span, path)
    times = index.times[numbers.start : numbers.stop]
    return _Counted(replace(index, times=times, end=float(times[0]) + len(numbers) / rate), numbers, rate)


def _spread(times: np.ndarray, n: int) -> np.ndarray:
    """Times of the n frames nearest to an even spread from first to last: [n]. Ties go to the even frame number."""
    even = np.linspace(times[0], times[-1], n)
    position = np.interp(even, times, np.arange(len(times)))
    return times[np.rint(np.round(position, 6)).astype(int)]
