"""Positions for attention that wants them beside the rotary tables, as Ministral 3's, which scales queries by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from ..models.base import Model
    from .capture import Captured

Patch = tuple[Any, str, Any]  # as of models.compat.attributes


def wants_places(attention: nn.Module) -> bool:
    """Whether an attention module cannot be called without position_ids."""
    own = getattr(attention.forward, "__func__", None)
    if own is not None and own is getattr(type(attention), "forward", None):
        return _wants_places(own)
    return _asks(attention.forward)  # one of its own may hold the module, and a cache would hold both


@lru_cache  # a signature takes some 20 us, every walk asks for all layers'
def _wants_places(class_forward: Callable[..., Any]) -> bool:
    return _asks(class_forward)


def _asks(forward: Callable[..., Any]) -> bool:
    wanted = inspect.signature(forward).parameters.get("position_ids")
    return wanted is not None and wanted.default is inspect.Parameter.empty


def places_of(positions: torch.Tensor | None, rows: int, device: torch.device) -> torch.Tensor:
    """Positions as layers are given them, [1, rows], from those of the decoder: [1, rows], [3, 1, rows], or None."""
    if positions is None:
        return torch.arange(rows, device=device)[None]
    return positions if positions.dim() == 2 else positions[0]


def with_places(model: Model, places: Callable[[int], torch.Tensor]) -> list[Patch]:
    """What to set while a walk runs the layers, for `attributes`; nothing where no attention wants positions.

    places: layer -> [1, rows], of all rows, those included that join later.
    """
    found: list[Patch] = []
    for index, layer in enumerate(model.layers):
        if wants_places(layer.self_attn):
            found.append((layer.self_attn, "forward", partial(_placed, layer.self_attn.forward, index, places)))
    return found


def in_all_layers(places: torch.Tensor) -> Callable[[int], torch.Tensor]:
    """For rows of which none joins later."""
    return lambda layer: places


def joined_places(batch: Sequence[Captured], device: torch.device) -> torch.Tensor:
    """Of several prompts, one after the other: [1, tokens]."""
    return torch.cat([places_of(c.positions, len(c), device) for c in batch], -1)


def _placed(
    own: Callable[..., Any], index: int, places: Callable[[int], torch.Tensor], hidden_states: torch.Tensor, **more: Any
) -> Any:
    where = places(index)[:, : hidden_states.shape[1]]
    return own(hidden_states=hidden_states, **{**more, "position_ids": where})
