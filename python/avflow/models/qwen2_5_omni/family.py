"""Qwen2.5-Omni (Thinker): where its prompt has what, and how a sample becomes one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import MediaError
from ...media import images as pictures
from ...media.audio import SAMPLE_RATE, align_sound, read_audio
from ...media.container import open_media
from ...media.stills import read_image
from ...media.video import read_video
from ...prompts import labels
from ...prompts.prompt import Prompt
from .. import chat, towers
from ..checkpoints import hub_options, processor_folder
from ..complete_load import load_complete
from ..empty_model import empty_of
from ..every_module import every_module
from ..registry import register
from ..wording import PromptStyle, Wording
from . import positions as omni_positions
from . import processor as processing

if TYPE_CHECKING:
    import numpy as np

    from ...media.timing import Timing
    from ...prompts.sample import Sample
    from ..base import Model

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)  # the published model's own system text
PUBLISHED_SECONDS = 0.5  # a frame, if the processor is not told fps, as the published call leaves it: its default is 2


@register
class Qwen25Omni(chat.ChatFamily):
    """A folder of the full model works (its thinker.* tensors are read), and one of the Thinker alone."""

    takes_candidates = True
    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    system: str | None = SYSTEM  # of prompts whose caller gives none; None: no system turn
    speech = r"^(talker|token2wav)\."  # weights of the full model that nobody reads here

    def thinker(self, hf: nn.Module) -> nn.Module:
        return getattr(hf, "thinker", hf)

    def thinker_class(self) -> Any:
        """transformers' class of the part that is loaded."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        Thinker = self.thinker_class()
        with processing.without_talker_warnings():
            if (config := _quantised_config(Thinker.config_class, folder, options)) is not None:
                options |= {"config": config}
            return load_complete(Thinker, folder, dtype, device, options, unused=self.speech)

    def make_empty(self, folder: str, config: dict[str, Any], **options: Any) -> nn.Module:
        with processing.without_talker_warnings():
            return empty_of(self.thinker_class(), folder, options)

    def load_processor(self, folder: str, **options: Any) -> Any:
        return processing.load_processor(processor_folder(folder, options))

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

        Layout: system turn; user turn with image, video, sound file (those that the sample has), then question,
        options, `instruction`; with `question_first` the text comes before the media. A video's own sound is
        interleaved with it, in chunks of 2 s. An interleaved item (candidates and reference): its candidates, the
        question, the reference, the option letters; with tags (`tagged`): each medium at its tag in the question, then
        the options.

        Args:
            fps, min_frames, max_frames: sampling of video (frames per second; the number of frames is even).
            min_pixels, max_pixels: limits per video frame or image. Default: for video the checkpoint's, if it has a
                video_preprocessor_config.json, else 128 and 768 tokens as published; for images the checkpoint's.
            use_audio_in_video: read the video's own sound. None: what the sample says, and if it says nothing, yes,
                unless it has a sound file of its own. A video without sound is then an error, never a silent change.
            system: the system text. None: what the checkpoint was trained with, if its config.json says so in
                `prompt_texts`, else the published model's.
            instruction: the line after the options; "" for none. Open-ended questions have none. None: as for system.
            prompt_style: how options are written, where the instruction stands, what the answer begins with: an
                avflow.PromptStyle, its fields, or its name, such as "map_the_flow".
            strict_media: refuse a video whose sound is of another length (by more than 0.5 s and 5 %), and sound of
                more than the model hears (300 s). Else, as published, missing sound is silence, and what is too long
                is heard after the last frame, up to 300 s; `prompt.media["notes"]` tells of it.
            timing: "player": frames by their times, their true rate, sound on the video's clock. "published": as
                qwen-omni-utils and the processor's defaults have it: frames by their numbers, the sound from its own
                first sample, neither cut to the video nor lengthened, gaps closed, and 2 frames a second passed on,
                whatever fps is.

        Items: video, the temporal patch (2 frames); audio, the 2 s segment (interleaved: the chunk); options, their
        number. Marks around media, role names, ends of turns are "template".

        Raises:
            MediaError: a file that is missing, broken, without the sound that is asked for, or, with strict_media, with
                sound of another length. InputError: text that holds one of the model's special tokens, limits that
                make no sense.
        """
        wording = chat.wording(model, self.system, system, instruction, question_first, prompt_style)
        limits = (min_pixels, max_pixels)
        chat.tokenizer_of(model)
        if in_turns := _in_turns(sample):
            return self._items(model, sample, in_turns, wording, limits, strict_media)
        own_sound = chat.wants_sound(sample, use_audio_in_video)
        most = self.most_seconds(model.processor)
        media = _read(model, sample, own_sound, (fps, min_frames, max_frames), limits, strict_media, timing, most)
        media.facts["processor"] = processing.info(model.processor).path

        def encode(text: str) -> dict[str, Any]:
            return processing.encode(
                model.processor,
                text,
                frames=media.frames,
                seconds_per_frame=media.seconds_per_frame,
                fps=self.fps_of(model, media, text),
                sounds=[] if media.sound is None else [media.sound],
                images=[] if media.image is None else [media.image],
                interleaved=media.interleaved,
                image_pixels=chat.image_limits(model.processor, *limits),
            )

        return self.lay_out(model, sample, media, wording, encode)

    def most_seconds(self, processor: Any) -> float:
        """Seconds of sound that the feature extractor takes; it cuts what is longer, as published."""
        return processor.feature_extractor.n_samples / SAMPLE_RATE

    def fps_of(self, model: Model, media: chat.Media, text: str) -> float | None:
        """Frames a second of the video in a rendered chat, for the processor; None: `processing.agreeing_fps`."""
        return None

    def _items(
        self,
        model: Model,
        sample: Sample,
        in_turns: list[tuple[str, str]],
        wording: Wording,
        limits: chat.Limits,
        strict: bool,
    ) -> Prompt:
        """An item of images and sounds in turns. in_turns: (path, kind) in the order of the prompt."""
        images = [read_image(path) for path, kind in in_turns if kind == "image"]
        media = chat.Media(facts={"processor": processing.info(model.processor).path})
        most = self.most_seconds(model.processor)
        sounds = [_read_sound(path, strict, media, most) for path, kind in in_turns if kind == "audio"]

        def encode(text: str) -> dict[str, Any]:
            pixels = chat.image_limits(model.processor, *limits)
            return processing.encode(model.processor, text, sounds=sounds, images=images, image_pixels=pixels)

        prompt = self.lay_out_items(model, sample, wording, encode)
        prompt.media = media.facts
        return prompt

    def media_ids(self, model: Model) -> labels.MediaIds:
        config = model.hf.config
        return labels.MediaIds(
            video=config.video_token_id,
            audio=config.audio_token_id,
            image=config.image_token_id,
            audio_start=config.audio_start_token_id,
            audio_end=config.audio_end_token_id,
        )

    def patches(self, model: Model) -> list[tuple[Any, str, Any]]:
        # The forward asks the inner model for positions, generate the outer one; before transformers 5.21 they are one.
        owners = [m for m in every_module(model.hf) if hasattr(m, "get_rope_index")]
        positions = [(owner, "get_rope_index", omni_positions.quick(owner)) for owner in owners]
        return [*positions, *towers.patches(model.hf)]

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        config = model.hf.config
        patch_tokens = labels.patch_tokens(grid, config.vision_config.spatial_merge_size)
        segment = int(config.position_id_per_seconds * config.seconds_per_chunk)
        return labels.label_media(ids, self.media_ids(model), patch_tokens, segment)

    def media_times(self, model: Model, ids: list[int], inputs: dict[str, Any]) -> dict[int, float]:
        config, grid = model.hf.config, inputs.get("video_grid_thw")
        patch_tokens = labels.patch_tokens(grid, config.vision_config.spatial_merge_size)
        steps, token = chat.step_seconds(inputs, "video_second_per_grid"), 1 / config.position_id_per_seconds
        return labels.time_media(ids, self.media_ids(model), patch_tokens, steps, token)


def _in_turns(sample: Sample) -> list[tuple[str, str]]:
    """(path, kind) of the media of an interleaved item, or of a question with tags; none of other samples."""
    if (item := sample.interleaved) is not None:
        other = "image" if item.kind == "audio" else "audio"
        return [*((path, item.kind) for path in item.candidates), (item.reference, other)]
    return [(medium.path, medium.kind) for medium in sample.placed]


def _read(
    model: Model,
    sample: Sample,
    own_sound: bool,
    sampling: tuple[float, int, int],
    limits: chat.Limits,
    strict: bool,
    timing: Timing,
    most: float,
) -> chat.Media:
    """most: seconds of sound that are heard."""
    media = chat.Media(interleaved=own_sound or bool(sample.dub))
    if sample.image:
        media.image = read_image(sample.image)
    if sample.video:
        _read_video(model, sample, sample.video, sampling, limits, media, own_sound, strict, timing, most)
    if sample.audio:
        media.sound = _read_sound(sample.audio, strict, media, most, timing)
    if sample.dub:
        media.sound = _dub(sample.dub, strict, media, most, timing)
    if media.sound is not None:
        media.facts["sound_seconds"] = len(media.sound) / SAMPLE_RATE
    return media


def _read_video(
    model: Model,
    sample: Sample,
    path: str,
    sampling: tuple[float, int, int],
    limits: chat.Limits,
    media: chat.Media,
    own_sound: bool,
    strict: bool,
    timing: Timing,
    most: float,
) -> None:
    """Decodes the sample's video, the file `path`, into `media`, and its own sound where that is asked for."""
    info, part = processing.info(model.processor), model.processor.video_processor
    low, high = chat.pixel_limits(*limits, info.min_pixels, info.max_pixels)
    factor = part.patch_size * part.merge_size

    def size(frames: int, height: int, width: int) -> tuple[int, int]:
        return pictures.video_size(frames, height, width, factor, low, high)

    with open_media(path) as file:
        check = chat.judge_own_sound(sample, file, strict, most) if own_sound else None
        video = read_video(file, *sampling, size, span=(sample.start, sample.end), check=check, timing=timing)
        media.frames = video.frames
        media.seconds_per_frame = PUBLISHED_SECONDS if timing == "published" else video.seconds_per_frame
        media.facts |= {"frames": len(video.frames), "video_seconds": video.duration}
        if not own_sound:
            return
        sound = chat.read_own_sound(sample, file, video, most, timing=timing)
        cut = len(sound) == round(most * SAMPLE_RATE)
        seconds = file.index.sound_seconds(video.start) if cut else len(sound) / SAMPLE_RATE
    if timing == "published":
        media.sound, done = sound, "as it is"
    else:
        media.sound, done = align_sound(sound, min(video.duration, most), path)
    chat.note_alignment(media, done, seconds, video.duration)
    if cut and len(media.sound) == len(sound):
        _note_cut(media, seconds, most, path)
    _check_audible(media.sound, path)


