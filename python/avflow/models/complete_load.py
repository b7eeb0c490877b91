"""A load is complete or it fails: every weight of the model comes from the checkpoint, and every one there is used.

transformers fills what a folder lacks with random numbers, and says so in a log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import checks
from ..errors import InputError
from .checkpoints import check_readable, placed, read_json, shards, shown

SHOWN = 3  # names of a list that a message spells out
# Names that packed weights have in place of `weight`, of GPTQ, AWQ, compressed-tensors, bitsandbytes, fp8.
_PACKED = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|weight_packed|weight_scale\w*|weight_zero_point|weight_shape|SCB|weight_format"
    r"|weight\.(absmax|quant_map|quant_state)\S*)$"
)
_SIZE = re.compile(
    r"(heads|num_\w*layers|encoder_layers|depth|hidden_size|intermediate_size|head_dim|d_model|ffn_dim)$"
)
# By the end of a size's name, far above what any model has. A model is made before its weights are looked at, layer by
# layer: 10**12 of them would take years.
_MOST = (
    (re.compile(r"(layers|depth)$"), 1_000),
    (re.compile(r"(heads|experts|num_experts_per_tok|head_dim)$"), 100_000),
    (re.compile(r"(hidden_size|intermediate_size|d_model|ffn_dim|embed_dim|out_size)$"), 10_000_000),
    (re.compile(r"vocab_size$"), 100_000_000),
)


def load_complete(
    cls: Any, name: str, dtype: torch.dtype | str, device: str, options: dict[str, Any], unused: str = ""
) -> nn.Module:
    """The model that `cls.from_pretrained` makes of a folder or hub name, on its device, with no weight made up.

    Args:
        cls: a transformers model class, or an auto class. dtype, device, options: as of `Family.load_hf`.
        unused: a regular expression; weights of the checkpoint whose names it finds belong to parts that are not
            loaded.

    Raises:
        InputError: weights that are missing, left over or of another shape; the message names them, and the mend.
    """
    # Other shapes are reported with all else, in one message.
    wanted = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _without_load_report():
        hf, report = cls.from_pretrained(name, dtype=dtype, **wanted)
    check_report(report, name, quantised=getattr(hf, "hf_quantizer", None) is not None, unused=unused)
    return placed(hf, device, options)


def check_report(report: dict[str, Any], name: str, quantised: bool = False, unused: str = "") -> None:
    """Refuses what from_pretrained's loading info tells of an incomplete load.

    Args:
        report: missing_keys, unexpected_keys: names; mismatched_keys: (name, shape in the checkpoint, in the model).
        quantised: the model was made to hold packed weights. unused: as of `load_complete`.

    Raises:
        InputError: see `load_complete`.
    """
    missing = sorted(report.get("missing_keys") or ())
    unexpected = sorted(k for k in report.get("unexpected_keys") or () if not (unused and re.search(unused, k)))
    shapes = sorted(report.get("mismatched_keys") or ())
    other = [f"{key} {tuple(found)}, expected {tuple(wanted)}" for key, found, wanted in shapes]
    problems = [
        f"{len(keys)} {what}: {listed(keys)}"
        for what, keys in (
            ("of the model's weights are not in it", missing),
            ("of its weights have no place in the model", unexpected),
            ("of its weights have another shape", other),
        )
        if keys
    ]
    if not problems:
        return
    if not quantised and any(_PACKED.search(key) for key in unexpected):
        mend = (
            "they are quantised, and its config.json has no quantization_config that says how: load the checkpoint "
            "that is not quantised, or put the quantization_config back"
        )
    elif other:
        mend = "config.json is not of these weights: take both from one checkpoint"
    else:
        mend = "download all of its files again, or save the whole model, under the names that its class has"
    raise InputError(f"checkpoint {name!r} does not fill the model: {'; '.join(problems)}; {mend}")


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Holds back transformers' table of missing and unexpected weights: `check_report` says it in an error."""

    def wanted(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def load_error(error: Exception, name: str, options: dict[str, Any], part: str = "checkpoint") -> InputError:
    """What to raise where transformers could not load a checkpoint: its broken file, or transformers' own words.

    part: "checkpoint", or "processor" where its weights are loaded and the processor is what failed.
    """
    what = f"checkpoint {name!r}" if part == "checkpoint" else f"the {part} of checkpoint {name!r}"
    given = f" with {shown(options)}" if options else ""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return InputError(f"{what} does not fit the memory of its device: pass dtype='bfloat16', or load it elsewhere")
    try:
        broken_file(Path(name))
    except InputError as broken:
        return broken
    except RuntimeError:
        pass  # no memory left to look with: the first error says more
    text = " ".join(f"{type(error).__name__}: {error}".split())[:600]
    if isinstance(error, ImportError):
        mend = "install the package that this names, or load another checkpoint of the model"
    elif part == "processor":
        mend = "are its preprocessor_config.json and its tokenizer's files whole, and of this model?"
    elif wrong := impossible_sizes(Path(name)):
        mend = f"its config.json has {wrong}: take it from the checkpoint again"
    else:
        mend = "is its config.json of these weights, and are all its files there and whole?"
    return InputError(f"{what} cannot be loaded{given}: {text}; {mend}")


def impossible_sizes(folder: Path) -> str:
    """The sizes in a folder's config.json of which no model can be made, for a message: "text_config.num_heads 0"."""
    config = folder / "config.json"
    return ", ".join(_below_one(read_json(config), "")) if config.is_file() else ""


def check_sizes(config: dict[str, Any], name: str) -> None:
    """Refuses a config.json of which no model can be made in any time or memory, before one is tried.

    Raises:
        InputError: the message names the sizes.
    """
    if wrong := ", ".join(_beyond(config, "")):
        raise InputError(
            f"checkpoint {name!r}: its config.json has {wrong}, more than any model has: take it from the checkpoint "
            "again"
        )


def _beyond(config: dict[str, Any], where: str) -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _beyond(value, f"{where}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            for ending, most in _MOST:
                if ending.search(key) and not value <= most:  # NaN too
                    yield f"{where}{key} {checks.shown(value)}"


def _below_one(config: dict[str, Any], where: str) -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _below_one(value, f"{where}{key}.")
        elif _SIZE.search(key) and isinstance(value, int | float) and value < 1:
            yield f"{where}{key} {value}"


def broken_file(folder: Path) -> None:
    """Finds the file of a checkpoint folder that nothing can read; a hub name or a whole folder is fine.

    Raises:
        InputError: the message names the file.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        read_json(path)
    indices = sorted(folder.glob("*.index.json"))
    files = {path for index in indices for path in shards(index)} | set(folder.glob("*.safetensors"))
    if not files and not list(folder.glob("*.bin")):
        raise InputError(f"checkpoint folder {str(folder)!r} has no model.safetensors: download the checkpoint again")
    for path in sorted(files):
        check_readable(path)
