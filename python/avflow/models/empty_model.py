"""The transformers class that a config.json names, made on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import InputError, UnsupportedModelError


def empty_model(name: str, config: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """A model of the right shapes without numbers.

    Args:
        name: a checkpoint folder or hub name, config: its config.json as a dict. options: of checkpoints.HUB_OPTIONS.

    Raises:
        UnsupportedModelError: the installed transformers does not have the class. InputError: as `empty_of`.
    """
    import transformers

    named = config.get("architectures")
    found = named[0] if isinstance(named, list) and named else None
    cls = getattr(transformers, found, None) if isinstance(found, str) else None
    if cls is None or not hasattr(cls, "config_class"):
        own = "; its auto_map names code of its own, which avflow does not run" if "auto_map" in config else ""
        raise UnsupportedModelError(
            f"checkpoint {name!r} is of class {found!r}, which the installed transformers does not have{own}"
        )
    return empty_of(cls, name, options)


def empty_of(cls: Any, name: str, options: dict[str, Any]) -> nn.Module:
    """The same of a transformers class. Raises InputError for a config that makes none."""
    try:
        config = cls.config_class.from_pretrained(name, **options)
        with torch.device("meta"):
            model: nn.Module = cls(config)
        return model
    except Exception as error:  # what a config that makes no sense raises is of any kind
        text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise InputError(f"no {cls.__name__} can be made of the config.json of checkpoint {name!r}: {text}") from error
