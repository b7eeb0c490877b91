"""The one place where the decoder meets the attention op: a function in transformers' AttentionInterface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from avflow_ext import attention, capabilities

from ..errors import InputError, UnsupportedModelError
from .causal import Mask, RefusedMask, check_causal, refuse_if_given

if TYPE_CHECKING:
    from .compat import AttentionModule

__all__ = ["NAME", "AttentionCall", "attention", "attention_forward", "bypassed", "kernel_name", "register"]

# transformers treats names that hold "flash", "sdpa" or "flex" specially: this one holds none of them.
NAME = "avflow"


class AttentionCall(Protocol):
    """What rides along as the keyword `avflow_call` and does one layer's attention."""

    def __call__(
        self, module: AttentionModule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> torch.Tensor:
        """q [batch, heads, rows, d], k and v [batch, kv_heads, keys, d] -> [batch, rows, heads, d]."""


def attention_forward(
    module: AttentionModule,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    avflow_call: AttentionCall | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature; rotary embedding is applied already, heads are not repeated."""
    if avflow_call is None:
        raise InputError(
            "the decoder was called with avflow's attention, but not by avflow.sweep or avflow.knockout: another "
            "thread began one of them meanwhile, and the call must be made again when it has ended; or its layers "
            f"({type(module).__name__}) do not pass keyword arguments on to the attention function: then it cannot be "
            "served"
        )
    refuse_if_given(attention_mask)
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(f"{type(module).__name__} asks for {name}, which the attention op lacks")
    if query.dtype != value.dtype or key.dtype != value.dtype:
        raise InputError(
            f"{type(module).__name__} attends with q, k, v of {query.dtype}, {key.dtype}, {value.dtype}: leave "
            "torch.autocast, and load the model in the dtype that is wanted"
        )
    if key.shape[-1] != value.shape[-1]:
        raise UnsupportedModelError(
            f"{type(module).__name__} has keys of {key.shape[-1]} and values of {value.shape[-1]} numbers a head: the "
            "attention op has one size for both"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return avflow_call(module, query, key, value, attention_mask, scale), None


def bypassed(layer: torch.nn.Module, index: int, times: int) -> UnsupportedModelError:
    """The error for a decoder layer that asked `attention_forward` `times` times in one forward instead of once."""
    owner: Any = getattr(layer, "self_attn", layer)
    name = "self_attn.forward" if owner is not layer else "forward"
    function = getattr(owner.forward, "__func__", owner.forward)
    where = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    if times:
        return UnsupportedModelError(
            f"decoder layer {index} ({type(layer).__name__}) asked for attention {times} times, where avflow knows one "
            f"self-attention a layer ({name} is {where})"
        )
    return UnsupportedModelError(
        f"the attention of decoder layer {index} ({type(layer).__name__}) did not go through avflow, so that nothing "
        f"was cut there: its {name} is {where}. Load the model without what replaced it; it must call transformers' "
        "attention function (ALL_ATTENTION_FUNCTIONS) and pass its keyword arguments on"
    )


def padding_mask(
    *,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    mask_function: Mask | None = None,
    q_length: int = 1,
    q_offset: Any = 0,
    kv_offset: int = 0,
    batch_size: int = 1,
    device: torch.device | None = None,
    local_size: int | None = None,
    config: Any = None,
    **kwargs: Any,
) -> torch.Tensor | RefusedMask | None:
    """transformers' mask signature: padding as bool [batch, keys], None where there is none; no mask is built.

    A static cache's mask is as long as the cache: its shape must not change while a compiled forward runs.

    Raises:
        UnsupportedModelError: the decoder asks for a mask that is not plain causal.
    """
    if mask_function is not None:
        try:
            known = getattr(config, "sliding_window", None)
            check_causal(mask_function, q_length, kv_length, q_offset, kv_offset, batch_size, device, known)
        except UnsupportedModelError as error:
            kinds = getattr(config, "layer_types", None) or ["unknown"]
            if local_size is None or any(kind != "full_attention" for kind in kinds):
                raise
            return RefusedMask(error)  # beside the mask of full attention, which is that of all layers
    if attention_mask is None or attention_mask.dim() != 2:
        return attention_mask
    return torch.nn.functional.pad(attention_mask.bool(), (0, max(0, kv_length - attention_mask.shape[1])))


def register() -> str:
    """Adds the two functions to transformers' registries."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, padding_mask)
    return NAME


def kernel_name(device: torch.device) -> str:
    """Which path of the op runs on this device: "cpu-avx512", "cuda-sm90"; "cuda-none" where it cannot run there."""
    if device.type == "cpu":
        return f"cpu-{capabilities()['cpu']}"
    found = capabilities()["cuda"]
    if not found or not found["devices"]:
        return f"{device.type}-none"
    path = found["path"] if device.index is None else found["devices"][device.index]["path"]
    return f"cuda-{path or 'none'}"
