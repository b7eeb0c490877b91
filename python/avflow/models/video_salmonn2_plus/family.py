"""video-SALMONN 2+: where its prompt has what, and how a sample becomes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ...media.audio import SAMPLE_RATE, check_same_length, read_audio, sound_seconds
from ...media.container import MediaFile, open_media
from ...media.images import frame_size
from ...media.index import Index
from ...media.stills import read_image
from ...media.video import Video, read_video
from ...prompts import labels
from ...prompts.prompt import Prompt
from .. import chat, towers
from ..checkpoints import processor_folder
from ..registry import register
from ..wording import PromptStyle
from . import processor as processing

if TYPE_CHECKING:
    from ...media.timing import Timing
    from ...prompts.sample import Sample
    from ..base import Model

SYSTEM = "You are a helpful assistant."
SEGMENT = 4  # audio tokens of an item where sound stands alone: 2 s, as long as Qwen2.5-Omni's


@register
class VideoSalmonn2Plus(chat.ChatFamily):
    """The complete checkpoints, `..._3B_full` and `..._7B_full`; the folders without `_full` are LoRA adapters."""

    model_types = ("video_salmonn2_plus", "qwen2_5_vl")  # saved from here; as published

    def serves(self, config: dict[str, Any]) -> bool:
        return "audio_config" in config  # plain Qwen2.5-VL has the same model_type

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        from . import load_model

        return load_model(folder, dtype, device, **options)

    def make_empty(self, folder: str, config: dict[str, Any], **options: Any) -> nn.Module:
        from .checkpoint import empty_model

        return empty_model(folder, options)

    def load_processor(self, folder: str, **options: Any) -> Any:
        return processing.SalmonnProcessor.from_pretrained(processor_folder(folder, options))

    def prepare(  # type: ignore[override]  # it names the options that it takes
        self,
        model: Model,
        sample: Sample,
        *,
        fps: float | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
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

        Layout: system turn; user turn with image and video, or sound alone, each in a span of its own on its own
        line, then question, options, `instruction`; with `question_first` the text comes before the media. Sound
        stands within the video, after each temporal step the tokens of its time, after the last step all the rest.

        Args:
            fps, min_frames, max_frames: sampling of video. None: what the checkpoint was trained with, if its
                config.json says so in `video_sampling`, else as published: 10 frames a second, at least 16, up to 768,
                beyond which they are spread evenly; an odd last frame counts twice.
            min_pixels, max_pixels: limits per video frame. None: likewise, else 3136 and 61250. A video of fewer than
                `max_frames` frames spends what the others would have had: up to 0.95 * max_frames / frames *
                max_pixels each. The same two are the limits of an image if given, else the checkpoint's.
            use_audio_in_video: read the video's own sound. None: what the sample says, and if it says nothing, yes,
                unless the sample has a sound file, which then takes the place of the video's own, as published. A
                video without sound is an error, never a silent change.
            system: the system text. None: what the checkpoint was trained with, if its config.json says so in
                `prompt_texts`, else the published one.
            instruction: the line after the options; "" for none. Open-ended questions have none. None: as for system.
            prompt_style: how options are written, where the instruction stands, what the answer begins with: an
                avflow.PromptStyle, its fields, or its name, such as "map_the_flow".
            strict_media: refuse a video and a sound of different lengths (by more than 0.5 s and 5 %). Else sound that
                is too short for the published layout to exist is lengthened with silence, and longer sound follows
                the last step, as published; `prompt.media["notes"]` tells of the first.
            timing: "player": sound on the video's clock. "published": from its own first sample, gaps closed, never
                lengthened; a part of a video goes by the numbers of its frames, and its length by the latest end that
                a packet states.

        Items: video, the temporal step (2 frames); audio within a video, the step after which it stands, so that
        equal items are equal times, save for the last step, which has the sound's tail and its padding to 30 s; audio
        alone, the 2 s segment (4 tokens); options, their number. Marks, role names, ends of turns are "template".

        Raises:
            MediaError: a file that is missing, broken, without the sound that is asked for, or, with strict_media, of
                another length than its sound. InputError: text that holds one of
                the model's special tokens, limits that make no sense.
        """
        self._check_processor(model)
        own_sound = chat.wants_sound(sample, use_audio_in_video)
        limits = (min_pixels, max_pixels)
        wording = chat.wording(model, SYSTEM, system, instruction, question_first, prompt_style)
        given = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        sampling: dict[str, Any] = processing.SAMPLING | (model.hf.config.video_sampling or {})
        sampling |= {name: value for name, value in given.items() if value is not None}
        media = _read(model, sample, own_sound, sampling, limits, strict_media, timing)

        def encode(text: str) -> dict[str, Any]:
            return processing.encode(
                model.processor,
                text,
                frames=media.frames,
                seconds_per_frame=media.seconds_per_frame,
                sound=media.sound,
                image=media.image,
                image_pixels=chat.image_limits(model.processor, *limits),
            )

        return self.lay_out(model, sample, media, wording, encode)

    def _check_processor(self, model: Model) -> None:
        tokenizer = chat.tokenizer_of(model)
        if not isinstance(model.processor, processing.SalmonnProcessor):
            raise InputError(
                f"video-SALMONN 2+ cannot use a {type(model.processor).__name__}: load the model with avflow.load, or "
                "pass avflow.models.video_salmonn2_plus.processor.SalmonnProcessor.from_pretrained(folder)"
            )
        heard, tokens = model.processor.piece_tokens, model.hf.config.audio_tokens_per_piece
        if heard != tokens:
            raise InputError(
                f"the processor cuts sound into pieces of {model.processor.piece_seconds} s, {heard} tokens, the model "
                f"makes {tokens} of a piece: chunk_length in preprocessor_config.json is not of this config.json"
            )
        for kind, token in processing.PLACEHOLDERS.items():
            ours, theirs = tokenizer.convert_tokens_to_ids(token), getattr(self.media_ids(model), kind)
            if ours != theirs:
                raise InputError(
                    f"the tokenizer has {token} as {ours}, the model's config {kind}_token_id {theirs}: the two are "
                    "not of one checkpoint"
                )

    def media_ids(self, model: Model) -> labels.MediaIds:
        config = model.hf.config
        return labels.MediaIds(video=config.video_token_id, image=config.image_token_id, audio=config.audio_token_id)

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        return towers.patches(model.hf)

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        patch_tokens = labels.patch_tokens(grid, model.hf.config.vision_config.spatial_merge_size)
        return labels.label_media(ids, self.media_ids(model), patch_tokens, SEGMENT, audio_by_step=True)

    def media_times(self, model: Model, ids: list[int], inputs: dict[str, Any]) -> dict[int, float]:
        patch_tokens = labels.patch_tokens(
            inputs.get("video_grid_thw"), model.hf.config.vision_config.spatial_merge_size
        )
        steps = chat.step_seconds(inputs, "video_second_per_grid")
        return labels.time_media(ids, self.media_ids(model), patch_tokens, steps, 1 / processing.TOKENS_PER_SECOND)


