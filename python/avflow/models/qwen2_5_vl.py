"""Qwen2.5-VL: images and video without sound. Where its prompt has what, and how a sample becomes one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError
from ..media import images as pictures
from ..media.stills import read_image
from ..media.video import read_video
from ..prompts import labels
from ..prompts.prompt import Prompt
from . import chat, towers
from . import vision_processor as vision
from .checkpoints import processor_folder
from .complete_load import load_complete
from .qwen2_5_omni import processor as processing
from .registry import register
from .wording import INSTRUCTION, PromptStyle, Wording

if TYPE_CHECKING:
    from ..media.timing import Timing
    from ..prompts.sample import Sample
    from .base import Model

Grid = tuple[int, int, int, float]  # steps, rows, columns, seconds per step
SYSTEM = "You are a helpful assistant."  # the published chat template's default


@register
class Qwen25VL(chat.ChatFamily):
    """Checkpoint folders of Qwen2_5_VLForConditionalGeneration."""

    model_types = ("qwen2_5_vl",)

    def serves(self, config: dict[str, Any]) -> bool:
        return "audio_config" not in config  # video-SALMONN 2+ has the same model_type

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        from transformers import Qwen2_5_VLForConditionalGeneration

        return load_complete(Qwen2_5_VLForConditionalGeneration, folder, dtype, device, options)

    def load_processor(self, folder: str, **options: Any) -> Any:
        return vision.VisionProcessor.from_pretrained(processor_folder(folder, options))

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
        system: str = SYSTEM,
        instruction: str = INSTRUCTION,
        prompt_style: PromptStyle | Mapping[str, Any] | str | None = None,
        strict_media: bool = False,
        timing: Timing = "player",
    ) -> Prompt:
        """The sample as the model reads it: media decoded, text laid out, every token labelled. Encodes nothing yet.

        The prompt brings its own position_ids (see `position_ids`). A video's sound is not read: the model has no ears.
        Options, groups and items otherwise as for Qwen2.5-Omni; strict_media, which is about sound, changes nothing.

        Raises:
            MediaError: a file that is missing or broken. InputError: a sound file or use_audio_in_video=True, text
                that holds one of the model's special tokens, limits that make no sense.
        """
        asked = sample.use_audio_in_video if use_audio_in_video is None else use_audio_in_video
        if sample.audio or sample.dub or asked:
            raise InputError(f"sample {sample.id!r}: Qwen2.5-VL hears nothing: leave audio and use_audio_in_video out")
        chat.tokenizer_of(model)
        limits = (min_pixels, max_pixels)
        media = _read(model, sample, (fps, min_frames, max_frames), limits, timing)
        ids = self.media_ids(model)

        def encode(text: str) -> dict[str, Any]:
            part = model.processor.video_processor
            shown = chat.image_limits(model.processor, *limits)
            inputs: dict[str, Any] = vision.pixels(model.processor, media.frames, media.image, shown)
            runs = {}
            for token, name in ((ids.image, "image_grid_thw"), (ids.video, "video_grid_thw")):
                if name in inputs:
                    runs[token] = [[token] * math.prod(vision.tokens(inputs[name][0], part.merge_size))]
            if media.frames is not None:
                seconds = media.seconds_per_frame * part.temporal_patch_size
                inputs["second_per_grid_ts"] = torch.tensor([seconds], dtype=torch.float32)
            inputs = vision.fill(model.processor.tokenizer, text, runs) | inputs
            inputs["position_ids"] = self.position_ids(model, inputs)[0]
            return inputs

        wording = Wording(system, instruction, question_first, PromptStyle.of(prompt_style))
        return self.lay_out(model, sample, media, wording, encode)

    def position_ids(self, model: Model, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Position ids and rope deltas by the rule that the checkpoints were published with (transformers 4.49).

        Text: consecutive, equal on the three axes, from 1 + the largest position of any axis so far. Step k, row r,
        column c of a picture that starts at p: (p + floor(k * seconds per step * tokens_per_second), p + r, p + c); an
        image has one step. transformers >= 5.3 resumes text at p + max(rows, columns), inside the video's time.
        Padded tokens (attention_mask 0) have position 0.
        """
        config = model.hf.config
        merge, rate = config.vision_config.spatial_merge_size, config.vision_config.tokens_per_second
        seconds = inputs.get("second_per_grid_ts")
        grids = {
            config.image_token_id: _grids(inputs.get("image_grid_thw"), merge, 0.0),
            config.video_token_id: _grids(inputs.get("video_grid_thw"), merge, 1.0 if seconds is None else seconds),
        }
        every = inputs["input_ids"].cpu()  # [B, N]
        mask = inputs.get("attention_mask")
        kept = torch.ones_like(every, dtype=torch.bool) if mask is None else mask.cpu().bool()
        out = torch.zeros(3, *every.shape, dtype=torch.long)
        deltas = []
        for row, (ids, here) in enumerate(zip(every, kept, strict=True)):
            found = _rope_index(ids[here].tolist(), grids, rate)
            out[:, row, here] = found
            deltas.append([int(found.max()) + 1 - found.shape[1]])
        device = inputs["input_ids"].device
        return out.to(device), torch.tensor(deltas, device=device)

    def media_ids(self, model: Model) -> labels.MediaIds:
        return labels.MediaIds(video=model.hf.config.video_token_id, image=model.hf.config.image_token_id)

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        return towers.patches(model.hf)

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        patch_tokens = labels.patch_tokens(grid, model.hf.config.vision_config.spatial_merge_size)
        return labels.label_media(ids, self.media_ids(model), patch_tokens, 1)

    def media_times(self, model: Model, ids: list[int], inputs: dict[str, Any]) -> dict[int, float]:
        patch_tokens = labels.patch_tokens(
            inputs.get("video_grid_thw"), model.hf.config.vision_config.spatial_merge_size
        )
        steps = chat.step_seconds(inputs, "second_per_grid_ts")
        return labels.time_media(ids, self.media_ids(model), patch_tokens, steps, 0.0)  # it hears nothing


