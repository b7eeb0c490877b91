"""A decoder's row-wise parts, run on some of the rows or on a few at a time: patches for `compat.attributes`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError
from ..models.base import Model
from .chunks import mlp_chunk

Patch = tuple[Any, str, Any]  # object, attribute, value


def _only_rows(module: nn.Module, run: Callable[..., torch.Tensor], rows: torch.Tensor) -> Patch:
    """The module's forward `run` on some rows of [1, all rows, D]; the rest of the output is zero."""

    def forward(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        _refuse_more(module, more, named)
        part = run(x.index_select(1, rows))
        return part.new_zeros(1, x.shape[1], part.shape[-1]).index_copy_(1, rows, part)

    return module, "forward", forward


def _in_chunks(module: nn.Module, run: Callable[..., torch.Tensor], chunk: int) -> Patch:
    """The module's forward `run` on `chunk` rows of [1, rows, D] at a time."""

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


def chunked_mlps(model: Model, patches: Sequence[Patch] = (), count: int | None = None) -> list[Patch]:
    """Every layer's MLP takes a chunk of rows at a time.

    patches: what is to be set too, and is then run in chunks. count: of the first so many layers alone.
    """
    return _chunked(model, model.layers[:count], patches).all


def row_wise(model: Model, last_rows: torch.Tensor, patches: Sequence[Patch] = ()) -> list[Patch]:
    """MLPs in chunks; in the last layer, row-wise parts only for the rows int64 [P] that predict.

    patches: as of `chunked_mlps`.
    """
    out, last = _chunked(model, model.layers[:-1], patches), model.layers[-1]
    for owner, name in ((last.self_attn, "q_proj"), (last.self_attn, "o_proj"), (last, "mlp")):
        if hasattr(owner, name):
            part = getattr(owner, name)
            out.add(_only_rows(part, out.forward_of(part), last_rows))
    return out.all


def _chunked(model: Model, layers: Iterable[Any], patches: Sequence[Patch]) -> _Patches:
    chunk, out = mlp_chunk(model), _Patches(patches)
    for layer in layers:
        if hasattr(layer, "mlp"):
            out.add(_in_chunks(layer.mlp, out.forward_of(layer.mlp), chunk))
    return out


class _Patches:
    """Patches of which each is the only one for its place."""

    def __init__(self, patches: Sequence[Patch]) -> None:
        self._by_place = {(id(owner), name): (owner, name, value) for owner, name, value in patches}

    @property
    def all(self) -> list[Patch]:
        return list(self._by_place.values())

    def forward_of(self, module: nn.Module) -> Callable[..., torch.Tensor]:
        """What the module's forward will be."""
        found = self._by_place.get((id(module), "forward"))
        return module.forward if found is None else found[2]

    def add(self, patch: Patch) -> None:
        """Takes the place of the one that is there."""
        self._by_place[id(patch[0]), patch[1]] = patch
