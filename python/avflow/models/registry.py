"""Which model families there are, and which of them serves a model."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import UnsupportedModelError
from .base import Family

_FAMILIES: dict[str, list[Family]] = {}
# One file per family; each registers itself when it is imported.
_MODULES = (
    "text",
    "qwen2_5_omni.family",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_omni",
    "video_salmonn2_plus.family",
    "internvl",
    "llava_onevision",
    "video_llama3",
    "qwen2_audio",
    "smolvlm",
    "audio_flamingo3",
    "voxtral",
)


def register(cls: type[Family]) -> type[Family]:
    """Class decorator: the family serves the `model_types` that it names, where its `serves` says yes."""
    family = cls()
    for name in cls.model_types:
        _FAMILIES.setdefault(name, []).append(family)
    return cls


def families() -> dict[str, list[Family]]:
    """model_type -> the families that serve it; they are asked in this order."""
    for name in _MODULES:
        importlib.import_module(f".{name}", __package__)
    return {name: list(found) for name, found in _FAMILIES.items()}


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family that serves a model with this config (config.json as a dict); the first that says yes.

    Raises:
        UnsupportedModelError: none does; the message lists those that there are.
    """
    known, model_type = families(), config.get("model_type")
    for family in known.get(model_type, ()) if isinstance(model_type, str) else ():
        if family.serves(config):
            return family
    raise UnsupportedModelError(
        f"{where} is of model type {model_type!r}, which no family serves; there are {', '.join(sorted(known))}"
    )
