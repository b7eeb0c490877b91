"""Qwen3-VL: images and silent video, each of whose steps has its time in words. How a sample becomes a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError
from ..media.images import fit_video
from ..media.stills import read_image
from ..media.video import read_video
from ..prompts.prompt import Prompt
from ..prompts.timed_labels import TimedIds, count_timed_videos, expand_timed, label_timed, times_timed
from . import chat, qwen3_towers
from . import vision_processor as vision
from .checkpoints import processor_folder
from .complete_load import load_complete
from .qwen2_5_omni import processor as processing
from .registry import register
from .wording import PromptStyle

if TYPE_CHECKING:
    from ..media.timing import Timing
    from ..prompts.sample import Sample
    from .base import Model

TOKEN = 32 * 32  # pixels of a token: 16 x 16 patches, merged 2 x 2
# What transformers' Qwen3VLVideoProcessor has where a folder says nothing: pixels of all frames of a video together.
VIDEO_PIXELS = (128 * TOKEN, 768 * TOKEN)
# Of a folder that leaves them out: its classes' own.
PICTURE = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@register
class Qwen3VL(chat.ChatFamily):
    """Checkpoint folders of Qwen3VLForConditionalGeneration."""

    model_types = ("qwen3_vl",)
    frames_apart = True

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        from transformers import Qwen3VLForConditionalGeneration

        return load_complete(Qwen3VLForConditionalGeneration, folder, dtype, device, options)

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        from transformers.models.qwen3_vl import modeling_qwen3_vl as vl

        return qwen3_towers.patches(model.hf, vl, vl.Qwen3VLVisionModel)

    def load_processor(self, folder: str, **options: Any) -> Any:
        return vision.VisionProcessor.from_pretrained(processor_folder(folder, options), PICTURE, VIDEO_PIXELS)

    def prepare(  # type: ignore[override]  # it names the options that it takes
        self,
        model: Model,
        sample: Sample,
        *,
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 768,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        use_audio_in_video: bool | None = None,
        question_first: bool = False,
        system: str | None = None,
        instruction: str | None = None,
        prompt_style: PromptStyle | Mapping[str, Any] | str | None = None,
        strict_media: bool = False,
        timing: Timing = "player",
    ) -> Prompt:
        """The sample as the model reads it: media decoded, text laid out, every token labelled. Encodes nothing yet.

        Before each step of a video (two frames) stands its time in words, the middle between its frames after the
        first one: these tokens and the marks are "template". A video's sound is not read: the model has no ears.

        Args:
            min_pixels, max_pixels: limits per video frame or image. Default: the checkpoint's; for video these are
                pixels of all frames together, as transformers' own processor has them.
            system: the system text. None: what the checkpoint was trained with, if its config.json says so in
                `prompt_texts`, else no system turn, as published.
            timing: "player" alone.

        Options, groups and items otherwise as for Qwen2.5-Omni; strict_media, which is about sound, changes nothing.

        Raises:
            MediaError: a file that is missing or broken. InputError: a sound file or use_audio_in_video=True, another
                timing, text that holds one of the model's special tokens, limits that make no sense.
        """
        asked = sample.use_audio_in_video if use_audio_in_video is None else use_audio_in_video
        if sample.audio or sample.dub or asked:
            raise InputError(f"sample {sample.id!r}: Qwen3-VL hears nothing: leave audio and use_audio_in_video out")
        if timing != "player":
            raise InputError(
                f"timing = {timing!r}: Qwen3-VL tells its model the frames' times, and the published pipelines choose "
                "frames in two ways (qwen-vl-utils, transformers): leave timing out"
            )
        wording = chat.wording(model, None, system, instruction, question_first, prompt_style)
        tokenizer, ids, limits = chat.tokenizer_of(model), self.media_ids(model), (min_pixels, max_pixels)
        media, times = _read(model, sample, (fps, min_frames, max_frames), limits)

        def encode(text: str) -> dict[str, Any]:
            shown = chat.image_limits(model.processor, *limits)
            inputs = vision.pixels(model.processor, media.frames, media.image, shown)
            runs: dict[int, list[list[int]]] = {}
            merge = model.processor.video_processor.merge_size
            if "image_grid_thw" in inputs:
                runs[ids.image] = [[ids.image] * math.prod(vision.tokens(inputs["image_grid_thw"][0], merge))]
            if "video_grid_thw" in inputs:
                steps, count = vision.tokens(inputs["video_grid_thw"][0], merge)
                words = [tokenizer(time_words(times, step), add_special_tokens=False) for step in range(steps)]
                parts = [[*w["input_ids"], ids.begin, *[ids.video] * count, ids.end] for w in words]
                runs[ids.video] = [sum(parts, [])]
            inputs = vision.fill(tokenizer, text, runs) | inputs
            kinds = (inputs["input_ids"] == ids.image).long() + 2 * (inputs["input_ids"] == ids.video).long()
            return inputs | {"mm_token_type_ids": kinds}

        return self.lay_out(model, sample, media, wording, encode)

    def media_ids(self, model: Model) -> TimedIds:  # type: ignore[override]  # with the marks of steps
        config = model.hf.config
        marks = config.vision_start_token_id, config.vision_end_token_id
        return TimedIds(config.video_token_id, config.image_token_id, *marks)

    def count_videos(self, model: Model, input_ids: torch.Tensor) -> int:
        return count_timed_videos(
            torch.as_tensor(input_ids).reshape(-1).tolist(), self.media_ids(model), _decode(model)
        )

    def expand(self, model: Model, plain: list[int], real: list[int]) -> list[int]:
        return expand_timed(plain, real, self.media_ids(model))

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        return label_timed(ids, self.media_ids(model), _decode(model))

    def media_times(self, model: Model, ids: list[int], inputs: dict[str, Any]) -> dict[int, float]:
        return times_timed(ids, self.media_ids(model), _decode(model))


@register
class Qwen3VLMoe(Qwen3VL):
    """Checkpoint folders of Qwen3VLMoeForConditionalGeneration."""

    model_types = ("qwen3_vl_moe",)

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe as vl

        return qwen3_towers.patches(model.hf, vl, vl.Qwen3VLMoeVisionModel)

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        from transformers import Qwen3VLMoeForConditionalGeneration

        return load_complete(Qwen3VLMoeForConditionalGeneration, folder, dtype, device, options)


def _decode(model: Model) -> Callable[[list[int]], str]:
    tokenizer = chat.tokenizer_of(model)
    return lambda ids: str(tokenizer.decode(ids))


def time_words(times: list[float], step: int) -> str:
    """What stands before a step of two frames. times: seconds of every frame."""
    return f"<{(times[2 * step] + times[2 * step + 1]) / 2:.1f} seconds>"


def _read(
    model: Model, sample: Sample, sampling: tuple[float, int, int], limits: chat.Limits
) -> tuple[chat.Media, list[float]]:
    """The media, and the seconds of the video's frames after its first."""
    info, part = processing.info(model.processor), model.processor.video_processor
    media, times = chat.Media(facts={"processor": info.path}), []
    if sample.image:
        media.image = read_image(sample.image)
    if sample.video:

        def size(frames: int, height: int, width: int) -> tuple[int, int]:
            low, high = _video_limits(part, limits, frames)
            return fit_video(frames, height, width, part.patch_size * part.merge_size, low, high)

        span = (sample.start, sample.end)
        video = read_video(sample.video, *sampling, size, span=span)
        media.frames, media.seconds_per_frame, times = video.frames, video.seconds_per_frame, video.times
        media.facts |= {"frames": len(video.frames), "video_seconds": video.duration}
    return media, times


def _video_limits(part: Any, limits: chat.Limits, frames: int) -> tuple[int, int]:
    """Pixels of all frames together: the processor's own, and where limits of a frame are given, these."""
    least, most = int(part.size["shortest_edge"]), int(part.size["longest_edge"])
    low, high = limits
    if limits != (None, None):
        chat.pixel_limits(low, high, 1, most)  # refuses what makes no sense
    if high is not None:
        most = min(most, high * frames)
        least = min(least, most)
    if low is not None:
        least = low * frames
        most = max(least, most)
    return least, most
