"""Video and images from real files, as the models want them. Decoded by PyAV, images by Pillow. Sound: see sound.py.

A video is read twice: once without decoding, for the times of its frames, then decoded frame by frame, keeping only the
sampled ones (already at their final size if asked), so memory does not grow with the video's length or resolution.
Anything a file lacks or that cannot be decoded is a `MediaError`; nothing is replaced or concealed in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

import numpy as np
import torch

from ..errors import InputError, MediaError

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame
    from av.audio import AudioStream
    from av.container import InputContainer
    from av.video import VideoStream

Size = Callable[[int, int, int], tuple[int, int]]  # frames, height, width -> height, width
GUESSED_LENGTH = ("mp3", "aac", "mpegts")  # formats whose stated length is an estimate and proves nothing


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


@dataclass
class Index:
    """What one pass over the packets tells: frame times [N] and the end of the video, packets of the sound track."""

    times: np.ndarray
    end: float
    sound_packets: int | None

    @property
    def duration(self) -> float:
        return float(self.end - self.times[0])


def frame_count(duration: float, total: int, fps: float = 2.0, min_frames: int = 4, max_frames: int = 768) -> int:
    """How many of `total` frames to sample: duration x fps, within the limits and what there is, rounded down to even.

    The rule of the published recipe for Qwen2.5-Omni, whose temporal patches hold two frames.
    """
    wanted = min(max(duration * fps + 1e-6, min_frames), max_frames, total)
    return int(wanted) // 2 * 2


def read_video(
    path: str | Path,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 768,
    size: Size | None = None,
    choose: Callable[[int, float], list[int]] | None = None,
    span: tuple[float | None, float | None] = (None, None),
) -> Video:
    """Decode about `fps` frames per second, an even number, evenly spread in time from the first frame to the last.

    Args:
        choose: (frames in the file, seconds) -> rising numbers of those to keep, for a recipe with a rule of its own;
            fps and the limits are then not used.
        span: seconds after the first frame: the part of the video to take, as if the file held no more. None: from its
            begin, to its end.
        size: (frames, height, width) -> (height, width); every kept frame is resized to it as it is decoded.

    Raises:
        MediaError: no such file, no or an empty video stream, truncated, or not decodable at some time.
        InputError: fps or frame limits that make no sense.
    """
    if choose is None:
        _check_sampling(fps, min_frames, max_frames)
    with open_media(path) as container:
        _need_video(container, path)
        index = _part(read_index(container, path), span, path)
    total = len(index.times)
    least = 2 if choose is None else 1
    if total < least:
        raise MediaError(f"{path}: its video has {total} frame(s), {least} needed: give a still as image=")
    if choose is None:
        targets = _spread(index.times, frame_count(index.duration, total, fps, min_frames, max_frames))
    else:
        targets = index.times[choose(total, index.duration)]
    with open_media(path) as container:
        frames, times = _keep_frames(
            container, _need_video(container, path), path, targets, 2 * index.duration / total, size
        )
    start = float(index.times[0])
    return Video(
        frames=frames,
        times=[t - start for t in times],
        seconds_per_frame=index.duration / len(targets),
        duration=index.duration,
        start=start,
        has_sound=bool(index.sound_packets),
    )


def _part(index: Index, span: tuple[float | None, float | None], path: str | Path) -> Index:
    """The frames within the span. Raises MediaError where there is none."""
    if span == (None, None) or not len(index.times):
        return index
    first = index.times[0]
    begin, end = first + (span[0] or 0.0), min(index.end, np.inf if span[1] is None else first + span[1])
    inside = index.times[(index.times >= begin - 1e-6) & (index.times < end - 1e-6)]
    if not len(inside):
        asked = f"{span[0] or 0.0:.2f} s to {'its end' if span[1] is None else f'{span[1]:.2f} s'}"
        raise MediaError(f"{path} has no frame from {asked}: it lasts {index.duration:.2f} s")
    return Index(inside, float(end), index.sound_packets)


def _check_sampling(fps: float, min_frames: int, max_frames: int) -> None:
    if not fps > 0:
        raise InputError(f"fps is {fps}: sample more than 0 frames per second")
    if not 2 <= min_frames <= max_frames:
        raise InputError(f"min_frames {min_frames} and max_frames {max_frames}: need 2 <= min_frames <= max_frames")


def read_image(path: str | Path) -> torch.Tensor:
    """An image file as uint8 [3, H, W], RGB, upright (EXIF). Raises MediaError where it is missing or broken."""
    from PIL import Image, ImageOps

    _check_file(path)
    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"cannot read the image {path}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 [..., 3, H, W] -> uint8 [..., 3, height, width]: bicubic, antialiased, in integers as torchvision does."""
    if frames.shape[-2:] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    out = torch.nn.functional.interpolate(flat, size=(height, width), mode="bicubic", antialias=True)
    return out.reshape(*frames.shape[:-2], height, width)


def _check_file(path: str | Path) -> None:
    if "://" in str(path):
        raise MediaError(f"{path} is an address, not a file: download it first")
    if not Path(path).is_file():
        raise MediaError(f"no such file: {path}" if not Path(path).exists() else f"{path} is not a file")


@contextmanager
def open_media(path: str | Path) -> Iterator[InputContainer]:
    import av

    _check_file(path)
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be opened as media, it is broken or of another kind: {error}") from error
    try:
        yield container
    finally:
        container.close()


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover picture."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _need_video(container: InputContainer, path: str | Path) -> VideoStream:
    if (stream := _video_stream(container)) is None:
        raise MediaError(f"{path} has no video stream: give it as audio= or image=, or another file")
    return stream


