"""Where a medium lies: paths and file:// are read, everything else is refused and says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from avflow.data import DataMapping, read
from avflow.errors import InputError
from avflow.prompts.media_path import media_path
from avflow.prompts.sample import Sample


@pytest.mark.parametrize(
    "value, path",
    [
        ("a.mp4", "/data/a.mp4"),
        ("a:b.mp4", "/data/a:b.mp4"),
        ("/x/c.mp4", "/x/c.mp4"),
        (Path("c.mp4"), "/data/c.mp4"),
        ("file:///x/two%20words.mp4", "/x/two words.mp4"),
        ("file://localhost/x/%FF.mp4", "/x/\udcff.mp4"),  # a name that is no UTF-8, as Python spells it
        (os.fsdecode(b"\xff.mp4"), "/data/\udcff.mp4"),
        ("data: a talk.mp4", "/data/data: a talk.mp4"),
        ("", None),
        (None, None),
    ],
)
def test_a_path(value, path):
    assert media_path("video", value, Path("/data")) == path


@pytest.mark.parametrize(
    "value, says",
    [
        ("https://host/a.mp4", "video is the address 'https://host/a.mp4', not a file: download it first"),
        ("s3://bucket/a.mp4", "is the address"),
        ("data:video/mp4;base64,AAAA", "is a data: URL .*: write its bytes to a file"),
        ("DATA:,x", "is a data: URL"),
        ("file://elsewhere/a.mp4", "write the path itself"),
        ("file:///a%00b", "holds no NUL"),
        ("a\0b.mp4", "holds no NUL"),
        ("\ud800.mp4", "lone surrogate"),
        (b"\x00\x01", "must be one path, got b'.*': write media that are in memory to files"),
        (np.zeros((2, 3)), "must be one path, got array.*: write media that are in memory to files"),
        (["a.mp4"], r"must be one path, got \['a.mp4'\]"),
        (5, "must be one path, got 5"),
        ({"bytes": b"", "path": "a"}, "must be one path"),
    ],
)
def test_what_is_no_path(value, says):
    with pytest.raises(InputError, match=says):
        media_path("video", value)
    with pytest.raises(InputError, match=f"(?s)sample 's': .*{says.removeprefix('video ')}"):
        Sample(id="s", question="?", answer="x", video=value)


def test_lines_and_rows_go_by_the_same_rule(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"id": "s", "question": "?", "answer": "x", "video": "https://h/a.mp4"}\n')
    with pytest.raises(InputError, match="line 1: sample 's': video is the address"):
        Sample.read_jsonl(tmp_path / "s.jsonl")
    (tmp_path / "s.csv").write_text("id,question,answer,clip\n1,?,x,data:video/mp4;base64,\n")
    with pytest.raises(InputError, match="row 0 .*has 5 cells"):
        read(tmp_path / "s.csv", DataMapping(video="clip"))
    (tmp_path / "s.csv").write_text('id,question,answer,clip\n1,?,x,"data:video/mp4;base64,AA"\n')
    with pytest.raises(InputError, match="row 0: video is a data: URL"):
        read(tmp_path / "s.csv", DataMapping(video="clip"))
