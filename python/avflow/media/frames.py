"""Decoded frames of the times that are asked for, upright, at their final size.

Decoding begins at the key frame before each stretch of wanted frames; what lies between is not decoded. Where the
packets do not tell exactly which of them makes a frame, all of the file is decoded, and for every time the nearest
frame is taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ..errors import MediaError
from .container import MediaFile
from .decoding import decode_errors, decoded
from .images import resize
from .index import Track

if TYPE_CHECKING:
    from av import VideoFrame
    from av.packet import Packet
    from av.sidedata.sidedata import SideData
    from av.video import VideoStream

Size = Callable[[int, int, int], tuple[int, int]]  # frames, height, width -> height, width
SHORTEST_SKIP = 4  # packets: below, going on is cheaper than beginning anew at a key frame
MARGIN = 2  # packets decoded behind a wanted one: the second field of its frame, where fields have their own
SKIPS_UNREFERENCED = ("h264",)  # decoders that leave out frames that no other one needs, without effect on the rest


class _Inexact(Exception):
    """The packets of this file do not tell which of them makes which frame."""


class _Kept:
    """The frames kept so far: uint8 [n, 3, H, W], and their times. One tensor, filled frame by frame."""

    def __init__(self, n: int, size: Size | None) -> None:
        self.n, self.size = n, size
        self.frames: torch.Tensor | None = None
        self.times: list[float] = []

    def add(self, frame: VideoFrame, time: float, path: str | Path) -> None:
        pixels = upright(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1), frame, path)  # [3, H, W]
        if self.frames is None:
            height, width = pixels.shape[1:]
            goal = (height, width) if self.size is None else self.size(self.n, height, width)
            self.frames = torch.empty((self.n, 3, *goal), dtype=torch.uint8)
        goal = (self.frames.shape[2], self.frames.shape[3])
        # a stream that changes its size on the way keeps the first one's
        place = self.frames[len(self.times)]
        if pixels.shape[1:] == goal:
            np.copyto(place.numpy(), pixels.numpy())  # torch would wake all of its threads for each frame
        else:
            place.copy_(resize(pixels.contiguous(), *goal))
        self.times.append(time)

    def repeat(self) -> None:
        """The frame before, once more."""
        assert self.frames is not None
        self.frames[len(self.times)] = self.frames[len(self.times) - 1]
        self.times.append(self.times[-1])


def keep_frames(
    file: MediaFile, stream: VideoStream, targets: np.ndarray, slack: float, size: Size | None
) -> tuple[torch.Tensor, list[float]]:
    """For every target time, rising [n], the nearest frame: uint8 [n, 3, H, W] and their times.

    slack: seconds; the distance to a frame at which it counts as missing.

    Raises:
        MediaError: a frame that is asked for, or one on the way to it, cannot be decoded.
    """
    track = file.index.video
    assert track is not None
    kept = _Kept(len(targets), size)
    runs = [] if file.index.by_order else _runs(track, targets)
    if runs:
        try:
            return _decode_runs(file, stream, runs, targets, kept)
        except (_Inexact, MediaError):
            kept = _Kept(len(targets), size)  # what is wrong, if anything, is told where all of it is decoded
    return _decode_all(file, stream, targets, slack, kept)


@dataclass
class _Run:
    """Packets first .. last that are decoded in one go, and the numbers of those that make wanted frames."""

    first: int
    last: int
    wanted: set[int]


def _runs(track: Track, targets: np.ndarray) -> list[_Run]:
    """The stretches of packets that the targets need, rising; none where they cannot be told."""
    packet_at = {time: n for n, (time, shown) in enumerate(zip(track.times, track.shown, strict=True)) if shown}
    keys = [n for n, key in enumerate(track.keys) if key]
    runs: list[_Run] = []
    for target in targets.tolist():
        packet = packet_at.get(target)
        if packet is None:
            return []
        at = bisect_right(keys, packet) - 1
        while at >= 0 and track.times[keys[at]] > target:  # shown before that key frame: it hangs on the one before
            at -= 1
        if at < 0:
            return []
        if runs and keys[at] <= runs[-1].last + SHORTEST_SKIP:
            runs[-1].last = max(runs[-1].last, packet)
            runs[-1].wanted.add(packet)
        else:
            runs.append(_Run(keys[at], packet, {packet}))
    return runs


def _decode_runs(
    file: MediaFile, stream: VideoStream, runs: list[_Run], targets: np.ndarray, kept: _Kept
) -> tuple[torch.Tensor, list[float]]:
    with file.stretches(stream) as (own, packets_from), decode_errors(own, file.path):
        tick = own.time_base
        if tick is None:
            raise _Inexact
        for run in runs:
            own.codec_context.flush_buffers()
            fresh = run.first > file.index.first  # decoding from the file's begin needs no proof
            for frame in _frames_of(own, packets_from(run.first), run):
                if frame.is_corrupt or frame.pts is None or (fresh and frame.pict_type not in _INTRA):
                    raise _Inexact
                fresh = False
                time = frame.pts * tick.numerator / tick.denominator
                if len(kept.times) < kept.n and time > targets[len(kept.times)]:
                    raise _Inexact
                if len(kept.times) < kept.n and time == targets[len(kept.times)]:
                    kept.add(frame, time, file.path)
                    while len(kept.times) < kept.n and time == targets[len(kept.times)]:
                        kept.repeat()
    if len(kept.times) < kept.n or kept.frames is None:
        raise _Inexact
    return kept.frames, kept.times


_INTRA = (1, 5)  # AVPictureType I and SI: only these need no frame before


def _frames_of(stream: VideoStream, packets: Iterator[Packet], run: _Run) -> Iterator[VideoFrame]:
    context = stream.codec_context
    skips = context.name in SKIPS_UNREFERENCED
    near = {number + n for number in run.wanted for n in range(MARGIN + 1)}
    for number, packet in enumerate(packets, run.first):
        if packet.size:
            if skips:
                context.skip_frame = "DEFAULT" if number in near else "NONREF"
            yield from context.decode(packet)
        if number >= run.last + MARGIN:
            break
    yield from context.decode(None)


def _decode_all(
    file: MediaFile, stream: VideoStream, targets: np.ndarray, slack: float, kept: _Kept
) -> tuple[torch.Tensor, list[float]]:
    path, rate = file.path, float(stream.average_rate or 25)
    in_order = file.index.times  # of the frames as they are shown

    def keep(frame: VideoFrame, time: float) -> None:
        goal_time = targets[len(kept.times)]
        if abs(time - goal_time) > slack:
            raise MediaError(f"{path}: no frame can be decoded near {goal_time:.2f} s: re-encode or replace it")
        kept.add(frame, time, path)

    last: tuple[VideoFrame, float] | None = None
    for number, frame in enumerate(decoded(file, stream, file.index.first)):
        if file.index.by_order:
            time = float(in_order[min(number, len(in_order) - 1)])
        else:
            time = float(frame.time) if frame.time is not None else number / rate
        if last is not None and time < last[1]:
            raise MediaError(f"{path}: its frames are out of order at {time:.2f} s: copy them into an mp4 or mkv file")
        while len(kept.times) < kept.n and time >= targets[len(kept.times)]:
            goal_time = targets[len(kept.times)]
            nearer = last if last is not None and goal_time - last[1] < time - goal_time else (frame, time)
            keep(*nearer)
        last = (frame, time)
        if len(kept.times) == kept.n:
            break
    while last is not None and len(kept.times) < kept.n:
        keep(*last)
    if kept.frames is None:
        raise MediaError(f"{path}: no frame of its video can be decoded: re-encode or replace it")
    return kept.frames, kept.times


def upright(pixels: torch.Tensor, frame: VideoFrame, path: str | Path) -> torch.Tensor:
    """[3, H, W] turned and mirrored as the file says (its display matrix).

    Raises:
        MediaError: turned by other than quarters of a circle.
    """
    from av.sidedata.sidedata import Type

    sides = cast("Mapping[Type, SideData]", frame.side_data)  # PyAV's stub has other keys than it takes
    if Type.DISPLAYMATRIX not in sides:
        return pixels
    matrix = bytes(sides[Type.DISPLAYMATRIX])
    # a pixel at (x, y) is shown at (a x + c y, b x + d y), but for a shift that keeps it inside the picture
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if max(abs(b), abs(c)) <= 0.01 * min(abs(a), abs(d)):  # all zero, as some files have it, is no turn either
        across, down = a, d
    elif max(abs(a), abs(d)) <= 0.01 * min(abs(b), abs(c)):
        pixels, across, down = pixels.transpose(1, 2), c, b
    else:
        raise MediaError(
            f"{path}: its frames are to be shown turned by {frame.rotation} degrees, only quarters of a circle are "
            "supported: turn them for good (ffmpeg -i IN OUT.mp4)"
        )
    flips = [dim for dim, sign in ((2, across), (1, down)) if sign < 0]
    return pixels.flip(flips) if flips else pixels
