"""What families of chat models with media share: a sample's text, its place in the chat, labels, the answer's ids.

A family subclasses `ChatFamily`, names its media tokens, reads its media in `prepare` and hands over to `lay_out`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .. import labels
from ..errors import InputError, MediaError, UnsupportedModelError
from ..prompt import Prompt
from ..sample import LETTERS
from .base import Family

if TYPE_CHECKING:
    from ..sample import Sample
    from .base import Model

INSTRUCTION = "Answer with the option's letter from the given choices directly."
# Stand for the system and the user text while the chat template is rendered, so that their places in it are known.
_HOLES = ("\ue000system\ue001", "\ue000user\ue001")


@dataclass
class Media:
    """Decoded media of one sample, and what was done to them.

    seconds_per_frame: of the video. interleaved: the sound stands within the video, not as an item of its own.
    """

    frames: torch.Tensor | None = None  # uint8 [T, 3, H, W]
    seconds_per_frame: float = 0.5
    sound: Any = None  # float32 [samples], 16 kHz
    image: torch.Tensor | None = None  # uint8 [3, H, W]
    interleaved: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        kinds = ["image"] * (self.image is not None) + ["video"] * (self.frames is not None)
        return kinds + ["audio"] * (self.sound is not None and not self.interleaved)


@dataclass(frozen=True)
class Wording:
    """The text around media and question. `question_first`: the question stands before the media."""

    system: str
    instruction: str = INSTRUCTION
    question_first: bool = False


class ChatFamily(Family):
    """A family whose prompts are a system turn and a user turn with media, question and options."""

    def media_ids(self, model: Model) -> labels.MediaIds:
        """The token ids of the model's media."""
        raise NotImplementedError

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        """Group and item of every media token of `ids`: {position: (group, item)}; grid: video_grid_thw, if known."""
        raise NotImplementedError

    def lay_out(
        self, model: Model, sample: Sample, media: Media, wording: Wording, encode: Callable[[str], dict[str, Any]]
    ) -> Prompt:
        """The prompt of decoded media: chat text, the processor's call, every token labelled.

        encode: rendered chat text, one placeholder per medium -> keyword arguments of the model's forward.
        """
        tokenizer = tokenizer_of(model)
        for text in (wording.system, wording.instruction, sample.question, *(sample.options or ())):
            _check_text(tokenizer, text, sample)
        user, spans = _user_text(sample, wording.instruction)
        text, spans = _render(model.processor, media.kinds, wording, user, spans)
        inputs = encode(text)
        ids = inputs["input_ids"][0]  # [N]
        _check_length(model, len(ids), sample)
        for name in ("pixel_values", "pixel_values_videos", "input_features", "audio_features"):
            if name in inputs:
                inputs[name] = inputs[name].to(model.dtype)
        groups, items = self._label_prompt(model, text, spans, ids.tolist(), inputs.get("video_grid_thw"))
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
        prompt.media = media.facts
        return prompt

    def count_videos(self, model: Model, input_ids: torch.Tensor) -> int:
        return labels.count_videos(torch.as_tensor(input_ids).reshape(-1).tolist(), self.media_ids(model))

    def label(
        self, model: Model, input_ids: torch.Tensor, video_grid_thw: torch.Tensor | None = None
    ) -> tuple[list[str], list[int]]:
        """Groups and items from ids [N] alone, for prompts that were not built by `prepare`.

        What the ids cannot tell: which option is right (all of the user's text is "question_text"), and, without
        video_grid_thw [videos, 3], where a frame ends (video items are then -1). Earlier assistant turns count as
        "question_text"; what follows the last assistant header as "answer", and that header's end is "last".
        """
        tokenizer = tokenizer_of(model)
        ids = torch.as_tensor(input_ids).reshape(-1).tolist()
        groups, header = labels.label_turns(ids, tokenizer)
        items = [-1] * len(ids)
        for at, (group, item) in self.media_labels(model, ids, video_grid_thw).items():
            groups[at], items[at] = group, item
        last = len(ids) - 1 if header is None else header
        groups[last], items[last] = "last", -1
        return groups, items

    def _label_prompt(
        self, model: Model, text: str, spans: list[labels.Span], ids: list[int], grid: torch.Tensor | None
    ) -> tuple[list[str], list[int]]:
        plain = tokenizer_of(model)(text, return_offsets_mapping=True, add_special_tokens=False)
        groups, items = labels.label_text(plain["offset_mapping"], spans)
        source = labels.expand(plain["input_ids"], ids, self.media_ids(model))
        groups, items = [groups[i] for i in source], [items[i] for i in source]
        for at, (group, item) in self.media_labels(model, ids, grid).items():
            groups[at], items[at] = group, item
        groups[-1], items[-1] = "last", -1
        return groups, items


