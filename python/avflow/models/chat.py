"""What families of chat models with media share: a sample's text, its place in the chat, labels, the answer's ids.

A family subclasses `ChatFamily`, names its media tokens, reads its media in `prepare` and hands over to `lay_out`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError, MediaError, UnsupportedModelError
from ..media.audio import SAMPLE_RATE, Mix, check_same_length, read_audio, tolerance
from ..prompts import labels
from ..prompts.prompt import Prompt
from ..prompts.sample import LETTERS
from .base import Family
from .chat_text import Part, Text, item_parts, render_chat, tagged_parts
from .wording import INSTRUCTION, PromptStyle, Wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..media.container import MediaFile
    from ..media.index import Index
    from ..media.timing import Timing
    from ..media.video import Video
    from ..prompts.sample import Sample
    from .base import Model

Limits = tuple[int | None, int | None]  # min and max pixels; None: the default
_TOKENIZING = threading.Lock()  # fast tokenizers set their padding on every call, and fail where two threads call one


@dataclass
class Media:
    """Decoded media of one sample, and what was done to them.

    seconds_per_frame: of the video. interleaved: the sound stands within the video, not as an item of its own.
    """

    frames: torch.Tensor | None = None  # uint8 [T, 3, H, W]
    seconds_per_frame: float = 0.5
    sound: np.ndarray | None = None  # float32 [samples], 16 kHz
    image: torch.Tensor | None = None  # uint8 [3, H, W]
    interleaved: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Puts what was done to a medium that a reader should know among the facts, as one of their `notes`."""
        self.facts.setdefault("notes", []).append(text)

    @property
    def kinds(self) -> list[str]:
        kinds = ["image"] * (self.image is not None) + ["video"] * (self.frames is not None)
        return kinds + ["audio"] * (self.sound is not None and not self.interleaved)


Labeller = Callable[[str, list[labels.Span], list[int]], tuple[list[str], list[int]]]


