"""What a model in memory must be before avflow runs it, and the model inside of PEFT's."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from ..errors import InputError, UnsupportedModelError

WIDEST_HEAD = 256  # of the attention op


def without_peft(hf: nn.Module) -> nn.Module:
    """The model inside of a PEFT model: the adapters are in its own layers, and its generate is what PEFT calls.

    Raises:
        UnsupportedModelError: an adapter of PEFT that is no part of the layers, but put before the prompt.
    """
    peft: Any = sys.modules.get("peft")  # whoever made such a model has imported it
    if peft is None or not isinstance(hf, peft.PeftModel | peft.PeftMixedModel):
        return hf
    for name, config in hf.peft_config.items():
        if getattr(config, "is_prompt_learning", False) or str(config.peft_type).endswith("XLORA"):
            raise UnsupportedModelError(
                f"adapter {name!r} is a {type(config).__name__}: it acts in PEFT's own forward, which avflow does not "
                "call; merge it, or use an adapter that is inside of the layers, such as LoRA"
            )
    return hf.get_base_model() if isinstance(hf, peft.PeftModel) else hf.base_model.model


def check_one_device(hf: nn.Module, device_map: Any = None) -> None:
    """A walk keeps rows of all layers on one device, and reads weights where they are.

    device_map: what the user passed to put it there.

    Raises:
        InputError: weights on several devices, or offloaded ones, which are on none between calls.
    """
    where: dict[str, str] = {}  # device -> the first weight on it
    for name, weight in hf.named_parameters():
        where.setdefault(str(weight.device), name)
    if len(where) <= 1 and "meta" not in where:
        return
    what, mend = "the model is", "load it onto one device, in a smaller dtype if it does not fit"
    if device_map is not None:
        what, mend = f"device_map = {device_map!r} puts the model", "pass device='cuda', or a smaller dtype"
    offloaded = "; weights on meta are offloaded, or were never loaded" if "meta" in where else ""
    first = ", ".join(f"{name} on {device}" for device, name in sorted(where.items()))
    raise InputError(
        f"{what} on {', '.join(sorted(where))}: avflow needs all of it on one device ({first}{offloaded}); {mend}"
    )


def check_heads(config: Any, where: str) -> None:
    """Raises UnsupportedModelError where the attention op has no such heads. config: the decoder's."""
    heads: int = getattr(config, "num_attention_heads", None) or 0
    kv_heads: int = getattr(config, "num_key_value_heads", None) or heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise UnsupportedModelError(
            f"{where}: num_attention_heads {heads} and num_key_value_heads {kv_heads} in its config: the second must "
            "divide the first"
        )
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    if width % 8 or not 8 <= width <= WIDEST_HEAD:
        raise UnsupportedModelError(
            f"{where}: heads of {width} (head_dim, or hidden_size over num_attention_heads, in its config): the "
            f"attention op has multiples of 8 up to {WIDEST_HEAD}"
        )
