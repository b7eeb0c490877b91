"""Sizes of pictures, and stand-ins for Qwen2-VL's image and video processors in plain torch, for want of torchvision.

The stand-ins give the same patches in the same order; tests compare them with the real processors, bit for bit.
transformers has an image processor without torchvision too, Qwen2VLImageProcessorPil (5.24). It is no replacement:
Pillow rounds otherwise than torch when it resizes, so that up to 1 % of the values are one of 255 levels (0.015 after
normalisation) off, and the numbers would depend on whether torchvision is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import InputError

VIDEO_TOTAL_TOKENS = 115_200  # 0.9 of 128,000; of all frames together, two frames counting as one


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: float) -> tuple[int, int]:
    """Nearest (height, width) that are multiples of `factor`, with about the same ratio and min..max pixels.

    Raises:
        InputError: sides that differ more than 200-fold.
    """
    if max(height, width) > 200 * min(height, width):
        raise InputError(f"a picture of {width} x {height}: sides that differ more than 200-fold are not supported")
    h, w = (round(side / factor) * factor for side in (height, width))
    if h * w > max_pixels:
        h, w = _shrunk(height, width, factor, max_pixels)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return h, w


def _shrunk(height: int, width: int, factor: int, max_pixels: float) -> tuple[int, int]:
    shrink = math.sqrt(height * width / max_pixels)
    h, w = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    return h, w


def frame_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: float) -> tuple[int, int]:
    """As `smart_resize`, but never more than max_pixels, where that is one token at least.

    transformers' rule goes beyond it where no size lies between the limits, and for long strips, whose shorter side
    cannot be less than one token's.
    """
    h, w = smart_resize(height, width, factor, min_pixels, max_pixels)
    if h * w > max_pixels:
        h, w = _shrunk(height, width, factor, max_pixels)
    if h * w > max_pixels:
        longest = max(factor, math.floor(max_pixels / factor / factor) * factor)
        h, w = min(h, longest), min(w, longest)
    return h, w


def video_size(
    frames: int, height: int, width: int, factor: int, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """(height, width) of a video's frames: within the limits of one frame, and of all `frames` together.

    factor: the side of a token in pixels.
    """
    share = max(min(max_pixels, VIDEO_TOTAL_TOKENS * factor**2 * 2 / frames), int(min_pixels * 1.05))
    return frame_size(height, width, factor, min_pixels, min(share, max_pixels))


def fit_video(frames: int, height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """(height, width) of a video's frames, an even number, where the limits are of all frames' pixels together.

    The rule of transformers' Qwen3VLVideoProcessor; a strip whose shorter side is one `factor` may hold more.

    Raises:
        InputError: sides that differ more than 200-fold.
    """
    if min(height, width) < factor:
        grow = max(factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    if max(height, width) > 200 * min(height, width):
        raise InputError(f"a picture of {width} x {height}: sides that differ more than 200-fold are not supported")
    h, w = (round(side / factor) * factor for side in (height, width))
    if frames * h * w > most:
        shrink = math.sqrt(frames * height * width / most)
        h, w = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    elif frames * h * w < least:
        wider = math.sqrt(least / (frames * height * width))
        h, w = (math.ceil(side * wider / factor) * factor for side in (height, width))
    return h, w


def fit_images(
    images: Sequence[torch.Tensor], processor: Any, limits: tuple[int, int] | None
) -> tuple[list[torch.Tensor], dict[str, int] | None]:
    """Images, uint8 [3, H, W] each, of which an image processor makes no more pixels than it may.

    Args:
        processor: of transformers, or `TorchImages`. limits: min and max pixels of an image; None: the processor's own.

    Returns:
        the images as they are, where the processor's rule stays within the limits, else at their final sizes; and the
        `size` to call it with, None for its own.
    """
    low, high = limits or (processor.size["shortest_edge"], processor.size["longest_edge"])
    factor = processor.patch_size * processor.merge_size
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    goals = [frame_size(*size, factor, low, high) for size in sizes]
    if goals == [smart_resize(*size, factor, low, high) for size in sizes]:
        return list(images), None if limits is None else {"shortest_edge": low, "longest_edge": high}
    areas = [h * w for h, w in goals]  # within which the processor leaves all of them as they are
    fitting = [resize(image, *goal) for image, goal in zip(images, goals, strict=True)]
    return fitting, {"shortest_edge": min(areas), "longest_edge": max(areas)}


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 [..., 3, H, W] -> uint8 [..., 3, height, width]: bicubic, antialiased, in integers as torchvision does."""
    if frames.shape[-2:] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    out = torch.nn.functional.interpolate(flat, size=(height, width), mode="bicubic", antialias=True)
    return out.reshape(*frames.shape[:-2], height, width)


