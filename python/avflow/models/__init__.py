"""Model families, and `load` and `wrap`: the two ways to a model."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compat import declare_torchvision
from ..errors import InputError, UnsupportedModelError
from .base import Family, Model

__all__ = ["Family", "Model", "families", "family_of", "load", "register", "wrap"]

_FAMILIES: dict[str, Family] = {}
_MODULES = ("text", "qwen2_5_omni")  # one file per family; each registers itself when it is imported
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def register(cls: type[Family]) -> type[Family]:
    """Class decorator: the family serves the `model_types` that it names."""
    family = cls()
    for name in cls.model_types:
        _FAMILIES[name] = family
    return cls


def families() -> dict[str, Family]:
    """model_type -> family."""
    for name in _MODULES:
        importlib.import_module(f".{name}", __name__)
    return dict(_FAMILIES)


def family_of(model_type: str | None, where: str) -> Family:
    """The family that serves `model_type`.

    Raises:
        UnsupportedModelError: none does; the message lists those that there are.
    """
    known = families()
    if model_type not in known:
        raise UnsupportedModelError(
            f"{where} is of model type {model_type!r}, which no family serves; there are {', '.join(sorted(known))}"
        )
    return known[model_type]


def wrap(hf: nn.Module, processor: Any = None) -> Model:
    """A transformers model that is already in memory. Its weights are used as they are, nothing is copied."""
    model_type = getattr(getattr(hf, "config", None), "model_type", None)
    return Model(hf, family_of(model_type, type(hf).__name__), processor)


def load(name: str | Path, device: str = "cpu", dtype: str | torch.dtype = "float32") -> Model:
    """A checkpoint folder, or a name on the hub, with its processor.

    Raises:
        InputError: no such folder, no config.json, an unknown dtype.
        UnsupportedModelError: a checkpoint of no supported family.
    """
    name = str(name)
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise InputError(f"dtype {dtype!r}: pass one of {', '.join(_DTYPES)}")
        dtype = _DTYPES[dtype]
    device = str(device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch sees no CUDA device here; pass device='cpu'")
    family = family_of(_model_type(name), f"checkpoint {name!r}")
    declare_torchvision()
    hf = family.load_hf(name, dtype, device).eval()
    return Model(hf, family, family.load_processor(name))


def _model_type(name: str) -> str | None:
    folder = Path(name)
    if folder.is_dir():
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(f"checkpoint folder {name!r} has no config.json")
        try:
            return json.loads(path.read_text(encoding="utf-8")).get("model_type")
        except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a checkpoint's config.json: {error}") from error
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise InputError(f"no folder {name!r}: pass a checkpoint folder, or a hub name such as 'Qwen/Qwen2.5-Omni-3B'")
    declare_torchvision()
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        raise InputError(f"checkpoint {name!r} is neither a folder nor reachable on the hub: {error}") from error
