"""The checkpoint's own Qwen2_5OmniProcessor, in every environment, and its one call, in every version.

Qwen3-Omni's, of another class and with other limits, goes the same way.

transformers builds its picture processors on torchvision. Three paths; `info(processor).path` tells which ran:
    "torchvision"            torchvision works
    "torchvision (python)"   its compiled part was built for another torch; its Python part needs only torch's operators
    "avflow"                 no torchvision: media/images.py, the same arithmetic in plain torch
Tokenizer, chat template and feature extractor are the checkpoint's own on all three.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...media.audio import SAMPLE_RATE
from ...media.images import Pictures, TorchImages, TorchVideos, fit_images
from .. import compat

PIXELS = 28 * 28  # of one token: 14 x 14 patches, merged 2 x 2
VIDEO_MIN_PIXELS = 128 * PIXELS  # per frame: the limits of the published recipe
VIDEO_MAX_PIXELS = 768 * PIXELS


@dataclass(frozen=True)
class ProcessorInfo:
    """path: see above. min_pixels, max_pixels: limits per video frame; the checkpoint's if it states any for video."""

    path: str
    min_pixels: int = VIDEO_MIN_PIXELS
    max_pixels: int = VIDEO_MAX_PIXELS


@contextmanager
def without_talker_warnings() -> Iterator[None]:
    """Holds back seven warnings that transformers gives about its defaults for the speech half, which is not loaded.

    Its Talker has a vocabulary of 8448, and default ids of the Thinker's. All other warnings come through.
    """

    def wanted(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not ("within the vocabulary" in text and "8447" in text)

    logger = logging.getLogger("transformers.configuration_utils")
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def load_processor(
    folder: str,
    kind: str = "Qwen2_5OmniProcessor",
    limits: tuple[int, int] = (VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS),
    picture: Mapping[str, Any] | None = None,
) -> Any:
    """The processor of a folder or hub name, with `avflow_info` set on it.

    Args:
        kind: its class in transformers. limits: min and max pixels of a video frame where the folder states none.
        picture: settings of pictures for what the folder leaves out.

    Raises:
        InputError: the folder lacks one of the processor's files.
    """
    compat.declare_torchvision()
    processor: Any  # one of several classes, with avflow_info on top
    try:
        if "torchvision" in sys.modules:
            with without_talker_warnings():
                processor = _class_of(kind).from_pretrained(folder)
            path = "torchvision (python)" if compat._LIBRARIES else "torchvision"
            if getattr(processor.video_processor, "cap_pixels_per_frame", False) is None:
                processor.video_processor.cap_pixels_per_frame = False  # frames come at their final size
        else:
            with without_talker_warnings():
                processor, path = _without_torchvision(folder, kind, picture or {}), "avflow"
    except OSError as error:
        raise InputError(f"checkpoint {folder!r} lacks a processor file: {error}") from error
    if processor.chat_template is None:
        raise InputError(f"checkpoint {folder!r} has no chat template: it needs a chat_template.json")
    processor.avflow_info = ProcessorInfo(path, *video_limits(folder, *limits))
    return processor


def info(processor: Any) -> ProcessorInfo:
    """How the processor came to be; for one that the caller made, its path is its class' name."""
    return getattr(processor, "avflow_info", None) or ProcessorInfo(type(processor).__name__)


def agreeing_fps(seconds_per_frame: float, patches: int, per_second: int = 25, chunk: int = 50) -> float:
    """Frames per second for the processor, moved by some 1e-7 where rounding would split processor and model.

    Both cut the video into chunks of `chunk` positions, the processor in float64 to lay out the tokens, the model in
    float32 to place them. A patch on a border (6 x 1/3 s x 25 = 50) could fall on either side of it.
    """
    steps = np.arange(patches)
    for nudge in range(64):
        fps = (1 - nudge * 2.0**-24) / seconds_per_frame
        seconds = 2 / fps
        laid = np.floor(steps * seconds * per_second / chunk)
        placed = (torch.from_numpy(steps) * torch.tensor(seconds) * per_second).long() // chunk
        if np.array_equal(laid, placed.numpy()):
            break
    return fps


def encode(
    processor: Any,
    text: str,
    frames: torch.Tensor | None = None,
    seconds_per_frame: float = 0.5,
    sounds: Sequence[np.ndarray] = (),
    images: Sequence[torch.Tensor] = (),
    interleaved: bool = False,
    image_pixels: tuple[int, int] | None = None,
    fps: float | None = None,
) -> dict[str, Any]:
    """One call of the processor: text and media in, keyword arguments for the model's forward out.

    Args:
        text: rendered chat, one placeholder per medium. frames: uint8 [T, 3, H, W] at their final size.
        sounds: float32 [samples] each, at 16 kHz. images: uint8 [3, H, W] each. Both in the order of their places in
            the text. interleaved: the one sound is the video's own.
        image_pixels: (min, max) pixels of an image, default the checkpoint's.
        fps: frames a second, for the processor; None: by seconds_per_frame, as `agreeing_fps` has it.

    Returns:
        input_ids, attention_mask [1, N]; input_features [sounds, 128, L], feature_attention_mask [sounds, L] (L mel
        frames, 100/s, of the longest);
        pixel_values_videos [patches, 1176], video_grid_thw [1, 3], video_second_per_grid [1]; pixel_values,
        image_grid_thw; use_audio_in_video.
    """
    call: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
    if frames is not None:
        area = frames.shape[-2] * frames.shape[-1]
        patches = frames.shape[0] // processor.video_processor.temporal_patch_size
        call["videos"] = [frames]
        call["videos_kwargs"] = {
            "do_sample_frames": False,
            "fps": agreeing_fps(seconds_per_frame, patches) if fps is None else fps,
            "size": {"shortest_edge": area, "longest_edge": area},
        }
    if len(sounds):
        call["audio"] = list(sounds)
        call["audio_kwargs"] = {"sampling_rate": SAMPLE_RATE}
    if len(images):
        call["images"], size = fit_images(images, processor.image_processor, image_pixels)
        if size is not None:
            call["images_kwargs"] = {"size": size}
    if interleaved:
        if hasattr(type(processor), "load_audio_from_video"):  # transformers >= 5.23
            call |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
        else:
            call["use_audio_in_video"] = True
    inputs = dict(processor(**call))
    if len(sounds):
        inputs = _crop_padding(inputs)
    if frames is not None:
        inputs["video_second_per_grid"] = torch.as_tensor(inputs["video_second_per_grid"], dtype=torch.float32)
        inputs["use_audio_in_video"] = interleaved
    return inputs


def _crop_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """Drop the mel frames beyond the longest sound. The model reads none of them, yet they are 15 MB, for 300 s."""
    length = int(inputs["feature_attention_mask"].sum(-1).max())
    inputs["input_features"] = inputs["input_features"][..., :length].clone()
    inputs["feature_attention_mask"] = inputs["feature_attention_mask"][..., :length].clone()
    return inputs


def read_settings(folder: str, name: str) -> dict | None:
    """A JSON file of a folder or the hub, or a .jinja as {"chat_template": text}; None where there is no such file."""
    from transformers.utils import cached_file

    silent = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    local = Path(folder)
    found = local / name if local.is_dir() else cached_file(folder, name, **silent)
    if found is None or not Path(found).is_file():
        return None
    text = Path(found).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else {"chat_template": text}


def video_limits(folder: str, least: int = VIDEO_MIN_PIXELS, most: int = VIDEO_MAX_PIXELS) -> tuple[int, int]:
    """What a folder states of its videos' min and max pixels, else `least` and `most`."""
    stated = read_settings(folder, "video_preprocessor_config.json")
    stated = stated or (read_settings(folder, "processor_config.json") or {}).get("video_processor") or {}
    size = stated.get("size") or {}
    low = stated.get("min_pixels") or size.get("shortest_edge") or least
    high = stated.get("max_pixels") or size.get("longest_edge") or most
    return int(low), int(high)


def _class_of(kind: str) -> Any:
    import transformers

    return getattr(transformers, kind)


def _without_torchvision(folder: str, kind: str, picture: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    class OmniProcessor(_class_of(kind)):  # type: ignore[misc]  # a class by its name
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, Pictures):
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = read_settings(folder, "chat_template.jinja") or read_settings(folder, "chat_template.json") or {}
    settings = read_settings(folder, "preprocessor_config.json")
    if settings is None:
        settings = (read_settings(folder, "processor_config.json") or {}).get("image_processor", {})
    settings = {**picture, **settings}
    return OmniProcessor(
        image_processor=TorchImages(settings),
        video_processor=TorchVideos(settings),
        feature_extractor=WhisperFeatureExtractor.from_pretrained(folder),
        tokenizer=tokenizer,
        chat_template=template.get("chat_template", tokenizer.chat_template),
    )
