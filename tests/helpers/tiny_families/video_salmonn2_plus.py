"""video-SALMONN 2+: video with its sound. transformers does not have it; golden data is compared elsewhere."""

from __future__ import annotations

from pathlib import Path

from avflow.tiny.checkpoint import Tiny
from avflow.tiny.checkpoint import build as build_tiny

from . import ask, clip

OPTIONS = {"fps": 1.0, "min_frames": 4}
published = None


def build(folder: Path) -> Path:
    return build_tiny(folder, "video_salmonn2_plus", Tiny(layers=3))


def samples(media: Path):
    return [ask(video=clip(media))]
