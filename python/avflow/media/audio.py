"""The sound of real files as the models want it: 16 kHz, mono, on the video's own clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MediaError
from .video import decoded, open_media, read_index

if TYPE_CHECKING:
    from av.container import InputContainer

SAMPLE_RATE = 16000  # Hz, what the audio encoders were trained on
GAP = 0.05  # seconds without sound that count as a gap: more than a resampler holds back


def read_audio(path: str | Path, start: float | None = None, seconds: float | None = None) -> np.ndarray:
    """The file's (first) sound track: float32 [samples] at 16 kHz, mono (mean of the channels), about -1..1.

    Args:
        start: container time in seconds of sample 0: earlier sound is cut, a later begin is padded with silence.
            None: the track's own begin. Gaps inside a track become silence, so that time stays true.
        seconds: no more than that is kept; None: all.

    Raises:
        MediaError: no such file, no or an empty sound track, truncated or not decodable.
    """
    with open_media(path) as container:
        index = read_index(container, path)
    if index.sound_packets is None:
        raise MediaError(f"{path} has no sound track: give a file with sound, or for a video use_audio_in_video=False")
    with open_media(path) as container:
        sound = _resample(container, path, start)
    if sound.size == 0:
        raise MediaError(f"{path}: its sound track is empty: give a file with sound, or use_audio_in_video=False")
    return sound if seconds is None else sound[: round(seconds * SAMPLE_RATE)]


def align_sound(sound: np.ndarray, duration: float, path: str | Path = "") -> tuple[np.ndarray, str]:
    """Sound of exactly the video's length, for the layout that interleaves them by time.

    Files commonly differ by some 10 ms (codec frames). Up to max(0.5 s, 5 % of the video), longer sound is cut at the
    video's end and shorter sound is padded with silence.

    Args:
        sound: float32 [samples] at 16 kHz, from the video's start. duration: of the video, in seconds.

    Returns:
        float32 [round(duration * 16000)], and what was done: "", "cut 0.02 s" or "padded 0.02 s".

    Raises:
        MediaError: they differ by more.
    """
    have, want = len(sound), round(duration * SAMPLE_RATE)
    seconds = (have - want) / SAMPLE_RATE
    if abs(seconds) > max(0.5, 0.05 * duration):
        raise MediaError(
            f"{path}: its sound lasts {have / SAMPLE_RATE:.2f} s and its video {duration:.2f} s, too different to be "
            "interleaved by time: cut the file to one length, give the sound as a file of its own with audio=, or use "
            "use_audio_in_video=False"
        )
    if have > want:
        return sound[:want], f"cut {seconds:.2f} s"
    if have < want:
        return np.pad(sound, (0, want - have)), f"padded {-seconds:.2f} s"
    return sound, ""


def _resample(container: InputContainer, path: str | Path, start: float | None) -> np.ndarray:
    import av

    resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
    pieces: list[np.ndarray] = []
    count, skip, origin = 0, 0, start  # count: samples so far; sample `skip` is at time `origin`

    def put(samples: np.ndarray) -> None:
        nonlocal count
        pieces.append(samples)
        count += len(samples)

    for frame in decoded(container, container.streams.audio[0], path):
        if (time := frame.time) is not None:
            origin = time if origin is None else origin
            gap = round((time - origin) * SAMPLE_RATE) - (count - skip)
            if count == 0 and gap < 0:
                skip = -gap
            elif gap > (0 if count == 0 else GAP * SAMPLE_RATE):
                put(np.zeros(gap, np.float32))
        try:
            for piece in resampler.resample(frame):
                put(piece.to_ndarray().mean(axis=0))  # [channels, n] -> [n]; swresample's own downmix is sqrt(2) louder
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(f"{path}: its sound changes its format on the way: re-encode it") from error
    for piece in resampler.resample(None) if pieces or count else ():
        put(piece.to_ndarray().mean(axis=0))
    return np.concatenate(pieces)[skip:].astype(np.float32, copy=False) if pieces else np.zeros(0, np.float32)
