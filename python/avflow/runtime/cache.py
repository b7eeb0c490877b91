"""Takes keys and values out of a cache: with decode="drop", all that left, once the prompt has been read.

And counts for transformers the tokens that its first layer does not hold.
"""

from __future__ import annotations

from functools import cache as once
from typing import Any

import numpy as np
import torch

from avflow_ext import compact

from ..errors import InputError
from ..uploads import upload
from .conversation import NEVER, Conversation


@once
def _short_layer() -> type:
    """A DynamicLayer whose get_seq_length() also counts `missing` tokens that it no longer holds.

    transformers takes positions, and what of a prompt is new, from the length of the first layer.
    """
    from transformers.cache_utils import DynamicLayer  # late: `import avflow` does without transformers

    class ShortLayer(DynamicLayer):
        keys: torch.Tensor
        values: torch.Tensor

        def __init__(self, keys: torch.Tensor, values: torch.Tensor, missing: int) -> None:
            super().__init__()
            self.lazy_initialization(keys, values)
            self.keys, self.values, self.missing = keys, values, missing

        def get_seq_length(self) -> int:
            return super().get_seq_length() + self.missing

        def crop(self, tokens_to_remove: int) -> None:
            if tokens_to_remove < 0:  # of what it holds, whatever its length says
                self.keys = self.keys[..., :tokens_to_remove, :]
                self.values = self.values[..., :tokens_to_remove, :]
            else:
                super().crop(tokens_to_remove)

        def reset(self) -> None:
            self.missing = 0
            super().reset()

    return ShortLayer


def hold_all(cache: Any) -> None:
    """Makes layers of a cache that keep the tokens of a sliding window only keep all: the op hides those outside.

    Tokens leave by the schedule, and a layer's keys must be those that its labels tell.

    Raises:
        InputError: such a layer has dropped some already.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    for number, layer in enumerate(getattr(cache, "layers", ())):
        if type(layer) is not DynamicSlidingWindowLayer:
            continue
        whole = DynamicLayer()
        if layer.is_initialized and layer.keys is not None and layer.values is not None:
            held = layer.keys.shape[-2]
            if held < layer.cumulative_length:
                raise InputError(
                    f"layer {number} of the cache keeps the last {held} of {layer.cumulative_length} tokens, its "
                    "sliding window's: read the prompt into DynamicCache(), made without a config, or by generate"
                )
            whole.lazy_initialization(layer.keys, layer.values)
            whole.keys, whole.values = layer.keys, layer.values
        cache.layers[number] = whole


def check_cache(cache: Any, what: str) -> None:
    """Raises InputError where the cache's memory is not ours to free, or to leave tokens out of. what: asks for it."""
    from transformers.cache_utils import DynamicLayer

    for layer in getattr(cache, "layers", ()):
        if type(layer) not in (DynamicLayer, _short_layer()):
            raise InputError(
                f"{what} in a {type(layer).__name__}: use a DynamicCache, or decode='keep' and no step before layer 0"
            )


def is_static(cache: Any) -> bool:
    """Whether the cache gives all the memory that it has, also beyond the tokens that it holds."""
    return bool(getattr(cache, "is_compileable", False))


def take_back(layer: Any) -> None:
    """Takes the last key of every sequence out of a cache layer."""
    if isinstance(getattr(layer, "cumulative_length", None), torch.Tensor):
        layer.cumulative_length.sub_(1)  # a static layer: the slot is written again
    else:
        layer.crop(-1)


def drop(cache: Any, state: Conversation) -> None:
    """Frees what left, and the padding, in all layers of the cache; afterwards `state` holds what remains."""
    layers = cache.layers
    keeps: list[torch.Tensor | None] = []
    sequence = np.arange(state.batch)[:, None]
    for segment, columns in enumerate(state.columns):
        safe = np.maximum(columns, 0)
        held = (columns >= 0) & state.real[sequence, safe]
        stay = held & (state.gone[sequence, safe] == NEVER)
        most = int(stay.sum(1).max())
        if most == columns.shape[1] and np.array_equal(stay, held):
            keeps.append(None)
            continue
        index = np.full((state.batch, most), -1, np.int32)
        for b in range(state.batch):
            at = np.flatnonzero(stay[b])
            index[b, most - len(at) :] = at
        state.columns[segment] = np.where(index >= 0, columns[sequence, np.maximum(index, 0)], -1).astype(np.int32)
        keeps.append(torch.from_numpy(index))
    there: dict[tuple[int, torch.device], torch.Tensor] = {}
    for number, layer in enumerate(layers):
        segment = state.segment(number)
        keep, device = keeps[segment], layer.keys.device
        if keep is not None:
            if (segment, device) not in there:
                there[segment, device] = upload(keep, device)
            keep = there[segment, device]
            layer.keys, layer.values = compact(layer.keys, keep), compact(layer.values, keep)
    count_missing(cache, state)


def count_missing(cache: Any, state: Conversation) -> None:
    """Makes the cache's length that of all tokens read, also those that its first layer does not hold."""
    first = cache.layers[0]
    cache.layers[0] = _short_layer()(first.keys, first.values, len(state) - state.physical(0))
