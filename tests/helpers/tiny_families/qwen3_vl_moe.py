"""Qwen3-VL with a mixture of experts: four, of which two run a token."""

from __future__ import annotations

from pathlib import Path

from tiny_families import qwen3_vl
from tiny_families.qwen3_vl import published, samples

__all__ = ["build", "published", "samples"]


def build(folder: Path) -> Path:
    return qwen3_vl.build(folder, moe=True)
