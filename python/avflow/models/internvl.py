"""InternVL 3 and 3.5, as transformers has them: images in tiles, video as numbered frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .processor_chat import ProcessorFamily
from .registry import register

if TYPE_CHECKING:
    from .base import Model


@register
class InternVL(ProcessorFamily):
    """Checkpoint folders of InternVLForConditionalGeneration (OpenGVLab/InternVL3-8B-hf; the hub's `-hf` ones)."""

    model_types = ("internvl",)
    model_class = "InternVLForConditionalGeneration"
    processor_class = "InternVLProcessor"

    def media_id(self, model: Model, kind: str) -> int:
        return model.processor.image_token_id  # a frame is an image of one tile
