"""Chat families that transformers' own processor prepares: one medium a prompt, labelled in the processor's own text.

The processor writes a medium as text: its tokens, and what stands between them, such as a frame's time. What it wrote
is read back from its ids, so that no family here says how many tokens a medium has.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError, UnsupportedModelError
from ..media.audio import SAMPLE_RATE, read_audio
from ..media.container import open_media
from ..media.stills import read_image
from ..media.video import read_video
from ..prompts.labels import Span
from ..prompts.prompt import Prompt
from . import chat
from .checkpoints import processor_folder
from .compat import declare_torchvision
from .complete_load import load_complete
from .processor_labels import label_expanded, media_items
from .wording import PromptStyle

if TYPE_CHECKING:
    from ..media.timing import Timing
    from ..prompts.sample import Sample
    from .base import Model


@dataclass
class ReadMedium:
    """A sample's one medium, decoded. call: of the processor. times: of a video's frames, seconds after the first."""

    kind: str  # "video", "image", "audio"
    media: chat.Media
    call: dict[str, Any]
    times: list[float] = field(default_factory=list)


class ProcessorFamily(chat.ChatFamily):
    """A family whose prompt is what transformers' processor makes of a chat with one medium.

    Attributes:
        model_class, processor_class: names in transformers. reads: the kinds of media.
        system: the system text; None: no system turn but what the chat template writes by itself.
        frames: of a video, where neither the caller nor the checkpoint's video processor says how many.
        sound_token: seconds. nested: the processor's call takes a list of videos for every text.
    """

    model_class = ""
    processor_class = ""
    reads: tuple[str, ...] = ("video", "image")
    system: str | None = None
    frames = 8
    sound_token = 0.04  # 100 mel frames a second, of which four make a token
    nested = False
    frames_apart = True

    def load_hf(self, folder: str, dtype: torch.dtype | str, device: str, **options: Any) -> nn.Module:
        import transformers

        return load_complete(getattr(transformers, self.model_class), folder, dtype, device, options)

    def load_processor(self, folder: str, **options: Any) -> Any:
        import transformers

        declare_torchvision()
        try:
            return getattr(transformers, self.processor_class).from_pretrained(processor_folder(folder, options))
        except ImportError as error:
            raise UnsupportedModelError(
                f"the processor of checkpoint {folder!r} is transformers' {self.processor_class}, and one of its "
                f"packages is not installed: {' '.join(str(error).split()).split(' Check out')[0]}"
            ) from error
        except OSError as error:
            raise InputError(f"checkpoint {folder!r} lacks a processor file: {error}") from error

    def prepare(  # type: ignore[override]  # it names the options that it takes
        self,
        model: Model,
        sample: Sample,
        *,
        fps: float | None = None,
        max_frames: int | None = None,
        use_audio_in_video: bool | None = None,
        question_first: bool = False,
        system: str | None = None,
        instruction: str | None = None,
        prompt_style: PromptStyle | Mapping[str, Any] | str | None = None,
        strict_media: bool = False,
        timing: Timing = "player",
    ) -> Prompt:
        """The sample as the model reads it, by transformers' own processor; encodes nothing yet.

        Args:
            fps, max_frames: of a video; None: what the checkpoint's video processor says, else the family's default.
                Which frames these are is that processor's own rule.
            strict_media: refuse sound that is longer than the model hears. Else it is cut, and a note says so.
            question_first, system, instruction, prompt_style, timing: as for Qwen2.5-Omni.

        Items: of a video its frames, of sound its 2 s.

        Raises:
            MediaError: a file that is missing or broken. InputError: several media, or one that the model does not
                read; text that holds one of the model's special tokens.
        """
        chat.tokenizer_of(model)
        kind = self._kind(sample, use_audio_in_video)
        read = self._sound(model, sample, strict_media) if kind == "audio" else None
        read = read or self._pictures(model, sample, kind, fps, max_frames, timing)
        read.media.facts["processor"] = type(model.processor).__name__
        known = set(inspect.signature(model.hf.forward).parameters)

        def encode(text: str) -> dict[str, Any]:
            return {name: value for name, value in self.call(model, text, read).items() if name in known}

        def label(text: str, spans: list[Span], ids: list[int]) -> tuple[list[str], list[int]]:
            mark = getattr(model.processor, f"{kind}_token")
            groups, items = self.label_text(model, text, spans, ids, mark)
            found = media_items(ids, self.media_id(model, kind), kind, len(read.times), round(2 / self.sound_token))
            for at, (group, item) in found.items():
                groups[at], items[at] = group, item
            return groups, items

        words = chat.wording(model, self.system, system, instruction, question_first, prompt_style)
        prompt = self.lay_out(model, sample, read.media, words, encode, label)
        prompt.times = self._seconds(prompt, read)
        return prompt

    def call(self, model: Model, text: str, read: ReadMedium) -> dict[str, Any]:
        """What the processor makes of a rendered chat and its medium."""
        return dict(model.processor(text=[text], return_tensors="pt", **read.call))

    def label_text(
        self, model: Model, text: str, spans: list[Span], ids: list[int], mark: str
    ) -> tuple[list[str], list[int]]:
        """As `label_expanded`, for the model's tokenizer."""
        return label_expanded(chat.tokenizer_of(model), text, spans, ids, mark)

    def media_id(self, model: Model, kind: str) -> int:
        """The token that a medium of this kind becomes."""
        found: int = getattr(model.processor, f"{kind}_token_id")
        return found

    def sampling(self, part: Any, total: int, seconds: float, fps: float | None, most: int | None) -> dict[str, Any]:
        """Arguments of the video processor's own `sample_frames`, for a video of `total` frames in `seconds`."""
        count = int(seconds * fps) if fps else most or getattr(part, "num_frames", None) or self.frames
        return {"num_frames": max(1, min(count, most or count, total))}

    def most_seconds(self, model: Model) -> float:
        """Seconds of sound that the model hears."""
        return float(model.processor.feature_extractor.chunk_length)

    def label(self, model: Model, input_ids: torch.Tensor, video_grid_thw: torch.Tensor | None = None) -> Any:
        raise UnsupportedModelError(
            f"{type(self).__name__} cannot label tokens from their ids: pass groups= the prompt of model.prepare, or "
            "one name per token"
        )

    def count_videos(self, model: Model, input_ids: torch.Tensor) -> int:
        return 0  # no forward here takes a video's grid for labels

    def _kind(self, sample: Sample, asked: bool | None) -> str:
        asked = sample.use_audio_in_video if asked is None else asked
        given = [kind for kind in ("video", "image", "audio") if getattr(sample, kind)]
        if asked or sample.dub:
            raise InputError(f"sample {sample.id!r}: {type(self).__name__} reads no sound of a video: leave it out")
        if len(given) != 1 or given[0] not in self.reads:
            raise InputError(
                f"sample {sample.id!r} has {' and '.join(given)}: {type(self).__name__} reads one "
                f"{' or '.join(self.reads)} at a time"
            )
        return given[0]

    def _pictures(
        self, model: Model, sample: Sample, kind: str, fps: float | None, most: int | None, timing: Timing
    ) -> ReadMedium:
        if kind == "image":
            image = read_image(str(sample.image))
            return ReadMedium(kind, chat.Media(image=image), {"images": [image]})
        part = model.processor.video_processor
        meta: dict[str, Any] = {}

        def choose(total: int, seconds: float) -> list[int]:
            from transformers.video_utils import VideoMetadata

            meta.update(total_num_frames=total, fps=total / seconds, duration=seconds)
            wanted = self.sampling(part, total, seconds, fps, most)
            meta["frames_indices"] = [int(n) for n in part.sample_frames(VideoMetadata(**meta), **wanted)]
            return meta["frames_indices"]

        video = read_video(str(sample.video), choose=choose, span=(sample.start, sample.end), timing=timing)
        facts = {"frames": len(video.frames), "video_seconds": video.duration}
        media = chat.Media(video.frames, video.seconds_per_frame, facts=facts)
        videos = [[video.frames]] if self.nested else [video.frames]
        call = {"videos": videos, "videos_kwargs": {"do_sample_frames": False, "video_metadata": [meta]}}
        return ReadMedium(kind, media, call, video.times)

    def _sound(self, model: Model, sample: Sample, strict: bool) -> ReadMedium:
        path, most = str(sample.audio), self.most_seconds(model)
        with open_media(path) as file:
            seconds = file.index.sound_seconds()
            if strict:
                chat.check_heard(seconds, most, path)
            sound = read_audio(file, seconds=most)
        media = chat.Media(sound=sound, facts={"sound_seconds": len(sound) / SAMPLE_RATE})
        if seconds > most + 0.1:  # a track's packets last some 10 ms longer than its sound
            media.note(f"sound cut at {most:.0f} s, which is what the model hears: {path} has {seconds:.2f} s")
        return ReadMedium("audio", media, {"audio": [sound], "audio_kwargs": {"sampling_rate": SAMPLE_RATE}})

    def _seconds(self, prompt: Prompt, read: ReadMedium) -> list[float | None] | None:
        """When each of the medium's tokens is seen or heard; None for an image."""
        if read.kind == "image":
            return None
        mine = [group == read.kind for group in prompt.groups]
        if read.kind == "video":
            return [read.times[item] if here else None for item, here in zip(prompt.items, mine, strict=True)]
        numbers = iter(range(len(mine)))
        return [next(numbers) * self.sound_token if here else None for here in mine]
