"""Runs a case on the emulated CUDA kernel and compares all results with the reference."""

from __future__ import annotations

import contextlib

import cuda_emulator
import pytest
import torch
from op_cases import qkv

from avflow_ext import Tokens, attention_reference
from avflow_ext.reference import by_key, cut_mask, visible

EVERYTHING = dict(return_lse=True, return_group_mass=True)
BF16, FP16 = torch.bfloat16, torch.float16


def low_precision(q, k, v, problem, scale, semantics, row_order):
    """The definition, rounded to the dtype of q after every step: what torch's own attention loses. [heads, rows, d]"""
    present = torch.ones(problem.n_keys, dtype=torch.bool)
    if k.dim() == 4:
        (k, present), (v, _) = by_key(k, problem), by_key(v, problem)
    if problem.keep_rows is not None:
        q = q[problem.keep_rows.long()]
    if problem.keep_keys is not None:
        k, v, present = (t[problem.keep_keys.long()] for t in (k, v, present))
    group = q.shape[1] // k.shape[1]
    q, k, v = (t.transpose(0, 1).repeat_interleave(n, 0) for t, n in ((q, 1), (k, group), (v, group)))
    cut = cut_mask(problem, q.shape[0], row_order)
    seen = (visible(problem, row_order) & present)[None]
    scored = seen & ~cut if semantics == "renormalize" else seen.expand_as(cut)
    score = (q @ k.transpose(1, 2) * scale).masked_fill(~scored, float("-inf"))
    weight = torch.softmax(score, -1).nan_to_num(0.0).masked_fill(cut, 0.0)
    return weight @ v.nan_to_num(0.0, 0.0, 0.0)


def check(
    library,
    problem,
    heads,
    kv_heads,
    d,
    dtype,
    semantics="renormalize",
    scale=None,
    schedule=0,
    tensors=None,
    row_order=None,
):
    """Runs a case and compares all results. Returns ours and the number of parts that the keys were split into."""
    q, k, v = tensors or qkv(problem, heads, kv_heads, d, dtype=dtype)
    options = dict(scale=scale, semantics=semantics, row_order=row_order, **EVERYTHING)
    ours, splits = cuda_emulator.attention(library, q, k, v, problem, schedule=schedule, **options)
    exact = attention_reference(q.float(), k.float(), v.float(), problem, **options)
    if ours.out.numel() == 0:
        return ours, splits
    # An infinite value that is seen: infinite here, NaN in the reference.
    assert torch.equal(ours.out.isfinite(), exact.out.isfinite()), "NaN or infinite elsewhere"
    assert torch.equal(ours.lse.isneginf(), exact.lse.isneginf()), "lse: -inf elsewhere"
    nothing = exact.lse.isneginf()  # rows that see nothing
    assert (ours.out[nothing] == 0).all() and (ours.group_mass[nothing] == 0).all()
    assert (ours.lse - exact.lse)[~nothing].abs().lt(1e-4).all()
    assert (ours.group_mass - exact.group_mass).abs().max() <= 1e-4
    scale = d**-0.5 if scale is None else scale
    lossy = low_precision(q, k, v, problem, scale, semantics, row_order).transpose(0, 1)
    loss = (lossy.float() - exact.out).nan_to_num(0.0).abs().max()
    error = (ours.out.float() - exact.out).nan_to_num(0.0, 0.0, 0.0).abs().max()
    assert error <= 2 * loss + 1e-5, f"error {error:.2e}, in low precision {loss:.2e}"
    return ours, splits


def runs(n: int, run: int = 7, groups: int = 4, **more) -> Tokens:
    """n tokens, groups changing every `run` tokens, items every 10."""
    at = torch.arange(n)
    return Tokens(at, at // run % groups, at // 10 % 5 - 1, **more)


def noticed(broken: bool):
    """A context that a broken kernel fails in, and one as it is passes."""
    return pytest.raises((AssertionError, RuntimeError)) if broken else contextlib.nullcontext()
