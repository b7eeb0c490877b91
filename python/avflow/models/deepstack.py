"""Deepstack: features of deep vision layers, which a decoder adds to the rows of pictures behind its first layers.

The decoders of Qwen3-VL and of their kin are given them beside the embeddings: where the pictures' tokens are, and a
list with the features of these for layer 0, 1 .. A row that is not there gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PLACES, FEATURES = "visual_pos_masks", "deepstack_visual_embeds"  # arguments of the decoder's forward
METHOD = "_deepstack_process"  # of the decoder, an `Add`
Add = Callable[..., torch.Tensor]  # hidden [batch, m, D], places bool [batch, m], features [p, D] -> hidden


def arguments_of_deepstack(decoder: nn.Module) -> set[str]:
    """Those that hold it, of a decoder that adds it as it is known here; none of any other."""
    return {PLACES, FEATURES} if hasattr(decoder, METHOD) else set()


def deep_layers(decoder: nn.Module, config: Any) -> int:
    """Behind how many layers features of pictures are added. config: of the whole model."""
    places = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None)
    return len(places or ()) if arguments_of_deepstack(decoder) else 0


@dataclass(frozen=True)
class Deepstack:
    """Of one prompt. tokens: int64 [p], increasing. features: [layers, p, D], behind layer 0, 1 .."""

    tokens: torch.Tensor
    features: torch.Tensor


def deepstack_of(given: Mapping[str, Any], dtype: torch.dtype) -> Deepstack | None:
    """What a decoder's arguments hold for its one sequence; None for a prompt without pictures. Waits for the device.

    dtype: of the hidden states, to which the decoder rounds features as it adds them.
    """
    features = given.get(FEATURES)
    if features is None or not len(features):
        return None
    tokens = given[PLACES][0].nonzero()[:, 0]
    return Deepstack(tokens, torch.stack([part.to(tokens.device, dtype) for part in features]))


def of_rows(
    places: torch.Tensor, features: Sequence[torch.Tensor], sequence: slice, columns: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Places and features of some rows of a batch.

    Args:
        places: bool [batch, n]; features: [p, D] each, of all pictures' tokens, sequence by sequence.
        sequence: which of the batch. columns: int64 [n'] of all of these, or [batch', n'] of each; -1 has none.

    Returns:
        bool [batch', n'], and [p', D] each.
    """
    columns = columns.to(places.device)
    number = (places.flatten().cumsum(0) - 1).view_as(places)[sequence]  # of each row's feature
    columns = columns.expand(len(number), -1)
    at = columns.clamp(min=0)
    left = places[sequence].gather(1, at) & (columns >= 0)
    chosen = number.gather(1, at)[left]
    return left, [part.index_select(0, chosen.to(part.device)) for part in features]


def first_unlike(a: Deepstack | None, b: Deepstack | None) -> int | None:
    """The first token whose features differ between two prompts; None where none does. Waits for the device."""
    if a is None or b is None:
        one = b if a is None else a
        return int(one.tokens[0]) if one is not None and len(one.tokens) else None
    n = min(len(a.tokens), len(b.tokens))
    same = (a.features[:, :n] == b.features[:, :n]).all(-1).all(0) & (a.tokens[:n] == b.tokens[:n])
    if not bool(same.all()):
        at = int(same.int().argmin())
        return min(int(a.tokens[at]), int(b.tokens[at]))
    rest = [part.tokens[n] for part in (a, b) if len(part.tokens) > n]
    return int(rest[0]) if rest else None