def _read(
    model: Model, sample: Sample, sampling: tuple[float, int, int], limits: chat.Limits, timing: Timing
) -> chat.Media:
    info, part = processing.info(model.processor), model.processor.video_processor
    media = chat.Media(facts={"processor": info.path})
    if sample.image:
        media.image = read_image(sample.image)
    if sample.video:
        low, high = chat.pixel_limits(*limits, info.min_pixels, info.max_pixels)

        def size(frames: int, height: int, width: int) -> tuple[int, int]:
            return pictures.video_size(frames, height, width, part.patch_size * part.merge_size, low, high)

        fps, min_frames, max_frames = sampling
        span = (sample.start, sample.end)
        video = read_video(sample.video, fps, min_frames, max_frames, size, span=span, timing=timing)
        media.frames, media.seconds_per_frame = video.frames, video.seconds_per_frame
        media.facts |= {"frames": len(video.frames), "video_seconds": video.duration}
    return media


def _grids(grid: torch.Tensor | None, merge: int, seconds: torch.Tensor | float) -> list[Grid]:
    """Steps, rows, columns and seconds per step of every picture, to be taken from the front."""
    if grid is None:
        return []
    times = torch.as_tensor(seconds, dtype=torch.float64).expand(len(grid)).tolist()
    return [(t, h // merge, w // merge, s) for (t, h, w), s in zip(grid.tolist(), times, strict=True)]


def _rope_index(ids: list[int], grids: dict[int, list[Grid]], rate: float) -> torch.Tensor:
    """Positions int64 [3, N] of one prompt without padding; takes its pictures from `grids`."""
    parts: list[torch.Tensor] = []
    at, free = 0, 0  # the next token, the next position
    while at < len(ids):
        if ids[at] in grids:
            if not grids[ids[at]]:
                raise InputError(f"token {at} is a picture's, and there is no grid left for it: pass one per picture")
            t, h, w, seconds = grids[ids[at]].pop(0)
            steps = (torch.arange(t) * seconds * rate).long()  # a float32 product, as published
            cells = torch.cartesian_prod(steps, torch.arange(h), torch.arange(w)).reshape(-1, 3)
            part = free + cells.T  # [3, t * h * w]
        else:
            stop = next((i for i in range(at, len(ids)) if ids[i] in grids), len(ids))
            part = free + torch.arange(stop - at).expand(3, -1)
        parts.append(part)
        at += part.shape[1]
        free = int(part.max()) + 1
    return torch.cat(parts, 1)
