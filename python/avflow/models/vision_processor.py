"""Processors of models that see pictures and need no torchvision: tokenizer, chat text, patches, placeholders filled.

Patches come from media/images.py, the same arithmetic as transformers' processors (tests compare them bit for bit). A
transformers processor that the caller made (Qwen2_5_VLProcessor) works in `pixels` and `fill` as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..errors import InputError
from ..media.images import TorchImages, TorchVideos, fit_images
from .qwen2_5_omni.processor import ProcessorInfo, read_settings, video_limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class VisionProcessor:
    """What a checkpoint folder says about text and pictures.

    settings: its preprocessor_config.json. video: its video_preprocessor_config.json, of families that read one.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: TorchImages
    video_processor: TorchVideos
    settings: dict[str, Any]
    chat_template: str | None = None
    avflow_info: ProcessorInfo = ProcessorInfo("avflow")
    video: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str, picture: Mapping[str, Any] | None = None, video_pixels: tuple[int, int] | None = None
    ) -> VisionProcessor:
        """From a checkpoint folder or a hub name. Raises InputError where it lacks a file.

        Args:
            picture: settings for what the folder leaves out. video_pixels: min and max pixels of a video, likewise, of
                a family whose video processor has a size of its own; None: it has that of images.
        """
        from transformers import AutoTokenizer

        settings = read_settings(folder, "preprocessor_config.json")
        if settings is None:
            settings = (read_settings(folder, "processor_config.json") or {}).get("image_processor")
        if settings is None:
            raise InputError(f"checkpoint {folder!r} lacks a processor file: it needs a preprocessor_config.json")
        settings, video = {**(picture or {}), **settings}, None
        if video_pixels is not None:
            least, most = video_limits(folder, *video_pixels)
            limits = {"size": {"shortest_edge": least, "longest_edge": most}, "min_pixels": None, "max_pixels": None}
            video = {**settings, **limits}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise InputError(f"checkpoint {folder!r} has no tokenizer that loads: {error}") from error
        pictures = TorchImages(settings), TorchVideos(video or settings)
        info = ProcessorInfo("avflow", *video_limits(folder))
        return cls(tokenizer, *pictures, settings, cls._template(folder, tokenizer), info, video)

    @classmethod
    def _template(cls, folder: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
        found = read_settings(folder, "chat_template.jinja") or read_settings(folder, "chat_template.json") or {}
        template = found.get("chat_template", tokenizer.chat_template)
        if template is None:
            raise InputError(f"checkpoint {folder!r} has no chat template: it needs a chat_template.json")
        return template

    def save_pretrained(self, folder: str | Path) -> None:
        """The files that `from_pretrained` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        files = {"preprocessor_config.json": self.settings}
        if self.video is not None:
            files["video_preprocessor_config.json"] = self.video
        if self.chat_template is not None:
            files["chat_template.json"] = {"chat_template": self.chat_template}
        for name, value in files.items():
            (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def apply_chat_template(self, chat: list[dict], tokenize: bool = False, add_generation_prompt: bool = True) -> str:
        text = self.tokenizer.apply_chat_template(
            chat, chat_template=self.chat_template, tokenize=tokenize, add_generation_prompt=add_generation_prompt
        )
        return cast(str, text)


def pixels(
    processor: Any,
    frames: torch.Tensor | None,
    image: torch.Tensor | None,
    image_pixels: tuple[int, int] | None = None,
) -> dict[str, torch.Tensor]:
    """Patches of a video and an image.

    Args:
        frames: uint8 [T, 3, H, W] at their final size; an odd last one is repeated. image: uint8 [3, H, W].
        image_pixels: (min, max) pixels of the image, default the checkpoint's.

    Returns:
        pixel_values_videos float32 [patches, 1176], video_grid_thw int64 [1, 3]; pixel_values, image_grid_thw.
    """
    out: dict[str, torch.Tensor] = {}
    if frames is not None:
        area = frames.shape[-2] * frames.shape[-1]
        size = {"shortest_edge": area, "longest_edge": area}
        out |= processor.video_processor(
            videos=[frames], do_sample_frames=False, do_resize=False, size=size, return_tensors="pt"
        )
    if image is not None:
        fitting, limits = fit_images([image], processor.image_processor, image_pixels)
        more = {} if limits is None else {"size": limits}
        out |= processor.image_processor(images=fitting, return_tensors="pt", **more)
    names = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")
    return {name: out[name] for name in names if name in out}


def tokens(grid: torch.Tensor, merge: int) -> tuple[int, int]:
    """Temporal steps, and tokens of each, of one grid [3] = (t, h, w) in patches that are merged `merge` x `merge`."""
    t, h, w = grid.tolist()
    return t, h * w // merge**2


def fill(
    tokenizer: PreTrainedTokenizerBase, text: str, runs: Mapping[int, Sequence[list[int]]]
) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask int64 [1, N] of a chat text whose placeholders give way to their runs.

    Args:
        runs: placeholder id -> the ids that its first, second ... occurrence becomes.

    Raises:
        InputError: not as many placeholders in the text as runs.
    """
    ids: list[int] = []
    left = {token: list(found) for token, found in runs.items()}
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        ids += left[token].pop(0) if left.get(token) else [token]
    unused = {token for token, found in left.items() if found}
    if unused:
        raise InputError(
            f"the chat text lacks the placeholder {tokenizer.decode(sorted(unused)[:1])!r}: chat template, tokenizer "
            "and config.json of the checkpoint do not belong together"
        )
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
