"""The towers of Qwen3-VL and Qwen3-Omni in few calls, as `towers` has those of Qwen2.5: one for all frames of a size.

Their vision towers attend within frames alone, the sound's within stretches of 8 s, and transformers makes a call of
each, in every layer. How the learned positions are resampled to a frame is left to transformers: its weights are
rounded where they are made.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..uploads import upload
from .every_module import every_module
from .towers import parts, quick_tower


def vision_indices(tower: Any, hidden_states: Any, grid_thw: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
    """What the tower would compute from its grids int [media, 3]: read from the device once, made on the CPU."""
    from transformers import vision_utils

    grid = grid_thw.cpu()
    positions = vision_utils.get_vision_position_ids(grid, tower.spatial_merge_size)  # [rows, 2]
    return dict(
        position_ids=upload(positions, grid_thw.device),
        cu_seqlens=vision_utils.get_vision_cu_seqlens(grid),  # on the host, where `Segments` reads them
    )


def audio_indices(
    source: ModuleType, tower: Any, input_features: torch.Tensor, feature_lens: torch.Tensor, **kwargs: Any
) -> dict[str, torch.Tensor]:
    """What the audio tower would compute from the sounds' lengths int [sounds]; input_features [mels, frames]."""
    lengths, device, window = feature_lens.cpu(), input_features.device, tower.n_window
    # transformers pads numbers of frames, not frames; 0 is the padding. [chunks, 1, frames]
    numbers = torch.arange(1, input_features.shape[1] + 1)[None]
    places, chunk_lengths = source.chunk_and_pad_features(numbers, lengths, window)
    frames = functional.pad(input_features.T, (0, 0, 1, 0))  # [1 + frames, mels]
    return dict(
        padded_feature=frames[upload(places[:, 0], device)].transpose(1, 2),  # [chunks, mels, frames]
        chunk_lengths=upload(chunk_lengths, device),
        valid_indices=upload(source.get_valid_indices(chunk_lengths, window), device),
        cu_seqlens=source.get_audio_cu_seqlens(chunk_lengths, lengths, tower.n_window_infer, window),  # on the host
    )


def patches(
    hf: nn.Module, source: ModuleType, vision: type[nn.Module], audio: type[nn.Module] | None = None
) -> list[tuple[Any, str, Any]]:
    """For `Family.patches`: the towers' forwards. source: transformers' file of the classes `vision` and `audio`."""
    out: list[tuple[Any, str, Any]] = []
    for module in every_module(hf):
        tower: Any = module
        if isinstance(module, vision):
            forward = quick_tower(tower, parts(tower.blocks, "attn"), source, vision_indices)
        elif audio is not None and isinstance(module, audio):
            forward = quick_tower(tower, parts(tower.layers, "self_attn"), source, partial(audio_indices, source))
        else:
            continue
        out.append((module, "forward", forward))
    return out
