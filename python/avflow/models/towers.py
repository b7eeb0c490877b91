"""Vision and audio towers in few calls: what they attend within, windows, frames, chunks of sound, goes in batches.

transformers calls attention once per segment, and reads the segments' lengths from the device three times in every
layer. A minute of 280 x 392 pixels with its sound takes Qwen2.5-Omni-3B's towers 21,360 such calls and 192 such reads;
here 136 calls and none. Embeddings are the same: segments of one length are attended to in one call of the function
that the tower is configured with, and index tensors are made on the host by transformers' own functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from ..errors import InputError
from ..uploads import upload
from . import padded_mlp
from .compat import attributes, implementation
from .every_module import every_module
from .tower_rotary import with_quick_rotary

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# transformers treats names that hold "flash", "sdpa" or "flex" specially: this one holds none of them.
NAME = "avflow_segments"
BATCHED = ("sdpa", "eager")  # take a batch; flash attention takes segments of any length in one call as it is
# Of fp32 scores in one call, where the function makes any. With 16 heads 819 windows, or 13 frames of 560 patches: over
# 1,000 blocks of a kernel either way, for the 132 processors of an H100, so that larger calls would gain nothing.
SCORE_BYTES = 256 * 2**20
# What a caller may have made already; transformers takes each in place of computing it.
GIVEN = {"position_ids", "window_index", "cu_window_seqlens", "cu_seqlens"} | {"padded_feature", "chunk_lengths"}
GIVEN |= {"valid_indices", "pool_indices"}
MOST = 32768  # segments in one call: CUDA kernels put the batch on a grid axis, which ends at 65,535


class Segments:
    """Consecutive segments of a tower's rows, for one forward.

    Attributes:
        runs: (length, count) of the segments that follow each other once the rows are in order.
        order, back: int64 [rows]; row i in order is row order[i] of the tower, whose row j is at back[j]. None where
            equal lengths follow each other already: frames of a video, windows of a grid that they fill.
        whole: int32 [2] on the host, for the attention module: one segment.
        attend: transformers' attention function.
    """

    def __init__(self, cu_seqlens: torch.Tensor, device: torch.device, attend: Callable) -> None:
        """cu_seqlens: int32 [segments + 1], where each segment starts, then the number of rows."""
        self.cu_seqlens = cu_seqlens  # kept: the forward finds us by its id
        self.attend = attend
        bounds = cu_seqlens.cpu().long()
        self.whole = bounds[[0, -1]].int()
        starts, lengths = bounds[:-1], bounds.diff()
        found, counts = lengths.unique_consecutive(return_counts=True)
        self.order = self.back = None
        if len(found) > len(found.unique()):
            lengths, first = lengths.sort(descending=True, stable=True)
            shift = starts[first] - (lengths.cumsum(0) - lengths)  # from a segment's place in order to its own
            order = torch.arange(int(bounds[-1])) + shift.repeat_interleave(lengths)
            back = torch.empty_like(order)
            back[order] = torch.arange(len(order))  # argsort: 20 ms more for 768 frames of 504 x 784
            self.order, self.back = upload(order, device), upload(back, device)
            found, counts = lengths.unique_consecutive(return_counts=True)
        self.runs = list(zip(found.tolist(), counts.tolist(), strict=True))
        self._rotary: tuple[Any, Any] = (None, None)

    def in_order(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, ...]"""
        return rows if self.order is None else rows[self.order]

    def as_before(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, ...]"""
        return rows if self.back is None else rows[self.back]

    def rotary(self, tables: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """cos and sin [rows, d] in order; gathered once, as all layers are given the same two."""
        if self._rotary[0] is not tables:
            self._rotary = (tables, tuple(map(self.in_order, tables)))
        return self._rotary[1]


def attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None = None,
    avflow_segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: q, k, v [1, heads, rows, d], rows in order -> [1, rows, heads, d]."""
    if avflow_segments is None:
        raise InputError(f"{type(module).__name__} was called with {NAME!r} attention, but not by avflow")
    heads, _, dim = query.shape[1:]
    outs, start = [], 0
    for length, count in avflow_segments.runs:
        most = max(1, min(MOST, SCORE_BYTES // (4 * heads * length * max(length, dim))))
        for n in [most] * (count // most) + [count % most] * (count % most > 0):
            end = start + n * length
            # [1, heads, rows, d] -> [n, heads, length, d], a view
            batch = (t[0, :, start:end].unflatten(1, (n, length)).transpose(0, 1) for t in (query, key, value))
            out = avflow_segments.attend(module, *batch, attention_mask=attention_mask, **kwargs)[0]
            outs.append(out.flatten(0, 1))  # [n * length, heads, d]
            start = end
    return (outs[0] if len(outs) == 1 else torch.cat(outs))[None], None


def _quick_attention(
    attention: nn.Module, segments_of: Callable[..., Segments], source: ModuleType | None = None
) -> Callable:
    """The module's forward with its rows in order: attention cares for none, projections neither."""
    slow, config = attention.forward, cast("PreTrainedConfig", attention.config)
    quick = with_quick_rotary(slow, source)

    def forward(
        hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, position_embeddings: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        if config._attn_implementation != NAME or "avflow_segments" in kwargs:
            # Left behind by a ctrl-C at the one place where nothing can be put back: as if it were not there.
            return slow(
                hidden_states=hidden_states, cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **kwargs
            )
        segments = segments_of(cu_seqlens, hidden_states.device)
        if position_embeddings is not None:
            kwargs["position_embeddings"] = segments.rotary(position_embeddings)
        rows = segments.in_order(hidden_states)
        out = quick(hidden_states=rows, cu_seqlens=segments.whole, avflow_segments=segments, **kwargs)
        return segments.as_before(out)

    return forward


@contextmanager
def _in_batches(tower: PreTrainedModel, modules: list[nn.Module], source: ModuleType) -> Iterator[None]:
    """Lets a tower's attention modules run in batches, for one forward. source: the file that defines them."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention_forward)
    # Eager attention is in no registry: every model's file has its own.
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(tower.config._attn_implementation, source.eager_attention_forward)
    found: dict[int, Segments] = {}

    def segments_of(cu_seqlens: torch.Tensor, device: torch.device) -> Segments:
        if id(cu_seqlens) not in found:
            found[id(cu_seqlens)] = Segments(cu_seqlens, device, attend)
        return found[id(cu_seqlens)]

    configs = list({id(c): c for c in [tower.config, *(m.config for m in modules)]}.values())
    forwards = [(m, "forward", _quick_attention(m, segments_of, source)) for m in modules]
    with implementation(configs, NAME), attributes(forwards):
        yield


def vision_indices(tower: Any, hidden_states: Any, grid_thw: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
    """What the vision tower would compute from its grids int [media, 3]: read from the device once, made on the CPU."""
    from transformers import vision_utils

    grid, merge = grid_thw.cpu(), tower.spatial_merge_size
    window_index, cu_window_seqlens = vision_utils.get_vision_window_index(
        grid, spatial_merge_size=merge, window_size=tower.window_size, patch_size=tower.patch_size
    )
    return dict(
        position_ids=upload(vision_utils.get_vision_position_ids(grid, merge), grid_thw.device),  # [rows, 2]
        window_index=upload(window_index, grid_thw.device),  # [rows / merge^2]
        cu_window_seqlens=cu_window_seqlens,  # on the host, where `Segments` reads them
        cu_seqlens=vision_utils.get_vision_cu_seqlens(grid),
    )


def audio_indices(
    tower: Any, input_features: torch.Tensor, feature_lens: torch.Tensor, **kwargs: Any
) -> dict[str, torch.Tensor]:
    """What the audio tower would compute from the sounds' lengths int [sounds]; input_features [mels, frames]."""
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni

    lengths, device = feature_lens.cpu(), input_features.device
    # transformers pads numbers of frames, not frames; 0 is the padding. [chunks, 1, frames]
    numbers = torch.arange(1, input_features.shape[1] + 1)[None]
    places, chunk_lengths = omni.chunk_and_pad_features(numbers, lengths, tower.n_window)
    frames = functional.pad(input_features.T, (0, 0, 1, 0))  # [1 + frames, mels]
    return dict(
        padded_feature=frames[upload(places[:, 0], device)].transpose(1, 2),  # [chunks, mels, frames]
        chunk_lengths=upload(chunk_lengths, device),
        valid_indices=upload(omni.get_valid_indices(chunk_lengths), device),
        pool_indices=upload(omni.get_pool_indices(lengths), device),
        cu_seqlens=omni.get_audio_cu_seqlens(chunk_lengths),  # on the host
    )


def quick_tower(
    tower: PreTrainedModel, modules: list[nn.Module], source: ModuleType, indices: Callable[..., dict[str, Any]]
) -> Callable:
    """The tower's forward, in batches; with attention that takes none, as it is.

    modules: its attention modules. source: the file that defines them. indices: makes of the tower and its forward's
    arguments those of GIVEN that it would compute.
    """
    slow = tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if tower.config._attn_implementation not in BATCHED:
            return slow(*args, **kwargs)
        if not kwargs.keys() & GIVEN:
            kwargs |= indices(tower, *args, **kwargs)
        with _in_batches(tower, modules, source):
            return slow(*args, **kwargs)

    return forward


def parts(blocks: nn.ModuleList, name: str) -> list[nn.Module]:
    """The module of that name in each of a tower's layers."""
    return [block.get_submodule(name) for block in blocks]


def patches(hf: nn.Module) -> list[tuple[Any, str, Any]]:
    """For `Family.patches`: the forwards of those towers in `hf` that attend within segments, and of their MLPs."""
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as vl

    out: list[tuple[Any, str, Any]] = []
    for module in every_module(hf):
        if isinstance(module, omni.Qwen2_5OmniVisionEncoder):
            out += padded_mlp.patches(module.blocks, omni)
            forward = quick_tower(module, parts(module.blocks, "attn"), omni, vision_indices)
        elif isinstance(module, vl.Qwen2_5_VisionTransformerPretrainedModel):
            out += padded_mlp.patches(module.blocks, vl)
            forward = quick_tower(module, parts(module.blocks, "attn"), vl, vision_indices)
        elif isinstance(module, omni.Qwen2_5OmniAudioEncoder):
            forward = quick_tower(module, parts(module.layers, "self_attn"), omni, audio_indices)
        else:
            continue
        out.append((module, "forward", forward))
    return out
