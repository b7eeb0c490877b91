"""What one pass over a file's packets tells, nothing decoded: when its frames are shown, how long its tracks last.

It is also where a file that ends early, is damaged where its container knows, or holds several recordings is found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MediaError

if TYPE_CHECKING:
    from av.audio import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video import VideoStream

GUESSED_LENGTH = ("mp3", "aac", "mpegts")  # formats whose stated length is an estimate and proves nothing
RESTARTING = ("mpegts", "mpeg")  # formats in which recordings are joined by appending one file to another
JUMP_BACK, JUMP_AHEAD = 0.1, 10.0  # seconds between a track's packets; ahead as ffmpeg's dts_delta_threshold


@dataclass
class Track:
    """The packets of one track, in the file's order. Times are seconds on the container's clock.

    Attributes:
        times: [P] when what a packet holds is shown or heard; nan where it holds nothing.
        shown: [P] whether it is: some are there only to decode others. keys: [P] whether decoding can begin there.
        durations: [P] as the container states them, or 0. end: of what is shown.
        damage: times of packets that the container knows to be damaged.
    """

    times: list[float] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    end: float = -math.inf
    damage: list[float] = field(default_factory=list)

    @property
    def packets(self) -> int:
        """How many of them hold something."""
        return int(np.isfinite(self.times).sum())


@dataclass
class Index:
    """times: [N] when the frames of the video are shown, rising. end: of the last one. A file may lack either track.

    first: number of the video's first packet that can be decoded; earlier ones need frames that the file lacks.
    by_order: the container states no times of showing, and they differ from those of decoding: the n-th frame that the
        decoder gives is shown at the n-th of `times`.
    """

    times: np.ndarray
    end: float
    video: Track | None
    sound: Track | None
    first: int = 0
    by_order: bool = False

    @property
    def duration(self) -> float:
        return float(self.end - self.times[0])

    def sound_seconds(self, start: float | None = None) -> float:
        """How long the sound lasts from container time `start` on (None: its own begin), as its packets say."""
        if self.sound is None or not self.sound.packets:
            return 0.0
        return max(self.sound.end - (float(np.nanmin(self.sound.times)) if start is None else start), 0.0)


def read_index(
    container: InputContainer,
    packets: Iterable[Packet],
    video: VideoStream | None,
    sound: AudioStream | None,
    path: str | Path,
) -> Index:
    """Reads every packet, decodes none.

    Args:
        packets: of all streams of `container`, in its order. video, sound: the streams that will be read.

    Raises:
        MediaError: the file ends before its header says, or its clock jumps on the way.
    """
    import av

    tracks = {stream.index: Track() for stream in (video, sound) if stream is not None}
    seen, heard = (None if stream is None else tracks[stream.index] for stream in (video, sound))
    without_pts = _is(container, "avi")  # it states when frames are decoded, not when they are shown
    clock: dict[int, float] = {}  # decoding time of each track's packet before
    main = video if video is not None else sound  # sound may pause
    begin, end, by_order = math.inf, -math.inf, False
    restarting = None if main is None or not _is(container, *RESTARTING) else main.index
    ticks = {s.index: (s.time_base.numerator, s.time_base.denominator) for s in container.streams if s.time_base}
    try:
        for packet in packets:
            number, pts, dts = packet.stream_index, packet.pts, packet.dts
            track = tracks.get(number)
            at = pts if pts is not None else dts
            if without_pts and track is seen and dts is not None:
                by_order, at = by_order or at != dts, dts
            if at is None or packet.size == 0:
                if track is not None:
                    track.times.append(math.nan)
                    track.durations.append(0.0)
                    track.shown.append(False)
                    track.keys.append(False)
                continue
            if number not in ticks:  # a stream that the header does not know of
                ticks[number] = packet.time_base.numerator, packet.time_base.denominator
            num, den = ticks[number]
            time, duration = at * num / den, (packet.duration or 0) * num / den
            over = time + duration
            begin, end = time if time < begin else begin, over if over > end else end
            if track is None:
                continue
            if dts is not None:
                now = dts * num / den
                before = clock.setdefault(number, now)
                clock[number] = now
                if now < before - JUMP_BACK or (number == restarting and now > before + JUMP_AHEAD):
                    raise _restarted(path, before, now)
            shown = not (track is seen and packet.is_discard)
            track.times.append(time)
            track.durations.append(duration)
            track.shown.append(shown)
            track.keys.append(packet.is_keyframe)
            if shown and over > track.end:
                track.end = over
            if packet.is_corrupt:
                track.damage.append(time)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path} is broken after {max(end, 0.0):.2f} s: {error}") from error
    _check_complete(container, path, None, end if _is(container, "matroska") else end - max(begin, 0.0))
    for stream, track in ((video, seen), (sound, heard)):
        if stream is not None and track is not None and _is(container, "mov") and np.isfinite(track.end):
            # only mp4 and its kin state a length per track; elsewhere FFmpeg fills in the file's
            _check_complete(container, path, stream, track.end - max(begin, 0.0))
    if video is None or seen is None:
        return Index(np.zeros(0), -math.inf, None, heard)
    first = seen.keys.index(True) if True in seen.keys else 0
    if first:
        _drop_undecodable(seen, first)
    times = [time for time, shown in zip(seen.times, seen.shown, strict=True) if shown]
    times_ = np.asarray(sorted(set(times)), dtype=np.float64)
    return Index(times_, _video_end(container, video, seen), seen, heard, first, by_order)


def check_undamaged(
    track: Track | None, what: str, path: str | Path, begin: float | None = None, end: float | None = None
) -> None:
    """Raises MediaError where the container knows packets to be damaged that are decoded for the time begin .. end."""
    if track is None or not track.damage:
        return
    if begin is not None:
        keys = (time for time, key in zip(track.times, track.keys, strict=True) if key and time <= begin)
        begin = max(keys, default=begin)
    for time in track.damage:
        if (begin is None or time >= begin) and (end is None or time < end):
            raise MediaError(
                f"{path}: its {what} is damaged at {time:.2f} s, or pieces were joined there: re-encode it "
                "(ffmpeg -i IN OUT.mp4) or replace the file"
            )


def _is(container: InputContainer, *names: str) -> bool:
    return any(name in container.format.name.split(",") for name in names)


def _restarted(path: str | Path, before: float, now: float) -> MediaError:
    return MediaError(
        f"{path}: its clock jumps from {before:.2f} s to {now:.2f} s, as where recordings are joined: give it one "
        "clock (ffmpeg -i IN OUT.mp4), or give the recordings one by one"
    )


def _drop_undecodable(track: Track, first: int) -> None:
    """A file that begins between key frames, as cut from a broadcast: players show it from the first key frame on."""
    begin = track.times[first]
    for number, time in enumerate(track.times):
        if number < first or time < begin:
            track.shown[number] = False
    track.damage = [time for time in track.damage if time >= begin]


def _check_complete(
    container: InputContainer, path: str | Path, stream: VideoStream | AudioStream | None, reached: float
) -> None:
    """reached: seconds that the packets of `stream` (None: of any) cover, compared with what the header states."""
    if any(name in container.format.name for name in GUESSED_LENGTH):
        return
    if stream is None:
        if _is(container, "avi") and _header_unfinished(path):
            return
        stated, what = (container.duration or 0) / 1e6, "it"
    else:
        stated, what = float((stream.duration or 0) * (stream.time_base or 0)), f"its {stream.type}"
    holds = max(reached, 0.0)
    if holds < stated - max(0.3, 0.02 * stated):
        raise MediaError(f"{path} is truncated: {what} holds {holds:.2f} s, its header states {stated:.2f} s")


def _header_unfinished(path: str | Path) -> bool:
    """Whether an AVI file was written to a pipe, so that nobody went back to put its sizes into the header."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8)[4:], "little") in (0, 0xFFFFFFFF)


def _video_end(container: InputContainer, stream: VideoStream, track: Track) -> float:
    """Seconds at which the last shown frame's time is over."""
    rows = zip(track.times, track.durations, track.shown, strict=True)
    order = np.asarray([(time, duration) for time, duration, shown in rows if shown], dtype=np.float64).reshape(-1, 2)
    if len(order) < 2:
        return track.end
    times = np.asarray(sorted(set(order[:, 0].tolist())))
    typical = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    if not order[:, 1].any():  # some containers state no durations
        return float(times[-1]) + typical
    if (np.diff(order[:, 0]) > 0).all():
        return track.end
    # Packets that come in another order than frames (B frames) may have the durations between decoding times: a frame
    # before a pause then has not its own. What an mp4 states for its track is right, else the last frame's own is best.
    last = order[order[:, 0].argmax()]
    end = float(last.sum())
    if _is(container, "mov") and stream.duration and stream.time_base:
        stated = float(times[0]) + float(stream.duration * stream.time_base)
        end = stated if stated > times[-1] else end
    return end if abs(end - track.end) > typical / 2 else track.end
