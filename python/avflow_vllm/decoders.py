"""The decoders that are served beside model.py's Qwen2: vLLM's own classes, and nothing else without a schedule.

They loop over their layers as Qwen2 does. Qwen2-VL, Qwen2.5-VL and Qwen2.5-Omni make their decoder by vLLM's registry,
which gives them model.py's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from .attention import convert
from .model import HasModelState, Stretches
from .settings import read_settings


@cache
def in_stretches(decoder: Any) -> Any:
    return type(f"Evicting{decoder.__name__}", (Stretches, decoder), {"__module__": __name__})


class Evicting(HasModelState):
    """Before a ...ForCausalLM of vLLM's, whose constructor makes the decoder `model`."""

    model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        settings = read_settings(vllm_config.additional_config)
        if settings is None or not settings.boundaries:
            return
        decoder: Any = type(self.model)
        self.model.__class__ = in_stretches(decoder)  # vLLM's constructor names the class of its decoder itself
        for number, layer in enumerate(self.model.layers):
            if segment := settings.segment(number):
                convert(layer.self_attn.attn, segment)
        self.model.avflow_prepare(vllm_config, settings)


class EvictingQwen3(Evicting, Qwen3ForCausalLM): ...


class EvictingLlama(Evicting, LlamaForCausalLM): ...


class EvictingMistral(Evicting, MistralForCausalLM): ...
