"""The decoders that are served: vLLM's own classes, which loop over their layers alike.

Qwen2-VL, Qwen2.5-VL and Qwen2.5-Omni make their decoder by vLLM's registry, which gives them the Qwen2 of here.
"""

from __future__ import annotations

from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from .model import Evicting


class EvictingQwen2(Evicting, Qwen2ForCausalLM): ...


class EvictingQwen3(Evicting, Qwen3ForCausalLM): ...


class EvictingLlama(Evicting, LlamaForCausalLM): ...


class EvictingMistral(Evicting, MistralForCausalLM): ...
