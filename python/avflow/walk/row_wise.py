"""A decoder's row-wise parts, run on some of the rows or on a few at a time: patches for `compat.attributes`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError
from ..models.base import Model
from .chunks import mlp_chunk

Patch = tuple[Any, str, Any]  # object, attribute, value


def _only_rows(module: nn.Module, rows: torch.Tensor) -> Patch:
    """The module's forward on some rows of [1, all rows, D]; the rest of the output is zero."""
    run = module.forward

    def forward(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        _refuse_more(module, more, named)
        part = run(x.index_select(1, rows))
        return part.new_zeros(1, x.shape[1], part.shape[-1]).index_copy_(1, rows, part)

    return module, "forward", forward


def _in_chunks(module: nn.Module, chunk: int) -> Patch:
    """The module's forward on `chunk` rows of [1, rows, D] at a time."""
    run = module.forward

    def forward(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        _refuse_more(module, more, named)
        if x.shape[1] <= chunk:
            return run(x)
        out = torch.empty_like(x)
        for at in range(0, x.shape[1], chunk):
            out[:, at : at + chunk] = run(x[:, at : at + chunk])
        return out

    return module, "forward", forward


def _refuse_more(module: nn.Module, more: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raises UnsupportedModelError where a layer gives a part more than the rows: of which rows is that?"""
    if more or named:
        names = list(inspect.signature(type(module).forward).parameters)[2:]  # after self and the rows
        names += [f"argument {at}" for at in range(len(names), len(more))]
        given = [*names[: len(more)], *named]
        raise UnsupportedModelError(
            f"a decoder layer gives its {type(module).__name__} {', '.join(given)} beside hidden states: avflow runs "
            "it on some rows at a time and does not carry that; avflow.knockout, in the model's own forward, does"
        )


def check_row_wise(model: Model) -> None:
    """Raises UnsupportedModelError, before anything has run, where a layer will give its MLP more than hidden states.

    That is told from names: what an MLP asks for, or takes by a name that its layer takes too (Ernie 4.5 VL's kinds of
    tokens). What no name tells is refused where it is given (`_refuse_more`).
    """
    for layer in model.layers:
        named = _named_more(type(layer).forward, type(layer.mlp).forward) if hasattr(layer, "mlp") else ()
        if named:
            _refuse_more(layer.mlp, (), dict.fromkeys(named))


@cache  # a signature takes some 20 us, every capture asks for all layers'
def _named_more(of_layer: Callable[..., Any], of_mlp: Callable[..., Any]) -> tuple[str, ...]:
    known = inspect.signature(of_layer).parameters
    more = list(inspect.signature(of_mlp).parameters.values())[2:]  # after self and the rows
    more = [p for p in more if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return tuple(p.name for p in more if p.default is p.empty or p.name in known)


def chunked_mlps(model: Model) -> list[Patch]:
    """Every layer's MLP takes a chunk of rows at a time."""
    chunk = mlp_chunk(model)
    return [_in_chunks(layer.mlp, chunk) for layer in model.layers if hasattr(layer, "mlp")]


def row_wise(model: Model, last_rows: torch.Tensor) -> list[Patch]:
    """MLPs in chunks; in the last layer, row-wise parts only for the rows int64 [P] that predict."""
    chunk = mlp_chunk(model)
    pairs = [_in_chunks(layer.mlp, chunk) for layer in model.layers[:-1] if hasattr(layer, "mlp")]
    last = model.layers[-1]
    for owner, name in ((last.self_attn, "q_proj"), (last.self_attn, "o_proj"), (last, "mlp")):
        if hasattr(owner, name):
            pairs.append(_only_rows(getattr(owner, name), last_rows))
    return pairs
