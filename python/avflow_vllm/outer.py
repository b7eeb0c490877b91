"""Models with media around a decoder of vLLM's registry: vLLM's own, which say what Model Runner V2 asks them."""

from __future__ import annotations

from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration

from .model import HasModelState


class EvictingQwen25VL(HasModelState, Qwen2_5_VLForConditionalGeneration): ...


class EvictingQwen2VL(HasModelState, Qwen2VLForConditionalGeneration): ...
