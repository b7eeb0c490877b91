"""The demo's files, made once per test process, and clips written on demand."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from clips import Clip, write_clip
from random_demo import make

_FOLDER = tempfile.TemporaryDirectory(prefix="avflow-demo-")  # removed when the process ends


@functools.cache
def demo(family: str = "qwen2_5_omni") -> dict:
    """checkpoint folder, samples file, clips: two clips of 4 s."""
    return make(Path(_FOLDER.name) / family, clips=2, family=family)


@functools.cache
def model(family: str = "qwen2_5_omni"):
    """The demo's checkpoint, loaded by path with its processor."""
    import avflow

    return avflow.load(demo(family)["checkpoint"])


@functools.cache
def clip_file(clip: Clip, suffix: str = ".mp4", sound: bool = True) -> Path:
    """A file with this clip."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    return write_clip(clip, folder / f"clip{suffix}", sound=sound)
