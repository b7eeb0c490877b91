"""tiny-omni's tokenizer for checkpoints that benchmarks make: vLLM starts without none, though nothing asks it."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_tokenizer(folder: Path) -> None:
    """Its files, beside a configuration that is there."""
    from avflow import weights

    for path in weights.folder("tiny-omni").iterdir():
        if "token" in path.name or path.name in ("vocab.json", "merges.txt"):
            shutil.copy(path, folder)
