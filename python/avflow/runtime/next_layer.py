"""What a decoder layer's attention would be asked, without running the layer: for policies that rank by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError


class _Asked(Exception):
    """Ends a layer's forward where it asks for attention."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, scale: float) -> None:
        self.q, self.k, self.scale = q, k, scale


def _stop(module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float) -> Any:
    raise _Asked(q, k, scale)


def queries_and_keys(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A layer's queries and keys for the rows that it is given, by its own norm, projections and rotary embedding.

    Args:
        args, kwargs: of the layer's forward, in a forward of the model that attends with avflow's function.

    Returns:
        q [batch, rows, heads, d], k [batch, rows, kv_heads, d], and the scale of their products. No cache is written.

    Raises:
        UnsupportedModelError: the layer asks for no attention.
    """
    kwargs = kwargs | {"attention_mask": None, "avflow_call": _stop}
    for name in ("cache", "past_key_values", "past_key_value"):
        if name in kwargs:
            kwargs[name] = None
    try:
        with torch.no_grad():
            layer.forward(*args, **kwargs)  # not by a call: avflow's own hook on the layer is where this is asked
    except _Asked as asked:
        return asked.q.transpose(1, 2), asked.k.transpose(1, 2), asked.scale
    raise UnsupportedModelError(
        f"{type(layer).__name__} asks for no attention by avflow's function: a policy with scored_in='next' cannot "
        "rank by it"
    )
