"""Readers of files say which argument makes no sense, before they open the file."""

from __future__ import annotations

import pytest

from avflow.errors import InputError
from avflow.media import read_audio, read_image, read_video

HERE = __file__  # a file that is there, and is never opened


@pytest.mark.parametrize(
    ("argument", "value", "mend"),
    [
        ("mix", "ffmpeg", "pass one of mean, downmix"),
        ("gaps", "no", "pass True or False"),
        ("start", float("nan"), "pass seconds"),
        ("start", -1e9, "pass seconds"),
        ("seconds", "3", "pass seconds"),
        ("seconds", -1, "pass seconds"),
    ],
)
def test_sound(argument, value, mend):
    with pytest.raises(InputError, match=f"{argument} is {value!r}: {mend}"):
        read_audio(HERE, **{argument: value})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"timing": "exact"}, "timing is 'exact': pass one of player, published"),
        ({"span": 3.0}, r"span is 3.0: pass \(first second, last second\)"),
        ({"span": (0.0, "end")}, "span is 'end': pass seconds"),
        ({"fps": None}, "fps is None: sample more than 0"),
        ({"fps": True}, "fps is True: sample more than 0"),
        ({"max_frames": "8"}, "min_frames 4 and max_frames '8': need 2 <="),
    ],
)
def test_video(more, message):
    with pytest.raises(InputError, match=message):
        read_video(HERE, **more)


@pytest.mark.parametrize("read", [read_audio, read_image, read_video])
def test_what_is_no_path(read):
    with pytest.raises(InputError, match="the file must be a path, got 7"):
        read(7)