class ChatFamily(Family):
    """A family whose prompts are a system turn and a user turn with media, question and options.

    Attributes:
        answer_lead: what stands between the begun assistant's turn and the answer, as a part of its first token.
    """

    answer_lead = ""
    frames_apart = False

    def media_ids(self, model: Model) -> labels.MediaIds:
        """The token ids of the model's media."""
        raise NotImplementedError

    def media_labels(self, model: Model, ids: list[int], grid: torch.Tensor | None) -> dict[int, tuple[str, int]]:
        """Group and item of every media token of `ids`: {position: (group, item)}; grid: video_grid_thw, if known."""
        raise NotImplementedError

    def media_times(self, model: Model, ids: list[int], inputs: dict[str, Any]) -> dict[int, float]:
        """Seconds from the begin of its medium, of the media tokens of `ids` that have a time: {position: seconds}.

        inputs: of the model's forward, which tell how long a video's step lasts.
        """
        return {}

    def special_texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The special tokens: no text of a sample may hold one."""
        return [token.content for token in tokenizer.added_tokens_decoder.values()]

    def render(self, model: Model, system: str | None, parts: list[Part]) -> tuple[str, list[labels.Span]]:
        """The chat text, one placeholder per medium, and what its characters are. system: None for no such turn."""
        return render_chat(model.processor, system, parts)

    def lay_out(
        self,
        model: Model,
        sample: Sample,
        media: Media,
        wording: Wording,
        encode: Callable[[str], dict[str, Any]],
        label: Labeller | None = None,
    ) -> Prompt:
        """The prompt of decoded media: chat text, the processor's call, every token labelled.

        Args:
            encode: rendered chat text, one placeholder per medium -> keyword arguments of the model's forward.
            label: (that text, its spans, the ids) -> group and item of every token; None: by `media_labels`.
        """
        text: list[Part] = [Text(*line) for line in wording.user_lines(sample)]
        kinds: list[Part] = list(media.kinds)
        parts = text + kinds if wording.question_first else kinds + text
        with _TOKENIZING:
            prompt = self._prompt(model, sample, parts, None, wording, encode, label)
        prompt.media = media.facts
        return prompt

    def lay_out_items(
        self, model: Model, sample: Sample, wording: Wording, encode: Callable[[str], dict[str, Any]]
    ) -> Prompt:
        """The prompt of an interleaved item: candidates, question, reference, option letters (arXiv 2606.10147, B); or,
        where the question has tags, media at their tags, then the options with their texts.

        A candidate's tokens have the group "candidate_correct" or "candidate_incorrect" and its number, the
        reference's the group "reference", its letter's line the group of an option. Marks and the words before a
        candidate are "template".
        """
        if sample.tagged is not None:
            parts, roles = tagged_parts(sample, wording)
        elif (item := sample.interleaved) is not None:
            parts, roles = item_parts(sample, item, wording)
        else:
            raise InputError(f"sample {sample.id!r} is no interleaved item: it has no candidates and no reference")
        with _TOKENIZING:
            return self._prompt(model, sample, parts, roles, wording, encode)

    def _prompt(
        self,
        model: Model,
        sample: Sample,
        parts: list[Part],
        roles: list[tuple[str, int]] | None,
        wording: Wording,
        encode: Callable[[str], dict[str, Any]],
        label: Labeller | None = None,
    ) -> Prompt:
        """roles: group and item of every medium in turn; None: what the family says of its tokens."""
        tokenizer = tokenizer_of(model)
        own = (wording.system or "", wording.instruction, *wording.style.texts)
        special = self.special_texts(tokenizer)
        for text in (*own, sample.question, *(sample.options or ()), sample.answer):
            _check_text(special, text, sample)
        text, spans = self.render(model, wording.system, parts)
        lead = self.answer_lead
        if wording.style.answer_prefix:
            text, lead = text + lead + wording.style.answer_prefix, ""
        inputs = encode(text)
        ids = inputs["input_ids"][0]  # [N]
        for name in ("pixel_values", "pixel_values_videos", "input_features", "audio_features"):
            if name in inputs:
                inputs[name] = inputs[name].to(model.dtype)
        if label is None:
            groups, items = self._label_prompt(model, text, spans, ids.tolist(), inputs.get("video_grid_thw"), roles)
        else:
            groups, items = label(text, spans, ids.tolist())
            groups[-1], items[-1] = "last", -1
        times = None if roles is not None else self._times(model, ids.tolist(), inputs)  # candidates have no one clock
        _check_length(model, len(ids), sample)
        answer_ids, option_ids = _answer(tokenizer, sample, lead) if sample.answered else (None, None)
        return Prompt(
            id=sample.id,
            task=sample.task,
            input_ids=ids,
            groups=groups,
            items=items,
            answer_ids=answer_ids,
            answer=sample.answer if sample.answered else "",
            option_ids=option_ids,
            model_inputs=inputs,
            sample=sample,
            times=times,
        )

    def _times(self, model: Model, ids: list[int], inputs: dict[str, Any]) -> list[float | None] | None:
        """Of every token; None where none has a time."""
        found = self.media_times(model, ids, inputs)
        return [found.get(at) for at in range(len(ids))] if found else None

    def expand(self, model: Model, plain: list[int], real: list[int]) -> list[int]:
        """For every real token, the number of the token of the chat text that it is, or whose placeholder it was."""
        return labels.expand(plain, real, self.media_ids(model))

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
        self,
        model: Model,
        text: str,
        spans: list[labels.Span],
        ids: list[int],
        grid: torch.Tensor | None,
        roles: list[tuple[str, int]] | None,
    ) -> tuple[list[str], list[int]]:
        plain = tokenizer_of(model)(text, return_offsets_mapping=True, add_special_tokens=False)
        _check_text_length(model, len(plain["input_ids"]))
        groups, items = labels.label_text(plain["offset_mapping"], spans)
        source = self.expand(model, plain["input_ids"], ids)
        groups, items = [groups[i] for i in source], [items[i] for i in source]
        found = self.media_labels(model, ids, grid)
        if roles is not None:
            placeholders = list(dict.fromkeys(source[at] for at in found))  # one a medium, in the order of the text
            role = dict(zip(placeholders, roles, strict=True))
            found = {at: role[source[at]] for at in found}
        for at, (group, item) in found.items():
            groups[at], items[at] = group, item
        groups[-1], items[-1] = "last", -1
        return groups, items


def wording(
    model: Model,
    published: str | None,
    system: str | None,
    instruction: str | None,
    question_first: bool,
    style: PromptStyle | Mapping[str, Any] | str | None,
) -> Wording:
    """The caller's texts; for None what the checkpoint's config.json has in `prompt_texts`, else the published ones.

    published: the system text; None: no system turn.
    """
    texts = {"system": published, "instruction": INSTRUCTION} | (getattr(model.hf.config, "prompt_texts", None) or {})
    chosen = PromptStyle.of(style)
    given = {"system": system, "instruction": chosen.instruction if instruction is None else instruction}
    texts |= {name: text for name, text in given.items() if text is not None}
    return Wording(**texts, question_first=question_first, style=chosen)


def step_seconds(inputs: dict[str, Any], name: str) -> list[float] | None:
    """Of each video, seconds of a temporal patch, as the forward's argument `name` tells them to the model."""
    return None if inputs.get(name) is None else [float(seconds) for seconds in inputs[name]]


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
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
    if sample.dub and asked is False:
        raise InputError(f"sample {sample.id!r}: use_audio_in_video=False and a dub: leave one of them out")
    return bool(sample.video) and not sample.audio and not sample.dub and asked is not False