def tokenizer_of(model: Model) -> Any:
    tokenizer = getattr(model.processor, "tokenizer", None)
    if tokenizer is None:
        raise UnsupportedModelError(
            "this model has no processor: load it with avflow.load, or pass avflow.wrap(hf, processor=...)"
        )
    return tokenizer


def wants_sound(sample: Sample, asked: bool | None) -> bool:
    """Whether the video's own sound is read. asked: the caller's use_audio_in_video, None: what the sample says."""
    asked = sample.use_audio_in_video if asked is None else asked
    if asked and sample.audio:
        raise InputError(f"sample {sample.id!r}: use_audio_in_video=True and an audio file: leave one of them out")
    return bool(sample.video) and not sample.audio and asked is not False


def check_has_sound(sample: Sample, has_sound: bool) -> None:
    if not has_sound:
        raise MediaError(
            f"sample {sample.id!r}: {sample.video} has no sound: set use_audio_in_video=False to use its frames "
            "alone, or give its sound with audio="
        )


def pixel_limits(low: int | None, high: int | None, default_low: int, default_high: int) -> tuple[int, int]:
    """min and max pixels; a limit that is given alone moves the other's default out of its way."""
    chosen_low = min(default_low, high or default_low) if low is None else low
    chosen_high = max(default_high, chosen_low) if high is None else high
    if not 0 < chosen_low <= chosen_high:
        raise InputError(f"min_pixels {chosen_low} and max_pixels {chosen_high}: need 0 < min_pixels <= max_pixels")
    return chosen_low, chosen_high


def image_limits(processor: Any, low: int | None, high: int | None) -> tuple[int, int] | None:
    """Limits of an image; None: those of the checkpoint."""
    if low is None and high is None:
        return None
    size = processor.image_processor.size
    return pixel_limits(low, high, size["shortest_edge"], size["longest_edge"])


def _check_text(tokenizer: Any, text: str, sample: Sample) -> None:
    for token in tokenizer.added_tokens_decoder.values():
        if token.content in text:
            raise InputError(f"sample {sample.id!r}: its text holds the special token {token.content!r}: take it out")


def _check_length(model: Model, n: int, sample: Sample) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and n > most:
        warnings.warn(
            f"sample {sample.id!r} has {n} tokens, the model was trained for {most}: lower fps or max_pixels",
            stacklevel=5,
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
    processor: Any, kinds: list[str], wording: Wording, user: str, spans: list[labels.Span]
) -> tuple[str, list[labels.Span]]:
    """The chat text by the checkpoint's own template, and the spans of system and user text in it."""
    media = [{"type": kind} for kind in kinds]
    text = [{"type": "text", "text": _HOLES[1]}]
    chat = [
        {"role": "system", "content": [{"type": "text", "text": _HOLES[0]}]},
        {"role": "user", "content": text + media if wording.question_first else media + text},
    ]
    rendered = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if [rendered.count(hole) for hole in _HOLES] != [1, 1]:
        raise InputError("the chat template does not show the system text and the user text once each")
    head, rest = rendered.split(_HOLES[0])
    middle, tail = rest.split(_HOLES[1])
    system = wording.system
    start = len(head) + len(system) + len(middle)
    moved = [labels.Span(s.start + start, s.stop + start, s.group, s.item) for s in spans]
    return head + system + middle + user + tail, [labels.Span(len(head), len(head) + len(system), "system"), *moved]


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
