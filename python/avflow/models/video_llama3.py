"""VideoLLaMA 3, as transformers has it: images of any size, video as frames with their times."""

from __future__ import annotations

from typing import Any

from .processor_chat import ProcessorFamily
from .registry import register


@register
class VideoLlama3(ProcessorFamily):
    """Checkpoint folders of VideoLlama3ForConditionalGeneration; those of the hub with code of their own are others."""

    model_types = ("video_llama_3",)
    model_class = "VideoLlama3ForConditionalGeneration"
    processor_class = "VideoLlama3Processor"

    def sampling(self, part: Any, total: int, seconds: float, fps: float | None, most: int | None) -> dict[str, Any]:
        rate = fps or getattr(part, "fps", None) or 1.0
        return {"fps": rate, "min_frames": min(part.min_frames, most or total), "max_frames": most or part.max_frames}