def read_own_sound(
    sample: Sample,
    file: MediaFile,
    video: Video,
    most: float | None = None,
    mix: Mix = "mean",
    timing: Timing = "player",
) -> np.ndarray:
    """The sound of the sample's video, the open `file`, from its first kept frame on, float32 [samples].

    Of a part of the video, no more than that; and no more than `most` seconds. timing: "published" counts from the
    sound's own first sample, whenever the container says that it is heard, and closes gaps.

    Raises:
        MediaError: none that can be decoded.
    """
    if timing == "published":
        begin = sample.start or 0.0
        limits = [limit for limit in (most, None if sample.end is None else sample.end - begin) if limit is not None]
        seconds = begin + min(limits) if limits else None
        return read_audio(file, seconds=seconds, mix=mix, gaps=False)[round(begin * SAMPLE_RATE) :]
    limits = [limit for limit in (most, None if sample.end is None else video.duration) if limit is not None]
    return read_audio(file, start=video.start, seconds=min(limits, default=None), mix=mix)


def judge_own_sound(
    sample: Sample, file: MediaFile, strict: bool, most: float | None = None
) -> Callable[[Index], None]:
    """A check for `read_video`: of the video's own sound, before anything is decoded.

    Args:
        strict: sound of another length than the video is refused, and sound of more than `most` seconds.
    """

    def judge(index: Index) -> None:
        check_has_sound(sample, index.sound is not None and index.sound.packets > 0)
        if not strict:
            return
        heard = index.sound_seconds(float(index.times[0]))
        if sample.end is not None:
            heard = min(heard, index.duration)
        check_same_length(heard, index.duration, file.path)
        if most is not None:
            check_heard(min(heard, index.duration), most, file.path)

    return judge


def check_heard(seconds: float, most: float, path: str | Path) -> None:
    """Raises MediaError for sound of `seconds` where the model hears no more than `most`."""
    if seconds > most:
        raise MediaError(
            f"{path}: its sound lasts {seconds:.1f} s, the model hears {most:.0f} s: cut the file, or leave "
            "strict_media out, and the rest is not heard"
        )


def note_alignment(media: Media, done: str, seconds: float, duration: float) -> None:
    """What `align_sound` did, to `seconds` of sound, goes among the facts, and into the notes where it is much.

    Nothing was done to sound that ends where the model hears no more: that has a note of its own.
    """
    media.facts["sound"] = done
    if done and abs(seconds - duration) > tolerance(duration):
        media.note(f"sound of {seconds:.2f} s, video of {duration:.2f} s: {done}")


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


def _check_text(special: list[str], text: str, sample: Sample) -> None:
    for token in special:
        if token in text:
            raise InputError(f"sample {sample.id!r}: its text holds the special token {token!r}: take it out")


def _check_length(model: Model, n: int, sample: Sample) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and n > most:
        warnings.warn(
            f"sample {sample.id!r} has {n} tokens, the model was trained for {most}: lower fps or max_pixels",
            stacklevel=5,
        )


def _check_text_length(model: Model, n: int) -> None:
    """Text alone, without media, beyond what the model was trained for: a slip, and a walk of hours."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and n > most:
        raise InputError(
            f"the text alone has {n} tokens, the model was trained for {most}: shorten question or options"
        )


def _answer(tokenizer: PreTrainedTokenizerBase, sample: Sample, lead: str) -> tuple[list[int], list[int] | None]:
    """Token ids of the answer; of every option's letter. lead: before either of them."""
    if sample.options is None:
        return tokenizer(lead + sample.answer, add_special_tokens=False)["input_ids"], None
    letters = [lead + letter for letter in LETTERS[: len(sample.options)]]
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in letters]
    long = [letter for letter, found in zip(letters, ids, strict=True) if len(found) != 1]
    if long:
        raise UnsupportedModelError(f"the tokenizer splits the option letter {long[0]!r} into several tokens")
    options = [found[0] for found in ids]
    return [options[LETTERS.index(sample.answer)]], options
