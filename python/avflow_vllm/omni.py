"""Qwen2.5-Omni's Thinker, with transformers' positions of a video that is interleaved with its sound.

vLLM 0.32 places all of such a video one token too early: it takes the mark <|audio_bos|>, with which the placeholder
begins, for the first patch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.model_executor.models.qwen2_5_omni_thinker import (
    Qwen2_5OmniThinkerDummyInputsBuilder,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniThinkerMultiModalProcessor,
    Qwen2_5OmniThinkerProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .model import HasModelState
from .settings import read_settings


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5OmniThinkerMultiModalProcessor,
    info=Qwen2_5OmniThinkerProcessingInfo,
    dummy_inputs=Qwen2_5OmniThinkerDummyInputsBuilder,
)
class OmniThinker(HasModelState, Qwen2_5OmniThinkerForConditionalGeneration):
    """vLLM's, and nothing else where the engine has no key "avflow"."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        settings = read_settings(vllm_config.additional_config)
        self.avflow_corrects = settings is not None and settings.corrected

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Any) -> tuple[torch.Tensor, int]:
        """int64 [3, N], and what a generated token's position is ahead of its number."""
        features = list(self.iter_mm_features(mm_features)) if self.avflow_corrects else []
        if not any(kind == "video" and data["use_audio_in_video"] for _, kind, data in features):
            return super().get_mrope_input_positions(input_tokens, mm_features)
        places = Places()
        done = 0
        for offset, kind, data in features:
            places.text(offset - done)
            if kind == "video" and data["use_audio_in_video"]:
                places.add(places.last())  # <|audio_bos|> stands where <|vision_bos|> does
                both, count = self._compute_interleaved_positions(places.following, data)
                places.add(both)
                places.add(np.full((3, 2), places.following))  # <|audio_eos|> and <|vision_eos|>, too
                done = offset + 1 + count + 2
                continue
            if kind == "audio":
                count = self._compute_audio_token_count(data["audio_feature_length"])
                places.text(count)
            else:
                grid = np.indices((data["grid_t"], data["grid_h"], data["grid_w"]))
                grid[0] = (grid[0] * data["t_factor"]).astype(np.int64)
                count = grid[0].size
                places.add(grid.reshape(3, -1) + places.following)
            done = offset + count
        places.text(len(input_tokens) - done)
        found = np.concatenate(places.parts, axis=1)
        return torch.from_numpy(found), int(found.max()) + 1 - len(input_tokens)


class Places:
    """Positions int64 [3, n], part by part."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    @property
    def following(self) -> int:
        return int(self.parts[-1].max()) + 1 if self.parts else 0

    def last(self) -> np.ndarray:
        return self.parts[-1][:, -1:]  # the chat puts <|vision_bos|> before every video

    def add(self, part: np.ndarray) -> None:
        self.parts.append(part)

    def text(self, count: int) -> None:
        if count > 0:
            self.add(np.repeat(np.arange(count)[None], 3, 0) + self.following)
