"""A checkpoint's model without its weights: made of config.json on the meta device, in seconds and no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .. import checks, weights
from ..errors import UnsupportedModelError
from .base import Family, Model
from .checkpoints import hub_options
from .compat import check_layers, declare_torchvision
from .complete_load import check_sizes
from .loading import read_config
from .model_checks import check_heads
from .registry import family_of

PARTS = ("*.safetensors", "*.bin")


def unloaded(name: str | Path, **options: Any) -> Model:
    """A Model whose weights are on the meta device: what it is can be looked at, nothing can be run.

    Args:
        name: a checkpoint folder, a small model's name, or a hub name, of which config.json alone is fetched.
        options: those of checkpoints.HUB_OPTIONS.

    Raises:
        InputError: no such folder, no config.json, a class that the installed transformers does not have.
        UnsupportedModelError: a model without a decoder that avflow knows.
    """
    name = local(name)
    config = read_config(name, hub_options(options))
    check_sizes(config, name)
    declare_torchvision()
    family = family_or_none(config) or Family()
    return Model(family.make_empty(name, config, **options), family)


def local(name: str | Path) -> str:
    """A small model's folder, or the name itself."""
    return (
        str(weights.folder(str(name))) if str(name) in weights.NAMES else checks.expanded("the checkpoint", str(name))
    )


def family_or_none(config: dict[str, Any]) -> Family | None:
    """The family that serves a model with this config; None where none does."""
    try:
        return family_of(config, "the checkpoint")
    except UnsupportedModelError:
        return None


def weight_bytes(name: str) -> int | None:
    """Bytes of a folder's weight files; None where there are none, as for a hub name."""
    found = [path for pattern in PARTS for path in Path(name).glob(pattern)] if Path(name).is_dir() else []
    return sum(path.stat().st_size for path in found) or None


def check_structure(model: Model, name: str) -> None:
    """What can be said of a decoder without running it.

    Raises:
        UnsupportedModelError: heads that the attention op does not have, layers that are not full causal attention.
    """
    check_heads(model.config, name)
    check_layers(model.text_model)


def inventory(model: Model) -> dict[str, Any]:
    """Sizes of a model, loaded or not: parameters, layers, heads, bytes of keys and values per token in bfloat16."""
    config, parameters = model.config, parameter_count(model.hf)
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or [])
    return {
        "class": type(model.hf).__name__,
        "decoder": type(model.text_model).__name__,
        "family": type(model.family).__name__,
        "parameters": parameters,
        "of the decoder": parameter_count(model.text_model),
        "GiB in bfloat16": round(2 * parameters / 2**30, 2),
        "layers": model.n_layers,
        "heads": f"{model.n_heads} / {model.n_kv_heads} of {model.head_dim}",
        "hidden size": config.hidden_size,
        "vocabulary": model.vocab,
        "KiB of keys and values per token": round(4 * model.n_layers * model.n_kv_heads * model.head_dim / 1024, 2),
        "kinds of layers": ", ".join(kinds) or "full_attention",
    }


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
