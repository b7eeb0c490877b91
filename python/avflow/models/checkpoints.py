"""What a checkpoint folder is, before any weight of it is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSOR_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
# Arguments of from_pretrained that say where a checkpoint on the hub is, and how it is fetched.
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
# The published folders without `_full` are adapters; these hold whole models.
SALMONN_COMPLETE = tuple(f"tsinghua-ee/video-SALMONN2_plus_{size}_full" for size in ("3B", "7B", "72B"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint folder.

    Raises:
        InputError: no such file, or not a JSON object.
    """
    if not path.is_file():
        raise InputError(f"checkpoint folder {str(path.parent)!r} has no {path.name}: download all of its files")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and 10,000 brackets
        raise InputError(f"{path} is not a checkpoint's {path.name}: {error}; download it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a checkpoint's {path.name}: it holds a {type(value).__name__}, not an object")
    return value


def shards(index: Path) -> list[Path]:
    """The weight files that a ...index.json names, in the order of their names.

    Raises:
        InputError: an index that names none, or a file that is not there; the message names it.
    """
    placed_in = read_json(index).get("weight_map")
    if not isinstance(placed_in, dict) or not placed_in or not all(isinstance(f, str) for f in placed_in.values()):
        raise InputError(f"{index} has no weight_map that says which file holds a weight: download it again")
    files = [index.parent / name for name in sorted(set(placed_in.values()))]
    if missing := [path.name for path in files if not path.is_file()]:
        raise InputError(f"{index.parent} lacks {', '.join(missing)}: download the checkpoint again")
    return files


def check_readable(weights: Path) -> None:
    """Reads the header of a weight file: of a .safetensors the only part that can be judged without the data.

    Raises:
        InputError: it is empty, truncated or no such file; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if weights.stat().st_size == 0:
            raise InputError(f"{weights} is empty: download the checkpoint again")
        if weights.suffix == ".safetensors":
            with safe_open(weights, framework="pt"):
                pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights} is broken: {error}; download the checkpoint again") from error


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of HUB_OPTIONS that are given."""
    return {name: options[name] for name in HUB_OPTIONS if name in options}


def shown(options: dict[str, Any]) -> str:
    """Options for a message; a token is a secret."""
    return ", ".join(f"{name}={'...' if name == 'token' else repr(value)}" for name, value in options.items())


def processor_folder(name: str, options: dict[str, Any]) -> str:
    """Where a processor's files are: `name` itself, or a local copy where `options` ask for one of the hub's versions.

    The processors here read their files by name from a folder, or from the hub's main version.

    Raises:
        InputError: the hub has no such version, or cannot be reached.
    """
    hub = hub_options(options)
    if not hub or Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=PROCESSOR_FILES, **hub)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"the processor of checkpoint {name!r} cannot be fetched with {shown(hub)}: {error}"
        ) from error


def placed(hf: PreTrainedModel, device: str, options: dict[str, Any]) -> PreTrainedModel:
    """The model on its device; where a device_map was given it has been put there already."""
    if "device_map" not in options:
        # Some quantised models refuse to be moved, also to where they are.
        here = torch.empty(0, device=device).device
        if any(p.device != here for p in hf.parameters()):
            module: nn.Module = hf  # transformers wraps its own `to` in a way that checkers cannot follow
            module.to(device)
    return hf


def check_adapter(folder: Path, name: str) -> None:
    """Refuses a folder that holds a LoRA adapter. name: what the user called it.

    Raises:
        UnsupportedModelError: it does; the message names the checkpoint to load instead.
    """
    config = folder / "adapter_config.json"
    found = [config] if config.is_file() else sorted(folder.glob("adapter_model.*"))
    if not found:
        return
    base = read_json(config).get("base_model_name_or_path") if config.is_file() else None
    names = f"{name} {base}"
    if re.search("salmonn", names, re.IGNORECASE):
        size = re.search(r"(?<!\d)(3|7|72)B", names, re.IGNORECASE)
        complete = [n for n in SALMONN_COMPLETE if size and f"_{size[1]}B_" in n] or SALMONN_COMPLETE
        mend = f"load the complete checkpoint {' or '.join(map(repr, complete))} instead"
    else:
        mend = (
            f"merge it into its base model ({base or 'not named'}) and load the folder that gives, or load "
            "the base model, then peft.PeftModel.from_pretrained(model.hf, ...)"
        )
    raise UnsupportedModelError(f"checkpoint {name!r} holds a LoRA adapter ({found[0].name}), not a model: {mend}")
