"""Which weights a checkpoint's name stands for today: rows of two models must not come into one table."""

from __future__ import annotations

from pathlib import Path

from .. import weights
from ..fingerprints import of_file, of_weights

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_OTHERS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")  # configuration, tokenizer, processor, code
_OF_TRAINING = ("optimizer", "scheduler", "rng_state", "trainer_state", "training_args")  # nothing is read from them


def checkpoint_fingerprint(name: str) -> dict[str, str]:
    """{file: its fingerprint} of a checkpoint folder or of one of the package, see `avflow.fingerprints`; of a name
    on the hub {"revision": its commit}. Nothing where there is no such checkpoint: loading it tells why."""
    folder = weights.folder(name) if name in weights.NAMES else Path(name)
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
