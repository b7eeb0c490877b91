"""Qwen3-Omni (Thinker): as Qwen2.5-Omni, but for its sound's rate, where sound stands in a video, and larger tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..prompts import labels
from . import chat, qwen3_towers
from .base import Model
from .checkpoints import processor_folder
from .qwen2_5_omni import processor as processing
from .qwen2_5_omni.family import Qwen25Omni
from .registry import register

PIXELS = 32 * 32  # of one token: 16 x 16 patches, merged 2 x 2
VIDEO_PIXELS = (128 * PIXELS, 768 * PIXELS)  # of a frame, as transformers' Qwen3OmniMoeProcessor has them
PICTURE = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # where a folder says nothing
SEGMENT_SECONDS = 2  # of sound alone, an item
LONGEST = 24 * 3600.0  # seconds of sound: its processor cuts none


@register
class Qwen3Omni(Qwen25Omni):
    """A folder of the full model works (its thinker.* tensors are read), and one of the Thinker alone.

    A video's own sound stands step by step: after each temporal patch (2 frames) the sound up to the next one's time,
    and after the last all that is left. A sound token's item is then the step after which it stands; of sound alone,
    its 2 s. Without `system` there is no system turn. Else `prepare` is as for Qwen2.5-Omni.
    """

    model_types = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    system = None
    speech = r"^(talker|code2wav)\."

    def thinker_class(self) -> Any:
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

        return Qwen3OmniMoeThinkerForConditionalGeneration

    def load_processor(self, folder: str, **options: Any) -> Any:
        name = processor_folder(folder, options)
        return processing.load_processor(name, "Qwen3OmniMoeProcessor", VIDEO_PIXELS, PICTURE)

    def most_seconds(self, processor: Any) -> float:
        return LONGEST

    def fps_of(self, model: Model, media: chat.Media, text: str) -> float | None:
        if media.frames is None or not media.interleaved:
            return 1 / media.seconds_per_frame
        processor = model.processor
        before = len(processor.tokenizer(text.partition(processor.video_token)[0])["input_ids"])
        if media.image is not None:
            before += 2 * max(media.image.shape) // 32
        steps = len(media.frames) // processor.video_processor.temporal_patch_size
        return agreeing_fps(media.seconds_per_frame, steps, model.hf.config.position_id_per_seconds, before)

    def media_ids(self, model: Model) -> labels.MediaIds:
        config, tokenizer = model.hf.config, chat.tokenizer_of(model)
        return labels.MediaIds(
            video=config.video_token_id,
            audio=config.audio_token_id,
            image=config.image_token_id,
            audio_start=config.audio_start_token_id,
            audio_end=getattr(config, "audio_end_token_id", None) or tokenizer.audio_eos_token_id,
        )

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni

        return qwen3_towers.patches(model.hf, omni, omni.Qwen3OmniMoeVisionEncoder, omni.Qwen3OmniMoeAudioEncoder)

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        config = model.hf.config
        patch_tokens = labels.patch_tokens(grid, config.vision_config.spatial_merge_size)
        segment = round(SEGMENT_SECONDS * config.position_id_per_seconds)
        return labels.label_media(ids, self.media_ids(model), patch_tokens, segment, audio_by_step=True)


def agreeing_fps(seconds_per_frame: float, steps: int, per_second: float, before: int) -> float:
    """Frames per second for the processor, moved by some 1e-7 where rounding would split processor and model.

    Sound tokens stand at whole positions, steps of a video at steps x seconds x per_second. Which comes first the
    processor decides in float64 to lay out the tokens, the model in float32, on top of the `before` positions of what
    stands before, to place them. A step that comes near a whole position could fall on either side of it.
    """
    steps_at = np.arange(steps)
    fps = 1 / seconds_per_frame
    for nudge in range(0, 4096, 8):
        fps = (1 - nudge * 2.0**-24) / seconds_per_frame
        seconds = 2 / fps
        laid = steps_at * seconds * per_second
        placed = (torch.from_numpy(steps_at) * torch.tensor(seconds, dtype=torch.float32) * per_second).numpy()
        whole = np.rint(laid)
        rounded = 2.0**-22 * (laid + before)  # four roundings to 24 bits
        if (((laid == whole) & (placed == whole)) | (np.abs(laid - whole) > rounded)).all():
            break
    return fps
