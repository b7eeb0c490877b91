"""Text-only decoders of the Qwen2/Qwen3/Llama kind: prompts are built by the caller."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .base import Family
from .complete_load import load_complete
from .registry import register


@register
class TextFamily(Family):
    """Decoders whose prompt has no layout that avflow knows: pass avflow.Prompt."""

    model_types = ("qwen2", "qwen3", "llama", "mistral", "ministral3", "qwen2_5_vl_text", "qwen2_5_omni_text")

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        from transformers import AutoModelForCausalLM

        return load_complete(AutoModelForCausalLM, folder, dtype, device, options)

    def load_processor(self, folder: str, **options: Any) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, **options)
