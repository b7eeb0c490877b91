"""A track's frames, one after the other; what cannot be decoded is a MediaError with its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

from ..errors import MediaError
from .container import MediaFile

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame
    from av.audio import AudioStream
    from av.video import VideoStream


@contextmanager
def decode_errors(
    stream: VideoStream | AudioStream, path: str | Path, time: list[float] | None = None
) -> Iterator[None]:
    """FFmpeg's errors as MediaError. time: holds the seconds of the last decoded frame, if known."""
    import av

    try:
        yield
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        at = f" after {time[0]:.2f} s" if time else ""
        raise MediaError(f"{path}: its {stream.type} cannot be decoded{at}: {error}") from error


@overload
def decoded(file: MediaFile, stream: VideoStream, first: int = 0) -> Iterator[VideoFrame]: ...


@overload
def decoded(file: MediaFile, stream: AudioStream, first: int = 0) -> Iterator[AudioFrame]: ...


def decoded(
    file: MediaFile, stream: VideoStream | AudioStream, first: int = 0
) -> Iterator[VideoFrame] | Iterator[AudioFrame]:
    """All frames of a track in order of time, from packet `first` on. Raises MediaError at what cannot be decoded."""
    time = [0.0]
    with file.packets(stream) as (own, packets), decode_errors(own, file.path, time):
        for number, packet in enumerate(packets):
            if number < first:
                continue
            for frame in cast("list[VideoFrame] | list[AudioFrame]", packet.decode()):
                time[0] = frame.time if frame.time is not None else time[0]
                if getattr(frame, "is_corrupt", False):
                    raise MediaError(
                        f"{file.path}: its {own.type} is damaged at {time[0]:.2f} s: re-encode or replace the file"
                    )
                yield frame
