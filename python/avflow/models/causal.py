"""Whether a decoder is plain causal attention, or that within a window: read from the masks that it asks for.

A config alone does not tell: windows, chunks and pictures that see both ways stand in different places of each family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..errors import UnsupportedModelError

Mask = Callable[..., Any]  # transformers': (batch, head, query, key) as indices -> whether the query sees the key

# Of query x key pairs that are compared one by one, where a mask is none of transformers' own: 64 MiB of bool.
_MOST_PAIRS = 2**26


class RefusedMask:
    """Stands for a mask that avflow does not carry, until a layer is given it: some decoders make masks that none uses.

    error: what to raise then.
    """

    def __init__(self, error: UnsupportedModelError) -> None:
        self.error = error


def refuse_if_given(mask: Any) -> None:
    """Raises the error of a `RefusedMask`."""
    if isinstance(mask, RefusedMask):
        raise mask.error


def check_causal(
    mask: Mask,
    queries: int,
    keys: int,
    first_query: Any = 0,
    first_key: int = 0,
    batch: int = 1,
    device: torch.device | None = None,
    known: int | None = None,
) -> None:
    """A mask function against plain causal attention over these queries and keys; a window that holds them all is.

    Args:
        queries, keys: how many there are. first_query, first_key: the place of the first in the sequence.
        known: the width of the sliding window that some layers are known to have (`windows.layer_windows`); None: none.

    Raises:
        UnsupportedModelError: an edge differs, or too many pairs would have to be compared to tell.
    """
    from transformers.masking_utils import causal_mask_function  # late: `import avflow` does without transformers

    if mask is causal_mask_function:
        return
    window = _window(mask)
    if window is not None:
        if window == known or (first_key == 0 and keys <= window):  # or the last query still sees the first key
            return
        raise UnsupportedModelError(
            f"the decoder attends within a sliding window of {window} tokens, and is to read {int(first_key) + keys}: "
            f"avflow carries full causal attention only, and the window of the text config (sliding_window = {known}). "
            "Pass prompts that fit the window with their answer, or a model whose config tells it"
        )
    if not torch.compiler.is_compiling() and _same(mask, queries, keys, first_query, first_key, batch, device):
        return
    raise UnsupportedModelError(
        f"the decoder asks for a mask that is not plain causal over {keys} tokens ({_named(mask)}): pictures or blocks "
        "that see both ways, attention in chunks, or position_ids that begin anew (packed sequences). avflow carries "
        "full causal attention only: pass each sequence for itself with an attention_mask of ones, or another model"
    )


def _parts(mask: Mask) -> list[Mask]:
    """The functions that transformers' `and_masks` joined, down to those that are not joined."""
    from transformers.masking_utils import and_masks

    if getattr(mask, "__code__", None) is not and_masks(mask).__code__:
        return [mask]
    return [part for cell in mask.__closure__ or () for joined in cell.cell_contents for part in _parts(joined)]


def _window(mask: Mask) -> int | None:
    """The width of a causal sliding window; None for every other mask."""
    from transformers.masking_utils import causal_mask_function, sliding_window_overlay

    window = None
    for part in _parts(mask):
        if getattr(part, "__code__", None) is sliding_window_overlay(1).__code__:
            window = inspect.getclosurevars(part).nonlocals["sliding_window"]
        elif part is not causal_mask_function:
            return None
    return window


def _same(
    mask: Mask, queries: int, keys: int, first_query: Any, first_key: int, batch: int, device: torch.device | None
) -> bool:
    """Whether every query sees the keys up to its own place and no others; waits for the device."""
    if batch * queries * keys > _MOST_PAIRS:
        return False
    b = torch.arange(batch, device=device)[:, None, None, None]
    h = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    q = torch.arange(queries, device=device)[None, None, :, None] + first_query
    k = torch.arange(keys, device=device)[None, None, None, :] + first_key
    try:
        seen = mask(b, h, q, k)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False  # not a function of indices alone
    return bool((torch.as_tensor(seen) == (k <= q)).all())


def _named(mask: Mask) -> str:
    """The functions of a mask, by name."""
    names = [getattr(part, "__qualname__", repr(part)).split(".<locals>")[0] for part in _parts(mask)]
    return ", ".join(dict.fromkeys(names))