def read_index(container: InputContainer, path: str | Path) -> Index:
    """Read every packet, decode none. Raises MediaError where the file ends before its header says."""
    import av

    video = _video_stream(container)
    audio = container.streams.audio[0] if container.streams.audio else None
    times: list[float] = []
    span = 0.0  # of the last packet with a duration, in seconds
    begin, end, video_end, sound_end, sound = math.inf, -math.inf, -math.inf, -math.inf, 0
    try:
        for packet in container.demux():
            at = packet.pts if packet.pts is not None else packet.dts
            if at is None or packet.size == 0:
                continue
            time = float(at * packet.time_base)
            stop = time + float((packet.duration or 0) * packet.time_base)
            begin, end = min(begin, time), max(end, stop)
            if audio is not None and packet.stream_index == audio.index:
                sound, sound_end = sound + 1, max(sound_end, stop)
            if video is not None and packet.stream_index == video.index and not packet.is_discard:
                times.append(time)
                span, video_end = stop - time or span, max(video_end, stop)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} is broken after {max(end, 0.0):.2f} s: {error}") from error
    _check_complete(container, path, None, end - max(begin, 0.0))
    for stream, stop in ((video, video_end), (audio, sound_end)):
        if stream is not None and "mov" in container.format.name and np.isfinite(stop):
            # only mp4 and its kin state a length per track; elsewhere FFmpeg fills in the file's
            _check_complete(container, path, stream, stop - max(begin, 0.0))
    times_ = np.unique(np.asarray(times, dtype=np.float64))
    if len(times_) > 1 and span == 0.0:  # some containers state no durations
        video_end = float(times_[-1] + np.median(np.diff(times_)))
    return Index(times_, video_end, sound if audio is not None else None)


def _check_complete(
    container: InputContainer, path: str | Path, stream: VideoStream | AudioStream | None, reached: float
) -> None:
    """reached: seconds that the packets of `stream` (None: of any) cover, compared with what the header states."""
    if any(name in container.format.name for name in GUESSED_LENGTH):
        return
    if stream is None:
        stated, what = (container.duration or 0) / 1e6, "it"
    else:
        stated, what = float((stream.duration or 0) * (stream.time_base or 0)), f"its {stream.type}"
    holds = max(reached, 0.0)
    if holds < stated - max(0.3, 0.02 * stated):
        raise MediaError(f"{path} is truncated: {what} holds {holds:.2f} s, its header states {stated:.2f} s")


def _spread(times: np.ndarray, n: int) -> np.ndarray:
    """Times of the n frames nearest to an even spread from first to last: [n]. Ties go to the even frame number."""
    even = np.linspace(times[0], times[-1], n)
    position = np.interp(even, times, np.arange(len(times)))
    return times[np.rint(np.round(position, 6)).astype(int)]


@overload
def decoded(container: InputContainer, stream: VideoStream, path: str | Path) -> Iterator[VideoFrame]: ...


@overload
def decoded(container: InputContainer, stream: AudioStream, path: str | Path) -> Iterator[AudioFrame]: ...


def decoded(
    container: InputContainer, stream: VideoStream | AudioStream, path: str | Path
) -> Iterator[VideoFrame] | Iterator[AudioFrame]:
    """Decoded frames of a stream in order of time. Raises MediaError at what cannot be decoded."""
    import av

    time = 0.0
    frames = cast("Iterator[VideoFrame] | Iterator[AudioFrame]", container.decode(stream))
    try:
        for frame in frames:
            time = frame.time if frame.time is not None else time
            if getattr(frame, "is_corrupt", False):
                raise MediaError(f"{path}: its {stream.type} is damaged at {time:.2f} s: re-encode or replace the file")
            yield frame
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: its {stream.type} cannot be decoded after {time:.2f} s: {error}") from error


def _keep_frames(
    container: InputContainer,
    stream: VideoStream,
    path: str | Path,
    targets: np.ndarray,
    slack: float,
    size: Size | None,
) -> tuple[torch.Tensor, list[float]]:
    """For every target time the nearest decoded frame: uint8 [n, 3, H, W] and their times.

    slack: seconds; the distance to a frame at which it counts as missing.
    """
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or 25)
    kept: list[torch.Tensor] = []
    times: list[float] = []
    goal: tuple[int, int] | None = None

    def keep(frame: VideoFrame, time: float) -> None:
        nonlocal goal
        goal_time = targets[len(kept)]
        if abs(time - goal_time) > slack:
            raise MediaError(f"{path}: no frame can be decoded near {goal_time:.2f} s: re-encode or replace it")
        pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)  # [3, H, W]
        if frame.rotation % 90 == 0 and frame.rotation:
            pixels = torch.rot90(pixels, frame.rotation // 90, dims=(1, 2))
        pixels = pixels.contiguous()
        if goal is None:
            height, width = pixels.shape[1:]
            goal = (height, width) if size is None else size(len(targets), height, width)
        kept.append(resize(pixels, *goal))  # a stream that changes its size on the way keeps the first one's
        times.append(time)

    last: tuple[VideoFrame, float] | None = None
    for number, frame in enumerate(decoded(container, stream, path)):
        time = float(frame.time) if frame.time is not None else number / rate
        if last is not None and time < last[1]:
            raise MediaError(f"{path}: its frames are out of order at {time:.2f} s: copy them into an mp4 or mkv file")
        while len(kept) < len(targets) and time >= targets[len(kept)]:
            goal_time = targets[len(kept)]
            nearer = last if last is not None and goal_time - last[1] < time - goal_time else (frame, time)
            keep(*nearer)
        last = (frame, time)
        if len(kept) == len(targets):
            break
    while last is not None and len(kept) < len(targets):
        keep(*last)
    if not kept:
        raise MediaError(f"{path}: no frame of its video can be decoded: re-encode or replace it")
    return torch.stack(kept), times
