"""Qwen2.5-Omni (Thinker): where its prompt has what, and how a sample becomes one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import labels, pictures, processing
from ..errors import InputError, MediaError, UnsupportedModelError
from ..media import read_image, read_video
from ..prompt import Prompt
from ..sample import LETTERS
from ..sound import SAMPLE_RATE, align_sound, read_audio
from . import omni_positions, register
from .base import Family

if TYPE_CHECKING:
    from ..sample import Sample
    from .base import Model

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)  # the published model's own system text
INSTRUCTION = "Answer with the option's letter from the given choices directly."
# Stand for the system and the user text while the chat template is rendered, so that their places in it are known.
_HOLES = ("\ue000system\ue001", "\ue000user\ue001")


@dataclass
class _Media:
    """Decoded media of one sample, and what was done to them."""

    frames: torch.Tensor | None = None  # uint8 [T, 3, H, W]
    seconds_per_frame: float = 0.5
    sound: Any = None  # float32 [samples], 16 kHz
    image: torch.Tensor | None = None  # uint8 [3, H, W]
    interleaved: bool = False
    facts: dict[str, Any] | None = None

    @property
    def kinds(self) -> list[str]:
        kinds = ["image"] * (self.image is not None) + ["video"] * (self.frames is not None)
        return kinds + ["audio"] * (self.sound is not None and not self.interleaved)


@register
class Qwen25Omni(Family):
    """A folder of the full model works (its thinker.* tensors are read), and one of the Thinker alone."""

    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")

    def thinker(self, hf: nn.Module) -> nn.Module:
        return getattr(hf, "thinker", hf)

    def load_hf(self, folder: str, dtype: torch.dtype, device: str) -> nn.Module:
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

        with processing.without_talker_warnings():
            return Thinker.from_pretrained(folder, dtype=dtype).to(device)

    def load_processor(self, folder: str) -> Any:
        return processing.load_processor(folder)

    def prepare(
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
    ) -> Prompt:
        """The sample as the model reads it: media decoded, text laid out, every token labelled. Encodes nothing yet.

        Layout: system turn; user turn with image, video, sound file (those that the sample has), then question,
        options, `instruction`; with `question_first` the text comes before the media. A video's own sound is
        interleaved with it, in chunks of 2 s.

        Args:
            fps, min_frames, max_frames: sampling of video (frames per second; the number of frames is even).
            min_pixels, max_pixels: limits per video frame or image. Default: for video the checkpoint's, if it has a
                video_preprocessor_config.json, else 128 and 768 tokens as published; for images the checkpoint's.
            use_audio_in_video: read the video's own sound. None: what the sample says, and if it says nothing, yes,
                unless it has a sound file of its own. A video without sound is then an error, never a silent change.
            instruction: the line after the options; "" for none. Open-ended questions have none.

        Items: video, the temporal patch (2 frames); audio, the 2 s segment (interleaved: the chunk); options, their
        number. Marks around media, role names, ends of turns are "template".

        Raises:
            MediaError: a file that is missing, broken, without the sound that is asked for, or with sound of another
                length. InputError: text that holds one of the model's special tokens, limits that make no sense.
        """
        tokenizer = _tokenizer(model)
        own_sound = _own_sound(sample, use_audio_in_video)
        limits = (min_pixels, max_pixels)
        media = _read(model, sample, own_sound, (fps, min_frames, max_frames), limits)
        for text in (system, instruction, sample.question, *(sample.options or ())):
            _check_text(tokenizer, text, sample)
        user, spans = _user_text(sample, instruction)
        text, spans = _render(model.processor, media.kinds, system, user, spans, question_first)
        inputs = processing.encode(
            model.processor,
            text,
            frames=media.frames,
            seconds_per_frame=media.seconds_per_frame,
            sound=media.sound,
            image=media.image,
            interleaved=media.interleaved,
            image_pixels=_image_limits(model.processor, *limits),
        )
        ids = inputs["input_ids"][0]  # [N]
        _check_length(model, len(ids), sample)
        for name in ("pixel_values", "pixel_values_videos", "input_features"):
            if name in inputs:
                inputs[name] = inputs[name].to(model.dtype)
        groups, items = _label_prompt(model, tokenizer, text, spans, ids.tolist(), inputs.get("video_grid_thw"))
        answer_ids, option_ids = _answer(tokenizer, sample)
        prompt = Prompt(
            id=sample.id,
            task=sample.task,
            input_ids=ids,
            groups=groups,
            items=items,
            answer_ids=answer_ids,
            answer=sample.answer,
            option_ids=option_ids,
            model_inputs=inputs,
            sample=sample,
        )
        prompt.media = {**(media.facts or {}), "processor": processing.info(model.processor).path}
        return prompt

    def quicker(self, model: Model) -> list[tuple[Any, str, Any]]:
        # The forward asks the inner model for positions, generate the outer one; before transformers 5.21 they are one.
        owners = [m for m in model.hf.modules() if hasattr(m, "get_rope_index")]
        return [(owner, "get_rope_index", omni_positions.quick(owner)) for owner in owners]

    def count_videos(self, model: Model, input_ids: torch.Tensor) -> int:
        return labels.count_videos(torch.as_tensor(input_ids).reshape(-1).tolist(), _media_ids(model))

    def label(
        self, model: Model, input_ids: torch.Tensor, video_grid_thw: torch.Tensor | None = None
    ) -> tuple[list[str], list[int]]:
        """Groups and items from ids [N] alone, for prompts that were not built by `prepare`.

        What the ids cannot tell: which option is right (all of the user's text is "question_text"), and, without
        video_grid_thw [videos, 3], where a frame ends (video items are then -1). Earlier assistant turns count as
        "question_text"; what follows the last assistant header as "answer", and that header's end is "last".
        """
        tokenizer = _tokenizer(model)
        ids = torch.as_tensor(input_ids).reshape(-1).tolist()
        groups, header = labels.label_turns(ids, tokenizer)
        items = [-1] * len(ids)
        for at, (group, item) in _media_labels(model, ids, video_grid_thw).items():
            groups[at], items[at] = group, item
        last = len(ids) - 1 if header is None else header
        groups[last], items[last] = "last", -1
        return groups, items


def _tokenizer(model: Model) -> Any:
    tokenizer = getattr(model.processor, "tokenizer", None)
    if tokenizer is None:
        raise UnsupportedModelError(
            "this model has no processor: load it with avflow.load, or pass avflow.wrap(hf, processor=...)"
        )
    return tokenizer


def _own_sound(sample: Sample, asked: bool | None) -> bool:
    asked = sample.use_audio_in_video if asked is None else asked
    if asked and sample.audio:
        raise InputError(f"sample {sample.id!r}: use_audio_in_video=True and an audio file: leave one of them out")
    return bool(sample.video) and not sample.audio and asked is not False


def _read(model: Model, sample: Sample, own_sound: bool, sampling: tuple, limits: tuple) -> _Media:
    media = _Media(interleaved=own_sound, facts={})
    processor = model.processor
    if sample.image:
        media.image = read_image(sample.image)
    if sample.video:
        info, part = processing.info(processor), processor.video_processor
        low, high = _limits(*limits, info.min_pixels, info.max_pixels)
        factor = part.patch_size * part.merge_size
        fps, min_frames, max_frames = sampling

        def size(frames: int, height: int, width: int) -> tuple[int, int]:
            return pictures.video_size(frames, height, width, factor, low, high)

        video = read_video(sample.video, fps, min_frames, max_frames, size)
        if own_sound and not video.has_sound:
            raise MediaError(
                f"sample {sample.id!r}: {sample.video} has no sound: set use_audio_in_video=False to use its frames "
                "alone, or give its sound with audio="
            )
        media.frames, media.seconds_per_frame = video.frames, video.seconds_per_frame
        media.facts |= {"frames": len(video.frames), "video_seconds": video.duration}
        if own_sound:
            sound = read_audio(sample.video, start=video.start)
            media.sound, media.facts["sound"] = align_sound(sound, video.duration, sample.video)
    if sample.audio:
        media.sound = read_audio(sample.audio)
    if media.sound is not None:
        seconds, most = len(media.sound) / SAMPLE_RATE, processor.feature_extractor.n_samples / SAMPLE_RATE
        where = sample.audio or sample.video
        if seconds > most:
            raise MediaError(f"{where}: its sound lasts {seconds:.1f} s, the model hears {most:.0f} s: cut the file")
        if seconds < 0.1:
            raise MediaError(f"{where}: its sound lasts {seconds:.3f} s: 0.1 s is the shortest that gives a token")
        media.facts["sound_seconds"] = seconds
    return media


def _limits(low: int | None, high: int | None, default_low: int, default_high: int) -> tuple[int, int]:
    """min and max pixels; a limit that is given alone moves the other's default out of its way."""
    chosen_low = min(default_low, high or default_low) if low is None else low
    chosen_high = max(default_high, chosen_low) if high is None else high
    if not 0 < chosen_low <= chosen_high:
        raise InputError(f"min_pixels {chosen_low} and max_pixels {chosen_high}: need 0 < min_pixels <= max_pixels")
    return chosen_low, chosen_high


def _image_limits(processor: Any, low: int | None, high: int | None) -> tuple[int, int] | None:
    if low is None and high is None:
        return None
    size = processor.image_processor.size
    return _limits(low, high, size["shortest_edge"], size["longest_edge"])


def _check_text(tokenizer: Any, text: str, sample: Sample) -> None:
    for token in tokenizer.added_tokens_decoder.values():
        if token.content in text:
            raise InputError(f"sample {sample.id!r}: its text holds the special token {token.content!r}: take it out")


def _check_length(model: Model, n: int, sample: Sample) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and n > most:
        warnings.warn(
            f"sample {sample.id!r} has {n} tokens, the model was trained for {most}: lower fps or max_pixels",
            stacklevel=4,
        )


def _user_text(sample: Sample, instruction: str) -> tuple[str, list[labels.Span]]:
    """Question, option lines, instruction; a line's end belongs to the line. Spans count from the text's start."""
    parts = [(sample.question, "question_text", -1)]
    for number, option in enumerate(sample.options or ()):
        group = "option_correct" if number == sample.answer_index else "option_incorrect"
        parts.append((f"{LETTERS[number]}. {option}", group, number))
    if sample.options and instruction:
        parts.append((instruction, "question_text", -1))
    text, spans = "", []
    for number, (line, group, item) in enumerate(parts):
        line += "\n" * (number + 1 < len(parts))
        spans.append(labels.Span(len(text), len(text) + len(line), group, item))
        text += line
    return text, spans


def _render(
    processor: Any, kinds: list[str], system: str, user: str, spans: list[labels.Span], question_first: bool
) -> tuple[str, list[labels.Span]]:
    """The chat text by the checkpoint's own template, and the spans of system and user text in it."""
    media = [{"type": kind} for kind in kinds]
    text = [{"type": "text", "text": _HOLES[1]}]
    chat = [
        {"role": "system", "content": [{"type": "text", "text": _HOLES[0]}]},
        {"role": "user", "content": text + media if question_first else media + text},
    ]
    rendered = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if [rendered.count(hole) for hole in _HOLES] != [1, 1]:
        raise InputError("the chat template does not show the system text and the user text once each")
    head, rest = rendered.split(_HOLES[0])
    middle, tail = rest.split(_HOLES[1])
    start = len(head) + len(system) + len(middle)
    moved = [labels.Span(s.start + start, s.stop + start, s.group, s.item) for s in spans]
    return head + system + middle + user + tail, [labels.Span(len(head), len(head) + len(system), "system"), *moved]


def _media_ids(model: Model) -> labels.MediaIds:
    config = model.hf.config
    return labels.MediaIds(
        video=config.video_token_id,
        audio=config.audio_token_id,
        image=config.image_token_id,
        audio_start=config.audio_start_token_id,
        audio_end=config.audio_end_token_id,
    )


def _media_labels(model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
    config = model.hf.config
    merge = config.vision_config.spatial_merge_size
    patch_tokens = None if grid is None else [int(h) * int(w) // merge**2 for _, h, w in grid.tolist()]
    segment = int(config.position_id_per_seconds * config.seconds_per_chunk)
    return labels.label_media(ids, _media_ids(model), patch_tokens, segment)


def _label_prompt(
    model: Model, tokenizer: Any, text: str, spans: list[labels.Span], ids: list[int], grid: torch.Tensor | None
) -> tuple[list[str], list[int]]:
    plain = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    groups, items = labels.label_text(plain["offset_mapping"], spans)
    source = labels.expand(plain["input_ids"], ids, _media_ids(model))
    groups, items = [groups[i] for i in source], [items[i] for i in source]
    for at, (group, item) in _media_labels(model, ids, grid).items():
        groups[at], items[at] = group, item
    groups[-1], items[-1] = "last", -1
    return groups, items


def _answer(tokenizer: Any, sample: Sample) -> tuple[list[int], list[int] | None]:
    """Token ids of the answer; of every option's letter."""
    if sample.options is None:
        return tokenizer(sample.answer, add_special_tokens=False)["input_ids"], None
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in LETTERS[: len(sample.options)]]
    long = [letter for letter, found in zip(LETTERS, ids, strict=False) if len(found) != 1]
    if long:
        raise UnsupportedModelError(f"the tokenizer splits the option letter {long[0]!r} into several tokens")
    options = [found[0] for found in ids]
    return [options[sample.answer_index]], options
