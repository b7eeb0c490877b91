"""The sound of real files as the models want it: 16 kHz, mono, on the video's own clock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ..errors import MediaError
from .arguments import check_choice, check_flag, check_seconds
from .container import MediaFile, Source, open_media
from .decoding import decoded
from .index import check_undamaged

SAMPLE_RATE = 16000  # Hz, what the audio encoders were trained on
GAP = 0.05  # seconds without sound that count as a gap: more than a resampler holds back
Mix = Literal["mean", "downmix"]


def read_audio(
    source: Source, start: float | None = None, seconds: float | None = None, mix: Mix = "mean", gaps: bool = True
) -> np.ndarray:
    """The file's (default) sound track: float32 [samples] at 16 kHz, mono, about -1..1.

    Args:
        source: a file's name, or the file from `open_media`.
        start: container time in seconds of sample 0: earlier sound is cut, a later begin is padded with silence.
            None: the track's own begin.
        seconds: no more than that is decoded and kept; None: all.
        mix: how channels become one: "mean", as librosa does it, or "downmix", as FFmpeg's swresample does it (for
            stereo their sum over sqrt(2), the surround channels by weights), and with it torchcodec.
        gaps: gaps inside the track become silence, so that time stays true; False: they are closed, as published.

    Raises:
        MediaError: no such file, no or an empty sound track, truncated or not decodable.
        InputError: start, seconds, mix or gaps that make no sense.
    """
    check_seconds("start", start)
    check_seconds("seconds", seconds, 0)
    check_choice("mix", mix, get_args(Mix))
    check_flag("gaps", gaps)
    with open_media(source) as file:
        path = file.path
        if file.sound is None:
            raise MediaError(
                f"{path} has no sound track: give a file with sound, or for a video use_audio_in_video=False"
            )
        until = None if start is None or seconds is None else start + seconds
        check_undamaged(file.index.sound, "sound", path, start, until)
        wanted = None if seconds is None else round(seconds * SAMPLE_RATE)
        sound = _resample(file, start, wanted, mix, gaps)
    if sound.size == 0 and wanted != 0:
        raise MediaError(f"{path}: its sound track is empty: give a file with sound, or use_audio_in_video=False")
    return sound if wanted is None else sound[:wanted]


def sound_seconds(source: Source) -> float:
    """How long the file's sound track lasts, as its packets say; 0 without one. Decodes nothing."""
    with open_media(source) as file:
        return file.index.sound_seconds()


def tolerance(duration: float) -> float:
    """Seconds by which a sound may differ from its video of `duration` seconds without being of another length.

    Files commonly differ by some 10 ms (codec frames).
    """
    return max(0.5, 0.05 * duration)


def check_same_length(seconds: float, duration: float, path: str | Path = "") -> None:
    """Refuses a sound of `seconds` for a video of `duration` seconds.

    Raises:
        MediaError: they differ by more than the larger of 0.5 s and 5 % of the video.
    """
    if abs(seconds - duration) > tolerance(duration):
        raise MediaError(
            f"{path}: its sound lasts {seconds:.2f} s and its video {duration:.2f} s: cut the file to one length, give "
            "the sound as a file of its own with audio=, use use_audio_in_video=False, or leave strict_media out, and "
            "what is missing is silence"
        )


def align_sound(
    sound: np.ndarray, duration: float, path: str | Path = "", strict: bool = False
) -> tuple[np.ndarray, str]:
    """Sound for the layout that interleaves it with a video of `duration` seconds by time.

    Shorter sound is padded with silence. Longer sound is cut at the video's end if it is longer by no more than the
    larger of 0.5 s and 5 % of the video; else all of it is kept, as published: it goes on after the last frame.

    Args:
        sound: float32 [samples] at 16 kHz, from the video's start. strict: refuse sound of another length.

    Returns:
        float32 [round(duration * 16000)] or more, and what was done: "", "cut 0.02 s", "padded 0.02 s", or
        "1.50 s after the video kept".

    Raises:
        MediaError: strict, and they differ by more than the larger of 0.5 s and 5 % of the video.
    """
    have, want = len(sound), round(duration * SAMPLE_RATE)
    seconds = (have - want) / SAMPLE_RATE
    if strict:
        check_same_length(have / SAMPLE_RATE, duration, path)
    if seconds > tolerance(duration):
        return sound, f"{seconds:.2f} s after the video kept"
    if have > want:
        return sound[:want], f"cut {seconds:.2f} s"
    if have < want:
        return np.pad(sound, (0, want - have)), f"padded {-seconds:.2f} s"
    return sound, ""


def _resample(file: MediaFile, start: float | None, wanted: int | None, mix: Mix, gaps: bool) -> np.ndarray:
    """float32 [samples], at least `wanted` of them if there are so many."""
    import av

    assert file.sound is not None
    layout = "mono" if mix == "downmix" else None
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE)
    pieces: list[np.ndarray] = []
    count, skip, origin = 0, 0, start  # count: samples so far; sample `skip` is at time `origin`
    begun = False  # which `count` does not tell: of a short first frame the resampler gives nothing yet

    def put(samples: np.ndarray) -> None:
        nonlocal count
        pieces.append(samples)
        count += len(samples)

    for frame in decoded(file, file.sound):
        if (time := frame.time) is not None:
            origin = time if origin is None else origin
            gap = round((time - origin) * SAMPLE_RATE) - (count - skip)
            if not begun and gap < 0:
                skip = -gap
            elif gap > (0 if not begun else GAP * SAMPLE_RATE if gaps else math.inf):
                put(np.zeros(gap, np.float32))
            begun = True
        try:
            for piece in resampler.resample(frame):
                put(piece.to_ndarray().mean(axis=0))  # [channels, n] -> [n]; of one channel, itself
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(f"{file.path}: its sound changes its format on the way: re-encode it") from error
        if wanted is not None and count - skip >= wanted:
            break
    else:
        for piece in resampler.resample(None) if begun or pieces else ():
            put(piece.to_ndarray().mean(axis=0))
    return np.concatenate(pieces)[skip:].astype(np.float32, copy=False) if pieces else np.zeros(0, np.float32)
