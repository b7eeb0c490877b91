"""The attention op in plain torch, dense and slow: the definition that the compiled kernels are tested against."""

from __future__ import annotations

import torch

from .problem import AttentionOutput, AttentionProblem, check_inputs
from .tokens import ALL, Cut, Semantics, Tokens, table_of


def _mix(h: torch.Tensor) -> torch.Tensor:
    """32-bit finalizer of MurmurHash3 (A. Appleby, public domain), on int64 that hold 32-bit words."""
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & 0xFFFFFFFF
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def edge_hash(seed: int, order_row: torch.Tensor, order_key: torch.Tensor) -> torch.Tensor:
    """32-bit word of each edge, int64 [rows, keys], from orders int [rows] and int [keys] and a 32-bit seed."""
    row = _mix((order_row.long() * 0x9E3779B1 + seed) & 0xFFFFFFFF)  # [rows]
    return _mix(row[:, None] ^ ((order_key.long() * 0x85EBCA77) & 0xFFFFFFFF)[None, :])


def rows_at(problem: AttentionProblem, row_order: torch.Tensor | None) -> Tokens:
    """The kept rows, with the orders of one call."""
    rows = problem.rows
    return rows if row_order is None else Tokens(row_order, rows.group, rows.item, rows.stream, rows.block)


def visible(problem: AttentionProblem, row_order: torch.Tensor | None = None) -> torch.Tensor:
    """Causality, streams, window and blocks: bool [rows, keys], before any cut."""
    rows, keys, streams = rows_at(problem, row_order), problem.keys, problem.streams
    parent, start = streams.parent.long(), streams.start
    row_stream, key_stream = rows.stream.long(), keys.stream.long()
    alive = (row_stream >= 0)[:, None] & (key_stream >= 0)[None, :]
    safe = row_stream.clamp(min=0)
    own = row_stream[:, None] == key_stream[None, :]
    of_parent = (parent[safe][:, None] == key_stream[None, :]) & (keys.order[None, :] < start[safe][:, None])
    causal = own & (keys.order[None, :] <= rows.order[:, None]) | of_parent
    block = torch.zeros_like(causal)
    if problem.blocks != "off" and rows.block is not None and keys.block is not None:
        one = (rows.block[:, None] == keys.block[None, :]) & (rows.block >= 0)[:, None]
        block = one & (own | of_parent)
    if problem.window is None:
        return alive & (causal | block)
    near = rows.order.long()[:, None] - keys.order.long()[None, :] < problem.window
    if problem.blocks == "windowed":
        return alive & near & (causal | block)
    return alive & (near & causal | block)


def _has(word: int, members: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(table_of(word))[members.long()]


def cut_edges(cut: Cut, rows: Tokens, keys: Tokens) -> torch.Tensor:
    """The edges that one cut selects, bool [rows, keys], for the heads it names."""
    edge = _has(cut.target, rows.group)[:, None] & _has(cut.source, keys.group)[None, :]
    if cut.streams is not None:
        edge &= torch.isin(rows.stream, torch.tensor(cut.streams, dtype=torch.int32))[:, None]
    if cut.scope == "other_items":
        both = (rows.item >= 0)[:, None] & (keys.item >= 0)[None, :]
        edge &= both & (rows.item[:, None] != keys.item[None, :])
    if not cut.cut_self:
        edge &= (rows.order[:, None] != keys.order[None, :]) | (rows.stream[:, None] != keys.stream[None, :])
    if cut.threshold < 2**32:
        edge &= edge_hash(cut.seed, rows.order, keys.order) < cut.threshold
    return edge


def cut_mask(problem: AttentionProblem, heads: int, row_order: torch.Tensor | None = None) -> torch.Tensor:
    """All cuts: bool [heads, rows, keys]."""
    rows = rows_at(problem, row_order)
    mask = torch.zeros(heads, len(problem.rows), len(problem.keys), dtype=torch.bool)
    for cut in problem.cuts:
        chosen = torch.from_numpy(table_of(ALL if cut.heads is None else cut.heads)[:heads])
        mask[chosen] |= cut_edges(cut, rows, problem.keys)
    return mask


def by_key(cache: torch.Tensor, problem: AttentionProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys or values [batch, slots, kv_heads, d] as [keys, kv_heads, d], zero where absent; bool [keys]: present."""
    batch, slots = cache.shape[:2]
    capacity = problem.n_keys // batch
    whole = cache.new_zeros(batch, capacity, *cache.shape[2:])
    whole[:, :slots] = cache
    present = (torch.arange(capacity) < slots).repeat(batch)
    return whole.flatten(0, 1), present


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    problem: AttentionProblem,
    scale: float | None = None,
    semantics: Semantics = "renormalize",
    return_lse: bool = False,
    return_group_mass: bool = False,
    row_order: torch.Tensor | None = None,
) -> AttentionOutput:
    """Same signature and result as `avflow_ext.attention`; memory O(heads x rows x keys)."""
    scale = check_inputs(q, k, v, problem, scale, semantics, row_order)
    present = torch.ones(problem.n_keys, dtype=torch.bool)
    if k.dim() == 4:
        k, present = by_key(k, problem)
        v, _ = by_key(v, problem)
    if problem.keep_rows is not None:
        q = q[problem.keep_rows.long()]  # [rows, heads, d]
    if problem.keep_keys is not None:
        kept = problem.keep_keys.long()
        k, v, present = k[kept], v[kept], present[kept]  # [keys, kv_heads, d], [keys]
    heads, kv_heads = q.shape[1], k.shape[1]
    q32 = q.detach().float().transpose(0, 1)  # [heads, rows, d]
    k32 = k.detach().float().transpose(0, 1).repeat_interleave(heads // kv_heads, 0)  # [heads, keys, d]
    v32 = v.detach().float().transpose(0, 1).repeat_interleave(heads // kv_heads, 0)

    seen = (visible(problem, row_order) & present)[None]  # [1, rows, keys]
    cut = cut_mask(problem, heads, row_order)  # [heads, rows, keys]
    scored = seen & ~cut if semantics == "renormalize" else seen.expand_as(cut)
    score = (q32 @ k32.transpose(1, 2) * scale).masked_fill(~scored, float("-inf"))  # [heads, rows, keys]
    lse = torch.logsumexp(score, -1)  # [heads, rows]; -inf where a row sees nothing
    weight = torch.where(scored, torch.exp(score - lse[..., None]), 0.0)
    if semantics == "zero":
        weight = weight.masked_fill(cut, 0.0)
    # A cut value must not leak, not even as 0 * NaN: values that no edge of the row reaches are not multiplied.
    used = weight > 0
    finite = torch.nan_to_num(v32, nan=0.0, posinf=0.0, neginf=0.0)  # [heads, keys, d]
    out = weight @ finite
    nonfinite = ~torch.isfinite(v32)  # [heads, keys, d]
    if bool(nonfinite.any()):
        out = torch.where((used.float() @ nonfinite.float()) > 0, torch.nan, out)

    mass = None
    if return_group_mass:
        onehot = torch.nn.functional.one_hot(problem.keys.group.long(), problem.groups).float()  # [keys, groups]
        mass = (weight @ onehot).transpose(0, 1).contiguous()  # [rows, heads, groups]
    return AttentionOutput(
        out.transpose(0, 1).contiguous().to(q.dtype), lse.T.contiguous() if return_lse else None, mass
    )