def _read_sound(path: str, strict: bool, media: chat.Media, most: float, timing: Timing = "player") -> np.ndarray:
    """A sound file, float32 [samples], as far as the model hears it: `most` seconds."""
    with open_media(path) as file:
        seconds = file.index.sound_seconds()
        if strict:
            chat.check_heard(seconds, most, path)
        sound = read_audio(file, seconds=most, gaps=timing == "player")
    _note_cut(media, seconds, most, path)
    return _check_audible(sound, path)


def _dub(path: str, strict: bool, media: chat.Media, most: float, timing: Timing) -> np.ndarray:
    """A sound file on the clock of the video that was read into `media`, float32 [samples]."""
    sound = _read_sound(path, strict, media, most, timing)
    seconds, duration = len(sound) / SAMPLE_RATE, media.facts["video_seconds"]
    done = "as it is"
    if timing == "player":
        sound, done = align_sound(sound, min(duration, most), path, strict)
    chat.note_alignment(media, done, seconds, duration)
    return sound


def _note_cut(media: chat.Media, seconds: float, most: float, path: str) -> None:
    if seconds > most + 0.1:  # a track's packets last some 10 ms longer than its sound
        media.note(f"sound cut at {most:.0f} s, which is what the model hears: {path} has {seconds:.2f} s")


