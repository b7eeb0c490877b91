"""Where a prompt's media tokens lie: which stretch of time, and which part of the picture, each of them shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from .prompt import Prompt


def spans(prompt: Prompt, groups: np.ndarray) -> np.ndarray | None:
    """Seconds [N, 2], begin and end, from the begin of each token's medium; NaN where it has no time.

    A token lasts until the next one of its medium begins, the last one as long as the one before; a single one for
    ever. None: no token has a time. groups: str [N], as avflow has labelled the tokens.
    """
    if prompt.times is None:
        return None
    begin = np.array(prompt.times, np.float64)  # None becomes NaN
    video = groups == "video"
    begin[video] *= _true_rate(prompt, begin[video])
    out = np.stack([begin, np.full(len(begin), np.nan)], 1)
    for group in np.unique(groups[~np.isnan(begin)]):
        own = np.flatnonzero((groups == group) & ~np.isnan(begin))
        moments = np.unique(begin[own])
        steps = np.diff(moments, append=np.nan)
        steps[-1] = steps[-2] if len(moments) > 1 else np.inf
        out[own, 1] = begin[own] + steps[np.searchsorted(moments, begin[own])]
    return out


def _true_rate(prompt: Prompt, told: np.ndarray) -> float:
    """Seconds of the file per second of the video's clock as the model is told it, which timing="published" sets to
    2 frames a second whatever they are. told: the times of all video tokens."""
    frames, seconds = prompt.media.get("frames"), prompt.media.get("video_seconds")
    moments = np.unique(told[~np.isnan(told)])
    if not frames or not seconds or len(moments) < 2:
        return 1.0
    rate = seconds / len(moments) / (moments[1] - moments[0])
    return rate if abs(rate - 1) > 1e-3 else 1.0  # nearer is float32's rounding


def cells(prompt: Prompt, groups: np.ndarray, items: np.ndarray) -> np.ndarray | None:
    """Of every token of a video or an image, also of candidates and a reference that are images, the part of the
    picture that it shows: [N, 4], x0, y0, x1, y1 in shares of width and height; NaN for other tokens.
    None: the prompt tells of no grid.

    From the grids of `model_inputs` (patches) and the tokens that there are: a token stands for merge x merge patches.
    groups: str [N], items: int [N], as avflow has labelled the tokens.
    """
    inputs = prompt.model_inputs or {}
    out = np.full((len(prompt), 4), np.nan)
    roles = _image_roles(prompt)
    for name in ("video_grid_thw", "image_grid_thw"):
        grids: torch.Tensor | None = inputs.get(name)
        first = 0  # number of the grid's first step
        for steps, height, width in () if grids is None else grids.tolist():
            for number in range(first, first + steps):
                group, item = ("video", number) if name == "video_grid_thw" else ("image", number)
                if group == "image" and roles is not None:
                    if number >= len(roles):
                        break  # more grids than images: not this sample's
                    group, item = roles[number]
                own = np.flatnonzero((groups == group) & (items == item))
                merge = round((height * width / len(own)) ** 0.5) if len(own) else 0
                if not merge or len(own) * merge * merge != height * width:
                    continue  # labelled by other hands: not this grid's tokens
                rows, columns = height // merge, width // merge
                row, column = np.divmod(np.arange(len(own)), columns)
                sides = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
                out[own] = np.stack(sides, 1)
            first += steps
    return None if np.isnan(out).all() else out


def _image_roles(prompt: Prompt) -> list[tuple[str, int]] | None:
    """Group and item of every image of an interleaved item, in the order of the text; None where images are "image"."""
    sample = prompt.sample
    if sample is None:
        return None
    if sample.tagged is not None:
        return [(medium.group, medium.item) for medium in sample.placed if medium.kind == "image"]
    if sample.interleaved is None:
        return None
    if sample.interleaved.kind != "image":
        return [("reference", 0)]
    right = sample.answer_index
    return [
        ("candidate_correct" if number == right else "candidate_incorrect", number)
        for number in range(len(sample.interleaved.candidates))
    ]
