"""Audio Flamingo 3: one sound of up to 10 min."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .processor_chat import ProcessorFamily
from .registry import register

if TYPE_CHECKING:
    from .base import Model


@register
class AudioFlamingo3(ProcessorFamily):
    """Checkpoint folders of AudioFlamingo3ForConditionalGeneration (nvidia/audio-flamingo-3-hf)."""

    model_types = ("audioflamingo3",)
    model_class = "AudioFlamingo3ForConditionalGeneration"
    processor_class = "AudioFlamingo3Processor"
    reads = ("audio",)

    def most_seconds(self, model: Model) -> float:
        return float(model.processor.max_audio_len)
