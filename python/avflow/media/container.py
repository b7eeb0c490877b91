"""An open media file, read through once: which tracks count, what their packets tell, and the packets to decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from ..errors import InputError, MediaError
from .index import Index, read_index

if TYPE_CHECKING:
    from fractions import Fraction

    from av.audio import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video import VideoStream

    AnyStream = TypeVar("AnyStream", bound=VideoStream | AudioStream)

SEEKING = ("mov", "matroska")  # formats with a table of where their packets are
KEPT_BYTES = 16 << 20  # of a track's packets, in memory; the packets of a larger track are read from the file again


class MediaFile:
    """An open file of video, sound or both.

    Attributes:
        video: the default track that is no cover picture, or None. sound: the default track, or None.
        index: what one pass over the packets tells; made when it is first asked for.
    """

    def __init__(self, path: str | Path, container: InputContainer) -> None:
        self.path, self.container = path, container
        self.video = _default([s for s in container.streams.video if not _is_cover(s)])
        self.sound = _default(list(container.streams.audio))
        if self.video is not None:
            self.video.thread_type = "AUTO"
        self._kept: dict[int, list[Packet]] = {}

    @cached_property
    def index(self) -> Index:
        return read_index(self.container, self._keep(self.container.demux()), self.video, self.sound, self.path)

    def _keep(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """Passes packets on, and holds those of video and sound as long as a track stays below KEPT_BYTES.

        Those of the video of a file twice as large are not held in the first place: it is nearly all of the file.
        """
        large = self.video is not None and os.path.getsize(self.path) > 2 * KEPT_BYTES
        tracks = (self.sound,) if large else (self.video, self.sound)
        sizes = {stream.index: 0 for stream in tracks if stream is not None}
        self._kept = {number: [] for number in sizes}
        source = iter(packets)
        for packet in source:
            number = packet.stream_index
            if number in self._kept:
                sizes[number] += packet.size
                if sizes[number] > KEPT_BYTES:
                    del self._kept[number]
                else:
                    self._kept[number].append(packet)
            yield packet
            if not self._kept:
                yield from source

    @contextmanager
    def packets(self, stream: AnyStream) -> Iterator[tuple[AnyStream, Iterable[Packet]]]:
        """The track's packets in the file's order, and the stream that decodes them, fresh from its begin.

        They can be had once without reading the file again: a decoder that was used is not used anew.
        """
        _ = self.index
        kept = self._kept.pop(stream.index, None)
        if kept is not None:
            yield stream, kept
            return
        with self._again(stream) as (container, again):
            yield again, container.demux(again)

    @contextmanager
    def stretches(self, stream: VideoStream) -> Iterator[tuple[VideoStream, Callable[[int], Iterator[Packet]]]]:
        """As `packets`, for stretches: given a packet's number, the packets from there on, and the stream.

        The numbers rise. Packets that were kept are at hand; in a file that knows where its packets are the others are
        sought, elsewhere all of them are read.
        """
        track = self.index.video
        assert track is not None
        seeks = any(name in self.container.format.name.split(",") for name in SEEKING)
        if stream.index in self._kept or not seeks:
            with self.packets(stream) as (own, packets):
                source = enumerate(packets)
                yield own, lambda first: (packet for number, packet in source if number >= first)
            return
        with self._again(stream) as (container, again):

            def sought(first: int) -> Iterator[Packet]:
                time, tick = track.times[first], again.time_base
                if first and tick is not None:
                    container.seek(round(time / tick), stream=again)
                return found(container.demux(again), time, tick)

            def found(packets: Iterator[Packet], time: float, tick: Fraction | None) -> Iterator[Packet]:
                for packet in packets:
                    if packet.pts is not None and tick is not None and packet.is_keyframe:
                        if packet.pts * tick.numerator / tick.denominator == time:
                            yield packet
                            yield from packets
                            return

            yield again, sought

    @contextmanager
    def _again(self, stream: AnyStream) -> Iterator[tuple[InputContainer, AnyStream]]:
        """The file, opened once more."""
        with _opened(self.path) as container:
            again = cast("AnyStream", container.streams[stream.index])
            if again.type == "video":
                cast("VideoStream", again).thread_type = "AUTO"
            yield container, again


Source = str | Path | MediaFile  # a file's name, or the file already open


@contextmanager
def open_media(source: Source) -> Iterator[MediaFile]:
    """The file, open; one that is open already stays so afterwards.

    Raises:
        MediaError: no such file, or none that FFmpeg can open.
    """
    if isinstance(source, MediaFile):
        yield source
        return
    with _opened(source) as container:
        yield MediaFile(source, container)


@contextmanager
def _opened(path: str | Path) -> Iterator[InputContainer]:
    import av

    check_file(path)
    try:
        container = av.open(os.path.abspath(path))  # or FFmpeg takes the a of "a:b.mp4" for a protocol
    except (av.error.FFmpegError, OSError, ValueError) as error:
        hint = ""
        if str(path).lower().endswith(".webp"):
            hint = ": FFmpeg reads no animated WebP, make an mp4 of it"
        raise MediaError(f"{path} cannot be opened as media, it is broken or of another kind: {error}{hint}") from error
    try:
        yield container
    finally:
        container.close()


def check_file(path: str | Path) -> None:
    """Raises MediaError for what is no file of this machine, InputError for what is no path."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"the file must be a path, got {path!r:.60}")
    if "://" in str(path):
        raise MediaError(f"{path} is an address, not a file: download it first")
    if not Path(path).is_file():
        raise MediaError(f"no such file: {path}" if not Path(path).exists() else f"{path} is not a file")


def _is_cover(stream: VideoStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _default(streams: list[AnyStream]) -> AnyStream | None:
    """The track that players take: the first that is marked as default, else the first."""
    from av.stream import Disposition

    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter(marked or streams), None)
