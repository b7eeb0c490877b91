"""video-SALMONN 2+ (bytedance/video-SALMONN-2): the model, from transformers' own parts, and its checkpoints."""

from __future__ import annotations

import importlib
from typing import Any

from ...moved import old_names
from ..compat import declare_torchvision

declare_torchvision()  # the modules here import transformers' models, and these import torchvision where it is there

# Public name -> module. Resolved on first use: transformers is imported then, and nothing is registered with it.
_EXPORTS = {
    "VideoSalmonn2PlusConfig": "config",
    "VideoSalmonn2PlusForConditionalGeneration": "modeling",
    "load_model": "checkpoint",
    "register": "checkpoint",
    "rope_index": "positions",
}

__all__ = sorted(_EXPORTS)
_old = old_names(__name__)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        return _old(name)
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
