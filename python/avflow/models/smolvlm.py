"""SmolVLM2: images in tiles, video as frames with their times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .processor_chat import ProcessorFamily
from .registry import register

if TYPE_CHECKING:
    from .base import Model


@register
class SmolVLM(ProcessorFamily):
    """Checkpoint folders of SmolVLMForConditionalGeneration (HuggingFaceTB/SmolVLM2-2.2B-Instruct)."""

    model_types = ("smolvlm",)
    model_class = "SmolVLMForConditionalGeneration"
    processor_class = "SmolVLMProcessor"
    frames = 64
    nested = True  # as transformers 5.17 takes it; later versions take either
    answer_lead = " "  # its turns are "Assistant: ..", of which the template begins "Assistant:"

    def media_id(self, model: Model, kind: str) -> int:
        found: int = model.processor.image_token_id  # of frames too
        return found

    def sampling(self, part: Any, total: int, seconds: float, fps: float | None, most: int | None) -> dict[str, Any]:
        count = most or getattr(part, "num_frames", None) or self.frames
        return {"num_frames": count, "fps": fps or getattr(part, "fps", None) or 1}