def _read(
    model: Model,
    sample: Sample,
    own_sound: bool,
    sampling: dict[str, Any],
    limits: chat.Limits,
    strict: bool,
    timing: Timing,
) -> chat.Media:
    media = chat.Media(interleaved=bool(sample.video))
    media.facts["processor"] = model.processor.avflow_info.path
    if sample.image:
        media.image = read_image(sample.image)
    if sample.video:
        with open_media(sample.video) as file:
            check = chat.judge_own_sound(sample, file, strict) if own_sound else _judge_audio(sample, file, strict)
            video = _read_video(model, sample, file, sampling, limits, media, check, timing)
            if own_sound:
                media.sound = chat.read_own_sound(sample, file, video, mix="downmix", timing=timing)
    if sound := sample.audio or sample.dub:  # with a video they are the same here
        media.sound = read_audio(sound, mix="downmix", gaps=timing == "player")
    if media.sound is not None and media.frames is not None:
        what = f"sample {sample.id!r}: the sound of {sound or sample.video}"
        _fit_to_steps(model, media, what, pad=timing == "player")
    if media.sound is not None:
        media.facts["sound_seconds"] = len(media.sound) / SAMPLE_RATE
    return media


def _judge_audio(sample: Sample, file: MediaFile, strict: bool) -> Callable[[Index], None] | None:
    """With strict_media: a check, before anything is decoded, of the sound file that takes the place of the video's."""
    audio = sample.audio or sample.dub
    if not (strict and audio):
        return None
    return lambda index: check_same_length(sound_seconds(audio), index.duration, file.path)


def _fit_to_steps(model: Model, media: chat.Media, what: str, pad: bool) -> None:
    """Refuses sound with too few tokens for the video's steps; with `pad` it is first lengthened to the video's end."""
    assert media.sound is not None and media.frames is not None
    part, processor = model.processor.video_processor, model.processor
    steps = -(-len(media.frames) // part.temporal_patch_size)
    seconds = media.seconds_per_frame * part.temporal_patch_size
    if pad and processor.piece_tokens * processor.pieces(media.sound) < processing.audio_needed(steps, seconds):
        missing = round(media.facts["video_seconds"] * SAMPLE_RATE) - len(media.sound)
        media.sound = np.pad(media.sound, (0, max(missing, 0)))
        media.note(f"sound padded with {missing / SAMPLE_RATE:.2f} s of silence")
    processing.audio_counts(steps, seconds, processor.piece_tokens * processor.pieces(media.sound), what)


def _read_video(
    model: Model,
    sample: Sample,
    file: MediaFile,
    sampling: dict[str, Any],
    limits: chat.Limits,
    media: chat.Media,
    check: Callable[[Index], None] | None,
    timing: Timing,
) -> Video:
    """Decodes the sample's video, the open `file`, into `media`."""
    fps, min_frames, max_frames = (sampling[name] for name in ("fps", "min_frames", "max_frames"))
    if not 0 < fps < math.inf:
        raise InputError(f"fps is {fps}: sample more than 0 frames per second")
    if not 1 <= min_frames <= max_frames:
        raise InputError(f"min_frames {min_frames} and max_frames {max_frames}: need 1 <= min_frames <= max_frames")
    low, high = chat.pixel_limits(*limits, sampling["min_pixels"], sampling["max_pixels"])
    part = model.processor.video_processor

    def size(frames: int, height: int, width: int) -> tuple[int, int]:
        cap = processing.pixel_cap(frames, max_frames, high)
        return frame_size(height, width, part.patch_size * part.merge_size, low, cap)

    video = read_video(
        file,
        size=size,
        check=check,
        choose=lambda total, seconds: processing.frame_numbers(total, seconds, fps, min_frames, max_frames),
        span=(sample.start, sample.end),
        timing=timing,
    )
    media.frames = video.frames
    media.seconds_per_frame = 1 / (len(video.frames) / video.duration)  # in this order, as published: to the last bit
    media.facts |= {"frames": len(video.frames), "video_seconds": video.duration}
    return video
