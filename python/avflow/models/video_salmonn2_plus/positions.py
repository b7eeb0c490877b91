"""Rotary positions of video-SALMONN 2+ (time, height, width), in the two layouts that the model is used with.

"trained", the time-aligned positions of its training: a video cell stands at (p0 + floor(2 s k), p0 + row, p0 + column)
for grid step k of s seconds, audio token j beside a video at (p0 + j, p0, p0 + j): the unit of time is half a second.
Text goes on after the largest *time* of the block, which may be below its heights.

"released", what the published inference code computes: it knows neither the audio nor the seconds, so the first
T x H x W slots of the block, whatever they hold, get the grid (p0 + 2 k, p0 + row, p0 + column); the block's other
slots and all text follow one by one after the largest position.

A block is a run of media tokens without text between. p0 is the position of its first token. Several blocks follow the
same rules one after another; the published code breaks on several videos with sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...errors import InputError

if TYPE_CHECKING:
    from .config import VideoSalmonn2PlusConfig

TOKENS_PER_SECOND = 2  # of time, and of audio; the published code has it as a constant, whatever the config says
TEXT, IMAGE, VIDEO, AUDIO = range(4)


def token_kinds(input_ids: torch.Tensor, config: VideoSalmonn2PlusConfig) -> torch.Tensor:
    """TEXT, IMAGE, VIDEO or AUDIO for each id, int8 of the same shape."""
    kinds = torch.zeros_like(input_ids, dtype=torch.int8)
    kinds[input_ids == config.image_token_id] = IMAGE
    kinds[input_ids == config.video_token_id] = VIDEO
    kinds[input_ids == config.audio_token_id] = AUDIO
    return kinds


def blocks(kinds: torch.Tensor) -> list[tuple[int, int]]:
    """(first, one past the last) of each run of media tokens in kinds [n]."""
    media = torch.nn.functional.pad((kinds != TEXT).to(torch.int8), (1, 1))  # [n + 2]
    edges = torch.nonzero(media.diff()).flatten().tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def rope_index(
    input_ids: torch.Tensor,
    config: VideoSalmonn2PlusConfig,
    image_grid_thw: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
    video_second_per_grid: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    layout: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of a batch of prompts.

    Args:
        input_ids: int [B, N]. attention_mask: [B, N], 0 for padding at either end; padding gets position 0.
        image_grid_thw, video_grid_thw: int [media, 3], patches in time, height and width, in the order of the batch.
        video_second_per_grid: [videos], seconds per grid step; only the layout "trained" needs it.
        layout: "released" or "trained". None: config.position_layout.

    Returns:
        positions int64 [3, B, N], and rope deltas int64 [B, 1]: the token that is generated after n tokens (padding
        not counted) stands at n + delta on all axes. Under "released" that is 1 + the largest position; under
        "trained" 1 + the last one, since time goes on from the prompt's text.

    Raises:
        InputError: media tokens and grids that do not fit together, missing seconds.
    """
    layout = config.position_layout if layout is None else layout
    if layout not in ("released", "trained"):
        raise InputError(f"layout {layout!r}: pass 'released' or 'trained'")
    merge = config.vision_config.spatial_merge_size
    images, videos = _Grids("image", image_grid_thw, merge), _Grids("video", video_grid_thw, merge)
    seconds: Iterator[torch.Tensor] = iter(())
    if layout == "trained" and video_grid_thw is not None:
        if video_second_per_grid is None or len(video_second_per_grid) != len(video_grid_thw):
            given = "none" if video_second_per_grid is None else len(video_second_per_grid)
            raise InputError(
                f"video_second_per_grid: {given} given for {len(video_grid_thw)} videos; the layout 'trained' needs "
                "the seconds of each one's grid step"
            )
        seconds = iter(torch.as_tensor(video_second_per_grid).to("cpu", torch.float32))
    kinds = token_kinds(input_ids, config).cpu()
    mask = None if attention_mask is None else attention_mask.bool().cpu()
    positions = torch.zeros(3, *kinds.shape, dtype=torch.int64)  # [3, B, N]
    deltas = torch.zeros(len(kinds), 1, dtype=torch.int64)  # [B, 1]
    for row, row_kinds in enumerate(kinds):
        kept = torch.ones_like(row_kinds, dtype=torch.bool) if mask is None else mask[row]
        own = _row(row_kinds[kept], images, videos, seconds, layout)  # [3, n]
        positions[:, row, kept] = own
        if own.shape[1]:
            last = own[0, -1] if layout == "trained" else own.max()
            deltas[row, 0] = last + 1 - own.shape[1]
    images.done()
    videos.done()
    return positions.to(input_ids.device), deltas.to(input_ids.device)


