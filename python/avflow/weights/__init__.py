"""Small trained models that come with the package: `avflow.load("tiny-omni")`. What each is: its MODEL_CARD.md."""

from __future__ import annotations

from pathlib import Path

NAMES = ("tiny-omni", "tiny-salmonn")


def folder(name: str) -> Path:
    """The checkpoint folder of one of NAMES."""
    return Path(__file__).parent / name
