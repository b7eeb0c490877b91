"""LLaVA-OneVision: images in tiles, video as pooled frames."""

from __future__ import annotations

from .processor_chat import ProcessorFamily
from .registry import register


@register
class LlavaOneVision(ProcessorFamily):
    """Checkpoint folders of LlavaOnevisionForConditionalGeneration (llava-hf/llava-onevision-qwen2-7b-ov-hf)."""

    model_types = ("llava_onevision",)
    model_class = "LlavaOnevisionForConditionalGeneration"
    processor_class = "LlavaOnevisionProcessor"