@dataclass
class _Grids:
    """Hands out the grids of one kind of media, in order."""

    name: str
    grids: torch.Tensor | None  # int [media, 3]
    merge: int
    used: int = 0

    def take(self, tokens: int) -> tuple[int, int, int]:
        """The next grid in tokens (T, h, w); it must hold `tokens`."""
        if self.grids is None or self.used >= len(self.grids):
            given = 0 if self.grids is None else len(self.grids)
            raise InputError(
                f"{self.name}_grid_thw has {given} rows, input_ids hold {self.name} {self.used + 1}: pass one row per "
                f"{self.name}, and text between {self.name}s"
            )
        t, h, w = self.grids[self.used].tolist()
        h, w = h // self.merge, w // self.merge
        if t * h * w != tokens:
            raise InputError(f"{self.name} {self.used}: its grid makes {t} x {h} x {w} tokens, input_ids have {tokens}")
        self.used += 1
        return t, h, w

    def done(self) -> None:
        if self.grids is not None and self.used != len(self.grids):
            raise InputError(
                f"{self.name}_grid_thw has {len(self.grids)} rows, input_ids hold {self.used} {self.name}s"
            )


def _row(
    kinds: torch.Tensor, images: _Grids, videos: _Grids, seconds: Iterator[torch.Tensor], layout: str
) -> torch.Tensor:
    """Positions [3, n] of one prompt without padding."""
    parts, at, position = [], 0, 0
    for start, stop in blocks(kinds):
        parts.append(_line(position, start - at))
        position += start - at
        block, position = _block(kinds[start:stop], position, images, videos, seconds, layout)
        parts.append(block)
        at = stop
    parts.append(_line(position, len(kinds) - at))
    return torch.cat(parts, 1)


def _line(first: int, count: int) -> torch.Tensor:
    """[3, count]: one after another, the same on all axes."""
    return (first + torch.arange(count)).expand(3, -1)


def _grid(steps: torch.Tensor, h: int, w: int, p0: int) -> torch.Tensor:
    """[3, T h w]: the cells of a grid, row-major; steps [T] int64 from 0."""
    return p0 + torch.stack(torch.meshgrid(steps, torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)


def _block(
    kinds: torch.Tensor,
    p0: int,
    images: _Grids,
    videos: _Grids,
    seconds: Iterator[torch.Tensor],
    layout: str,
) -> tuple[torch.Tensor, int]:
    """Positions [3, n] of one block, and the position of what follows it."""
    image, video, audio = (int((kinds == kind).sum()) for kind in (IMAGE, VIDEO, AUDIO))
    if image and (video or audio):
        raise InputError("an image touches a video or audio in input_ids: put text or vision marks between them")
    if image:
        t, h, w = images.take(image)
        out = _grid(torch.zeros(t, dtype=torch.int64), h, w, p0)
        return out, int(out.max()) + 1
    sound = p0 + torch.arange(audio)  # [A]
    if not video:
        width = torch.full_like(sound, p0) if layout == "trained" else sound
        return torch.stack([sound, sound, width]), p0 + audio
    t, h, w = videos.take(video)
    k = torch.arange(t)
    if layout == "released":
        cells = _grid(TOKENS_PER_SECOND * k, h, w, p0)
        after = int(cells.max()) + 1
        return torch.cat([cells, _line(after, audio)], 1), after + audio
    # float32 and truncation, as in training: in float64 some products fall on the other side of a whole number.
    cells = _grid((k.float() * next(seconds) * TOKENS_PER_SECOND).long(), h, w, p0)
    if not audio:
        return cells, int(cells.max()) + 1
    out = torch.empty(3, len(kinds), dtype=torch.int64)
    out[:, kinds == VIDEO] = cells
    out[:, kinds == AUDIO] = torch.stack([sound, torch.full_like(sound, p0), sound])
    return out, int(out[0].max()) + 1
