"""What a decoder and its layers are given beside embeddings, positions and a mask: what the walk would drop is refused.

Such as embeddings per layer, or keys that layers share with each other. Features of deep vision layers are carried
where the decoder adds them as `deepstack` knows it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputError, UnsupportedModelError
from .causal import RefusedMask, refuse_if_given
from .deepstack import arguments_of_deepstack

_CACHES = {"cache", "past_key_value", "past_key_values", "cache_position", "use_cache", "layer_past"}
_SHAPES = {"attention_mask", "position_ids", "return_dict", "output_attentions", "output_hidden_states"}
_DECODER = _CACHES | _SHAPES | {"input_ids", "inputs_embeds"}
_LAYER = _CACHES | _SHAPES | {"hidden_states", "position_embeddings"}
# What says again where media stand, for masks and positions: both are looked at themselves.
_PLACES = {"mm_token_type_ids", "token_type_ids"}


def check_decoder_arguments(decoder: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a decoder's forward, by name.

    Raises:
        UnsupportedModelError: something beside embeddings, positions, masks and deepstack; the message names it.
        InputError: an attention mask that hides tokens, or has two sequence dimensions.
    """
    given = by_name(decoder, args, kwargs)
    _refuse_others(
        f"the decoder ({type(decoder).__name__})", given, _DECODER | _PLACES | arguments_of_deepstack(decoder)
    )
    masks = given.get("attention_mask")
    for mask in masks.values() if isinstance(masks, Mapping) else [masks]:
        if mask is None or (isinstance(mask, RefusedMask) and isinstance(masks, Mapping)):
            continue  # of several kinds, a layer takes one
        refuse_if_given(mask)
        if mask.dim() != 2:
            raise InputError(
                f"the prompt has an attention_mask of shape {tuple(mask.shape)}: pass a 2-D one of ones; who sees whom "
                "is said by knockouts"
            )
        if not bool(mask.all()):
            raise InputError(
                "the prompt's attention_mask hides tokens (padding): pass each prompt without padding, for itself"
            )
    return given


def check_layer_arguments(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a decoder layer's forward, by name; `hidden_states` and `position_embeddings` are among them.

    Raises:
        UnsupportedModelError: the layer is given something that is not carried; the message names it.
    """
    given = by_name(layer, args, kwargs)
    what = f"a decoder layer ({type(layer).__name__})"
    refuse_if_given(given.get("attention_mask"))
    _refuse_others(what, given, _LAYER | _PLACES)
    tables = given.get("position_embeddings")
    if given.get("hidden_states") is None or not isinstance(tables, (tuple, list)) or len(tables) != 2:
        raise UnsupportedModelError(
            f"{what} is not given hidden_states and one pair of rotary tables (position_embeddings): avflow serves "
            "decoders with rotary positions that all layers share"
        )
    return given


def refuse_other_decoder_arguments(decoder: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises UnsupportedModelError for what the decoder is given beside embeddings, positions, masks and deepstack."""
    given = by_name(decoder, args, kwargs)
    known = _DECODER | _PLACES | {"avflow_call"} | arguments_of_deepstack(decoder)
    _refuse_others(f"the decoder ({type(decoder).__name__})", given, known)


def refuse_other_layer_arguments(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises UnsupportedModelError for what a layer is given beside hidden states, positions and masks."""
    given = by_name(layer, args, kwargs)
    _refuse_others(f"a decoder layer ({type(layer).__name__})", given, _LAYER | _PLACES | {"avflow_call"})


def by_name(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's forward, by name; "argument 3" for those that have none."""
    names = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    names += [f"argument {i}" for i in range(len(names), len(args))]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _refuse_others(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name, value in given.items():
        if name not in known and not isinstance(value, (type(None), bool, int, float, str, torch.dtype)):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
            raise UnsupportedModelError(
                f"{what} is given {name} ({type(value).__name__}{shape}) beside embeddings and positions: avflow does "
                "not carry it, and without it the numbers would be those of another model"
            )
