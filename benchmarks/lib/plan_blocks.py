"""The tiles of avflow's plan as FlexAttention's block mask: which blocks are closed, partial, full."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

from avflow_ext import AttentionProblem
from avflow_ext._load import _C

BLOCK = 128  # rows and keys; what FlashAttention-4 takes on Hopper for heads of 128
KEYS = 64  # of a tile of ours
CLOSED, PARTIAL, FULL = range(3)  # as `tile_kinds` numbers them


def block_kinds(problem: AttentionProblem, ratio: int) -> torch.Tensor:
    """int [row blocks, key blocks] of CLOSED, PARTIAL, FULL. ratio: query heads of a kv head.

    A block at the end that rows or keys do not fill is PARTIAL, unless it is closed; so is one that shares a row tile
    of ours with the next, where that tile is.
    """
    packed = problem.packed(ratio, device_type="cuda").numpy()
    kinds = torch.from_numpy(_C.tile_kinds(packed))  # [row tiles, key tiles]
    by_row = kinds.repeat_interleave(_C.plan_size(packed)["tile_rows"], 0)[: problem.n_rows]  # [rows, key tiles]
    keys = BLOCK // KEYS  # tiles of a block
    short = (0, -by_row.shape[1] % keys, 0, -len(by_row) % BLOCK)
    by_row = functional.pad(by_row, short, value=CLOSED)
    blocks = by_row.unflatten(1, (-1, keys)).unflatten(0, (-1, BLOCK))  # [R, BLOCK, K, keys]
    least, most = blocks.amin((1, 3)), blocks.amax((1, 3))
    kinds = torch.where(least == FULL, FULL, torch.where(most == CLOSED, CLOSED, PARTIAL))
    if problem.n_keys % BLOCK:
        kinds[:, -1].clamp_(max=PARTIAL)
    return kinds


def block_mask(problem: AttentionProblem, ratio: int, rule: object, device: torch.device) -> BlockMask:
    """rule: the same mask as FlexAttention's function of (batch, head, row, key), asked within partial blocks alone."""
    kinds = block_kinds(problem, ratio)
    lists = []
    for kind in (PARTIAL, FULL):
        among = kinds == kind
        count = among.sum(-1, dtype=torch.int32)
        places = among.byte().argsort(dim=-1, descending=True, stable=True).int()
        lists += [count[None, None].to(device), places[None, None].to(device)]  # [1, 1, R], [1, 1, R, K]
    lengths = problem.n_rows, problem.n_keys
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=lengths)