def _check_audible(sound: np.ndarray, path: str) -> np.ndarray:
    """The sound, float32 [samples]; an error if it gives the model nothing to hear."""
    seconds = len(sound) / SAMPLE_RATE
    if seconds < 0.1:
        raise MediaError(f"{path}: its sound lasts {seconds:.3f} s: 0.1 s is the shortest that gives a token")
    return sound


def _quantised_config(kind: Any, folder: str, options: dict[str, Any]) -> Any:
    """The Thinker's config with the quantization_config of the full model around it; None where that has none.

    transformers takes the part `thinker_config` of a full model's config.json and leaves the rest.
    """
    whole, _ = kind.get_config_dict(folder, **hub_options(options))
    packed = whole.get("quantization_config")
    if packed is None or whole.get("thinker_config", {}).get("quantization_config") is not None:
        return None
    config = kind.from_pretrained(folder, **hub_options(options))
    config.quantization_config = _of_thinker(packed)
    return config


def _of_thinker(value: Any) -> Any:
    """Names of the full model's modules, wherever they stand in a quantization_config, as the Thinker's."""
    if isinstance(value, dict):
        return {_of_thinker(key): _of_thinker(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_of_thinker(one) for one in value]
    return re.sub(r"^(re:)?(\^?)thinker\\?\.", r"\1\2", value) if isinstance(value, str) else value