Patches = dict[str, torch.Tensor]  # a processor's output: pixels, and the grid [pictures, 3] of every picture


class Pictures:
    """What both stand-ins share: settings as in preprocessor_config.json, and pictures -> rows of pixels."""

    unused_input_names: tuple[str, ...] = ()
    default_size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}

    def __init__(self, settings: dict[str, Any]) -> None:
        self.patch_size = settings.get("patch_size", 14)
        self.temporal_patch_size = settings.get("temporal_patch_size", 2)
        self.merge_size = settings.get("merge_size", 2)
        # divided by 255 on the way in, as transformers fuses the two steps
        self.mean = torch.tensor(settings.get("image_mean", (0.48145466, 0.4578275, 0.40821073))) * 255.0
        self.std = torch.tensor(settings.get("image_std", (0.26862954, 0.26130258, 0.27577711))) * 255.0
        stated = settings.get("size") or {}
        limits = {"shortest_edge": settings.get("min_pixels"), "longest_edge": settings.get("max_pixels")}
        self.size = {k: limits[k] or stated.get(k) or self.default_size[k] for k in limits}

    def fetch_images(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        return images

    def _patches(self, pictures: torch.Tensor, size: dict[str, int] | None) -> tuple[torch.Tensor, list[int]]:
        """uint8 [T, 3, H, W] -> float32 [t * h * w, 3 * 2 * 14 * 14] and the grid [t, h, w]."""
        size, p, m, s = size or self.size, self.patch_size, self.merge_size, self.temporal_patch_size
        goal = smart_resize(pictures.shape[-2], pictures.shape[-1], p * m, size["shortest_edge"], size["longest_edge"])
        x = (resize(pictures, *goal).float() - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)
        if pad := -x.shape[0] % s:
            x = torch.cat([x, x[-1:].expand(pad, -1, -1, -1)])
        t, h, w = x.shape[0] // s, goal[0] // p, goal[1] // p
        x = x.view(t, s, 3, h // m, m, p, w // m, m, p)
        x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # [t, h/m, w/m, m, m, 3, s, p, p]
        return x.reshape(t * h * w, 3 * s * p * p), [t, h, w]

    def _batch(
        self, pictures: list[torch.Tensor], size: dict[str, int] | None, names: tuple[str, str]
    ) -> dict[str, torch.Tensor]:
        parts = [self._patches(torch.as_tensor(x), size) for x in pictures]
        return {names[0]: torch.cat([x for x, _ in parts]), names[1]: torch.tensor([grid for _, grid in parts])}


class TorchVideos(Pictures):
    """Stand-in for Qwen2VLVideoProcessor: uint8 frames [T, 3, H, W] in, patches out, in the same order."""

    model_input_names = ["pixel_values_videos", "video_grid_thw"]

    def __call__(self, videos: list[torch.Tensor], size: dict[str, int] | None = None, **unused: Any) -> Patches:
        return self._batch(videos, size, ("pixel_values_videos", "video_grid_thw"))


class TorchImages(Pictures):
    """Stand-in for Qwen2VLImageProcessor: uint8 images [3, H, W] in; each is taken as two equal frames."""

    model_input_names = ["pixel_values", "image_grid_thw"]

    def __call__(self, images: list[torch.Tensor], size: dict[str, int] | None = None, **unused: Any) -> Patches:
        images = images if isinstance(images, (list, tuple)) else [images]
        return self._batch([x[None] for x in images], size, ("pixel_values", "image_grid_thw"))
