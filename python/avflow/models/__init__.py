"""Model families, and `load` and `wrap`: the two ways to a model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import weights
from ..errors import InputError, UnsupportedModelError
from .base import Family, Model
from .checkpoints import check_adapter, read_json
from .compat import declare_torchvision

__all__ = ["Family", "Model", "families", "family_of", "load", "register", "wrap"]

_FAMILIES: dict[str, list[Family]] = {}
# One file per family; each registers itself when it is imported.
_MODULES = ("text", "qwen2_5_omni.family", "qwen2_5_vl", "video_salmonn2_plus.family")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def register(cls: type[Family]) -> type[Family]:
    """Class decorator: the family serves the `model_types` that it names, where its `serves` says yes."""
    family = cls()
    for name in cls.model_types:
        _FAMILIES.setdefault(name, []).append(family)
    return cls


def families() -> dict[str, list[Family]]:
    """model_type -> the families that serve it; they are asked in this order."""
    for name in _MODULES:
        importlib.import_module(f".{name}", __name__)
    return {name: list(found) for name, found in _FAMILIES.items()}


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family that serves a model with this config (config.json as a dict); the first that says yes.

    Raises:
        UnsupportedModelError: none does; the message lists those that there are.
    """
    known, model_type = families(), config.get("model_type")
    for family in known.get(model_type, ()):
        if family.serves(config):
            return family
    raise UnsupportedModelError(
        f"{where} is of model type {model_type!r}, which no family serves; there are {', '.join(sorted(known))}"
    )


def wrap(hf: nn.Module, processor: Any = None) -> Model:
    """A transformers model that is already in memory. Its weights are used as they are, nothing is copied."""
    config = getattr(hf, "config", None)
    return Model(hf, family_of(config.to_dict() if config is not None else {}, type(hf).__name__), processor)


def load(name: str | Path, device: str = "cpu", dtype: str | torch.dtype = "float32") -> Model:
    """A model with its processor: from a checkpoint folder, of the package (weights.NAMES: "tiny-omni" ..), or the hub.

    Raises:
        InputError: no such folder, no config.json, an unknown dtype.
        UnsupportedModelError: a checkpoint of no supported family, or an adapter without its model.
    """
    name = str(weights.folder(name)) if name in weights.NAMES else str(name)
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise InputError(f"dtype {dtype!r}: pass one of {', '.join(_DTYPES)}")
        dtype = _DTYPES[dtype]
    device = str(device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch sees no CUDA device here; pass device='cpu'")
    family = family_of(_config(name), f"checkpoint {name!r}")
    declare_torchvision()
    hf = family.load_hf(name, dtype, device).eval()
    return Model(hf, family, family.load_processor(name))


def _config(name: str) -> dict[str, Any]:
    """config.json of a checkpoint folder or of a name on the hub."""
    folder = Path(name)
    if folder.is_dir():
        check_adapter(folder, name)
        return read_json(folder / "config.json")
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise InputError(
            f"no folder {name!r}: pass a checkpoint folder, or a hub name such as 'Qwen/Qwen2.5-Omni-3B', "
            f"or {' or '.join(map(repr, weights.NAMES))} of the package"
        )
    declare_torchvision()
    from transformers import PretrainedConfig
    from transformers.utils import cached_file

    absent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        adapter = cached_file(name, "adapter_config.json", **absent)
        if adapter is not None:
            check_adapter(Path(adapter).parent, name)
        return PretrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise InputError(f"checkpoint {name!r} is neither a folder nor reachable on the hub: {error}") from error
