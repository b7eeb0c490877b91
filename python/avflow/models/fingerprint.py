"""Which weights a checkpoint's name stands for today: rows of two models must not come into one table."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from .. import weights as packaged
from ..fingerprints import of_file, of_weights

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_OTHERS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")  # configuration, tokenizer, processor, code
_OF_TRAINING = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args")  # nothing is read from them


def checkpoint_fingerprint(name: str) -> dict[str, str]:
    """{file: its fingerprint} of a checkpoint folder or of one of weights.NAMES, see `avflow.fingerprints`; of a name
    on the hub {"revision": its commit}. Nothing where there is no such checkpoint: loading it tells why."""
    if name in packaged.NAMES:
        home = packaged.installed()
        return _of_folder(home / name) if home else {}
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(folder)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        return {}
    from transformers.utils import cached_file

    absent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        config = cached_file(name, "config.json", **absent)
    except (OSError, ValueError):
        return {}
    # The hub's cache keeps every version in a folder that is called as its commit.
    return {"revision": Path(config).parent.name} if config else {}


def _of_folder(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (*_WEIGHTS, *_OTHERS) and not path.name.startswith(_OF_TRAINING):
            try:
                found[path.name] = (of_weights if path.suffix in _WEIGHTS else of_file)(path)
            except OSError:  # a folder, a link to nothing: loading tells, where it is needed
                continue
    return found


def model_fingerprint(hf: nn.Module) -> dict[str, str]:
    """The same of a model in memory, which may have no files: names, shapes, types and three values of each weight."""
    found, picks = hashlib.sha256(), []
    weights = sorted({**dict(hf.named_parameters()), **dict(hf.named_buffers())}.items())
    for name, tensor in weights:
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        if tensor.numel() and not tensor.is_meta and (tensor.is_floating_point() or not tensor.is_complex()):
            flat = tensor.detach().reshape(-1)
            picks.append(flat[[0, len(flat) // 2, len(flat) - 1]].double().cpu())  # float64 holds each type's values
    if picks:
        found.update(torch.cat(picks).numpy().tobytes())
    return {"in memory": f"{len(weights)} tensors {found.hexdigest()[:16]}"}
