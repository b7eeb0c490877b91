"""`load` and `wrap`: the two ways to a model."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import checks, weights
from ..errors import AvflowError, InputError
from ..versions import check_transformers
from .base import Model
from .checkpoints import check_adapter, hub_options, read_json
from .compat import declare_torchvision
from .complete_load import broken_file, check_sizes, load_error
from .model_checks import check_heads, check_one_device, without_peft
from .registry import family_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def wrap(hf: nn.Module, processor: Any = None) -> Model:
    """A transformers model that is already in memory. Its weights are used as they are, nothing is copied.

    Of a PEFT model `Model.hf` is the model inside, whose layers hold the adapters: call that one, not PEFT's.

    Raises:
        InputError: weights on more than one device, or offloaded ones.
        UnsupportedModelError: a model of no supported family, heads that the attention op does not have, an adapter
            of PEFT that is no part of the layers.
    """
    check_transformers()
    hf = without_peft(hf)
    config = getattr(hf, "config", None)
    model = Model(hf, family_of(config.to_dict() if config is not None else {}, type(hf).__name__), processor)
    check_one_device(model.hf)
    check_heads(model.config, type(hf).__name__)
    return model


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    *,
    device_map: Any = None,
    attn_implementation: str | None = None,
    **options: Any,
) -> Model:
    """A model with its processor: from a checkpoint folder, of avflow-models ("tiny-omni", "tiny-salmonn"), or the hub.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        dtype: "float32", "bfloat16", "float16", "auto" (that of the checkpoint), or a torch.dtype.
        device_map: as of transformers' from_pretrained, in place of `device`; all of the model must come to one device.
        attn_implementation: what the model's own forward and generate attend with. avflow's passes have their own.
        options: further arguments of from_pretrained: revision, token, cache_dir, local_files_only, force_download (of
            config, weights and processor), trust_remote_code, quantization_config, ...

    Raises:
        InputError: no such folder, a small model without its package, no config.json, sizes in it beyond any model's,
            an unknown dtype or device, an option that cannot be honoured; a file that is missing or broken, weights
            that are missing, left over or of another shape; weights that do not come to one device.
        UnsupportedModelError: a checkpoint of no supported family, an adapter without its model, heads that the
            attention op does not have, an installed transformers that is too old.
    """
    check_transformers()
    name = str(weights.folder(name)) if name in weights.NAMES else checks.expanded("the checkpoint", name)
    dtype, device = _dtype(dtype), _device(device)
    if device_map is not None:
        _check_device_map(device_map, device)
    if options.get("revision") is not None and Path(name).is_dir():
        raise InputError(f"revision = {options['revision']!r}: {name!r} is a folder, leave it out (it is of hub names)")
    given = {"device_map": device_map, "attn_implementation": attn_implementation, **options}
    given = {key: value for key, value in given.items() if value is not None}
    hub = hub_options(given)
    config = read_config(name, hub)
    check_sizes(config, name)
    family = family_of(config, f"checkpoint {name!r}")
    declare_torchvision()
    hf = _passed_on("checkpoint", family.load_hf, given, name, dtype, device).eval()
    check_one_device(hf, device_map)
    of_processor = hub | {key: given[key] for key in ("trust_remote_code",) if key in given}
    model = Model(hf, family, _passed_on("processor", family.load_processor, of_processor, name))
    check_heads(model.config, f"checkpoint {name!r}")
    return model


def _dtype(dtype: Any) -> torch.dtype | str:
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype == "auto" or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    raise InputError(f"dtype {dtype!r}: pass one of {', '.join(_DTYPES)}, auto, or a floating torch.dtype")


def _device(device: Any) -> str:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}: pass 'cpu', 'cuda' or 'cuda:0'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {str(device)!r}: torch sees no CUDA device here; pass device='cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {str(device)!r}: torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    return str(device)


def _check_device_map(device_map: Any, device: str) -> None:
    if device != "cpu":
        raise InputError(f"device = {device!r} and device_map = {device_map!r}: pass one of the two")
    if importlib.util.find_spec("accelerate") is None:
        raise InputError(
            f"device_map = {device_map!r} needs the package accelerate, which is not installed: pip install "
            "accelerate, or pass device= instead"
        )


def _passed_on(part: str, load_part: Callable[..., Any], options: dict[str, Any], *arguments: Any) -> Any:
    """Calls a family's load_hf or load_processor with the options, which one written for avflow 0.1 does not take.

    part: which of them, for messages: "checkpoint", "processor".
    """
    parameters = inspect.signature(load_part).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = {p.name for p in parameters}
        if unknown := [key for key in options if key not in known]:
            where = getattr(load_part, "__qualname__", repr(load_part))
            raise InputError(f"{unknown[0]} = {options[unknown[0]]!r}: {where} takes no such option; leave it out")
    try:
        return load_part(*arguments, **options)
    except AvflowError:
        if part == "processor":
            broken_file(Path(arguments[0]))  # says which file it is, where one is broken
        raise
    except Exception as error:  # what transformers raises for a broken file is of any kind
        raise load_error(error, str(arguments[0]), options, part) from error


def read_config(name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """config.json of a checkpoint folder or of a name on the hub. hub: those of HUB_OPTIONS that are given.

    Raises:
        InputError: no such folder or name, or a file of it that is broken.
    """
    folder = Path(name)
    if folder.is_dir():
        check_adapter(folder, name)
        if (settings := folder / "generation_config.json").is_file():
            read_json(settings)  # transformers takes a broken one for none, and generate goes on without its end token
        return read_json(folder / "config.json")
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise InputError(
            f"no folder {name!r}: pass a checkpoint folder, or a hub name such as 'Qwen/Qwen2.5-Omni-3B', "
            f"or {' or '.join(map(repr, weights.NAMES))} of the package avflow-models"
        )
    declare_torchvision()
    from transformers import PretrainedConfig
    from transformers.utils import cached_file

    absent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        adapter = cached_file(name, "adapter_config.json", **absent, **hub)
        if adapter is not None:
            check_adapter(Path(adapter).parent, name)
        return PretrainedConfig.get_config_dict(name, **hub)[0]
    except OSError as error:
        raise InputError(f"checkpoint {name!r} is neither a folder nor reachable on the hub: {error}") from error
