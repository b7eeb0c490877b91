"""Qwen2-Audio: one sound of up to 30 s."""

from __future__ import annotations

from .processor_chat import ProcessorFamily
from .registry import register


@register
class Qwen2Audio(ProcessorFamily):
    """Checkpoint folders of Qwen2AudioForConditionalGeneration (Qwen/Qwen2-Audio-7B-Instruct)."""

    model_types = ("qwen2_audio",)
    model_class = "Qwen2AudioForConditionalGeneration"
    processor_class = "Qwen2AudioProcessor"
    reads = ("audio",)
    system = "You are a helpful assistant."  # what the processor's default chat template writes
