"""Small checkpoint folders with the files of published ones. Random, seeded weights; nothing is fetched.

They load through avflow.load as a published folder does. The answers of a random model mean nothing; what it shows is
that every stage runs, on the layout of the real files.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..models.compat import declare_torchvision

FAMILIES = {"qwen2_5_omni": "omni", "qwen2_5_vl": "vision", "video_salmonn2_plus": "salmonn"}  # -> module


@dataclass(frozen=True)
class Tiny:
    """Sizes of the small model. head_dim = hidden // heads must be a multiple of 8."""

    layers: int = 8
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    seed: int = 0


def build(folder: str | Path, family: str = "qwen2_5_omni", size: Tiny | None = None) -> Path:
    """Write a checkpoint to `folder` (created if needed) and return it; about 3 s and 8 MB at the default size."""
    if family not in FAMILIES:
        raise InputError(f"family {family!r}: pass one of {', '.join(FAMILIES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    declare_torchvision()
    importlib.import_module(f".{FAMILIES[family]}", __package__).write(folder, size or Tiny())
    return folder
