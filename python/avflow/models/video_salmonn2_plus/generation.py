"""What generate() asks of a model whose positions have three axes and whose media have no batch dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationMixin

from ...errors import InputError
from ..compat import cache_in
from .config import VideoSalmonn2PlusConfig
from .positions import AUDIO, IMAGE, TEXT, VIDEO, blocks, rope_index, token_kinds

_MEDIA = ("pixel_values", "pixel_values_videos", "audio_features")
_GRIDS = ("image_grid_thw", "video_grid_thw", "video_second_per_grid")


class MediaGenerationMixin(GenerationMixin):
    """For a model with `config`, `rope_deltas`, and a forward that takes the media."""

    if TYPE_CHECKING:
        config: VideoSalmonn2PlusConfig
        rope_deltas: torch.Tensor | None

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Positions [4, B, N], text positions first; or [1, B, N] that go on after a cache."""
        text = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # [B or 1, N]
        ids = model_kwargs.get("input_ids")
        if ids is None or ids.shape[1] == 0:
            ids = inputs_tensor if inputs_tensor.dim() == 2 else None  # embeddings have 3
        cache = cache_in(model_kwargs)
        past = 0 if cache is None else int(cache.get_seq_length())
        if past and self.rope_deltas is not None:
            if ids is not None and any(model_kwargs.get(name) is not None for name in _MEDIA):
                new = ids[:, past:] if ids.shape[1] > past else ids
                if bool((token_kinds(new, self.config) != TEXT).any()):
                    raise InputError("media after a cache: pass position_ids, or generate without the cache")
            return text[None] + self.rope_deltas
        if ids is None:
            self.rope_deltas = torch.zeros(len(inputs_tensor), 1, dtype=torch.int64, device=inputs_tensor.device)
            return text.expand(4, len(inputs_tensor), -1)
        grids = {name: model_kwargs.get(name) for name in (*_GRIDS, "attention_mask")}
        positions, self.rope_deltas = rope_index(ids, self.config, **grids)
        return torch.cat([text.expand(1, len(ids), -1), positions])

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,  # named: generate looks for it in the signature
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        encoded = inputs.get("inputs_embeds") is not None  # they hold the media already
        if encoded or (not is_first_iteration and kwargs.get("use_cache", True)):
            for name in (*_MEDIA, *_GRIDS):
                inputs.pop(name, None)
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeats each prompt for beams or several answers; media have no batch dimension, so by prompt, not by row."""
        media = {name: model_kwargs.pop(name, None) for name in (*_MEDIA, *_GRIDS)}
        positions = model_kwargs.pop("position_ids", None)  # [3 or 4, B, N]; transformers 5.17 repeats the axes
        if positions is not None:
            positions = positions.repeat_interleave(expand_size, -2)
        given = model_kwargs.get("input_ids") if input_ids is None else input_ids
        if expand_size > 1 and given is not None:
            media = _repeat_media(media, token_kinds(given, self.config).cpu(), expand_size, self.config)
        # A whole model is asked for, which those who inherit from this are
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        media["position_ids"] = positions
        return input_ids, model_kwargs | {name: value for name, value in media.items() if value is not None}


def _repeat_media(
    media: dict[str, torch.Tensor | None], kinds: torch.Tensor, times: int, config: VideoSalmonn2PlusConfig
) -> dict[str, torch.Tensor | None]:
    """Media of kinds [B, N], repeated prompt by prompt."""
    counts: dict[int, list[int]] = {
        kind: [] for kind in (IMAGE, VIDEO, AUDIO)
    }  # per prompt: images, videos, pieces of sound
    for row in kinds:
        held = [row[start:stop] for start, stop in blocks(row)]
        for kind in (IMAGE, VIDEO):
            counts[kind].append(sum(bool((block == kind).any()) for block in held))
        counts[AUDIO].append(int((row == AUDIO).sum()) // config.audio_tokens_per_piece)

    def repeat(value: torch.Tensor | None, sizes: list[int]) -> torch.Tensor | None:
        if value is None:
            return None
        parts = torch.as_tensor(value).split(sizes)
        return torch.cat([part for part in parts for _ in range(times)])

    def patches(grid: torch.Tensor | None, sizes: list[int]) -> list[int]:
        return [] if grid is None else [int(part.prod(-1).sum()) for part in grid.split(sizes)]

    images, videos = media["image_grid_thw"], media["video_grid_thw"]
    return {
        "pixel_values": repeat(media["pixel_values"], patches(images, counts[IMAGE])),
        "pixel_values_videos": repeat(media["pixel_values_videos"], patches(videos, counts[VIDEO])),
        "audio_features": repeat(media["audio_features"], counts[AUDIO]),
        "image_grid_thw": repeat(images, counts[IMAGE]),
        "video_grid_thw": repeat(videos, counts[VIDEO]),
        "video_second_per_grid": repeat(media["video_second_per_grid"], counts[VIDEO]),
    }
