"""How many rows the row-wise parts of a decoder take at a time: what a chunk holds must not outgrow the walk's rows."""

from __future__ import annotations

import torch

from ..models.base import Model
from ..models.experts import experts_per_token

MLP_CHUNK = 2048  # on the CPU, whose caches gain nothing by more; the weights are read again for each chunk
HEAD_CHUNK = 64  # on the CPU: 64 rows of 152k logits in fp32 are 39 MB
# On a CUDA device a chunk may hold this share of its memory, 2.1 of 85 GB: 18k rows of a 7B decoder's MLP, 32k of a 3B
# one's, 870 rows of logits. A sweep whose targets come after the media runs each layer's MLP in one to three pieces
# then, of eight to nineteen with the CPU's chunks: fewer launches, and each reads the weights once.
CUDA_SHARE = 0.025


def inner_size(model: Model) -> int:
    """Width of the MLP; of a mixture's, what all experts that run a row have together, where that is more."""
    config = model.config
    width = getattr(config, "intermediate_size", 4 * config.hidden_size)
    return max(width, (experts_per_token(config) or 0) * (getattr(config, "moe_intermediate_size", None) or 0))


def _rows(device: torch.device, least: int, row_bytes: int) -> int:
    if device.type != "cuda":
        return least
    return max(least, int(CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory) // row_bytes)


def mlp_chunk(model: Model) -> int:
    """Rows of the MLP at a time; its widest moment holds three intermediates."""
    return _rows(model.device, MLP_CHUNK, 3 * inner_size(model) * torch.finfo(model.dtype).bits // 8)


def head_chunk(model: Model) -> int:
    """Rows of logits at a time: in the model's dtype and in fp32, and two temporaries in fp32 at most."""
    return _rows(model.device, HEAD_CHUNK, model.vocab * (torch.finfo(model.dtype).bits // 8 + 12))
