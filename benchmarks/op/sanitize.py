"""Small calls of the CUDA kernels under a sanitizer, each checked against the reference.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python3 benchmarks op/sanitize

is how benchmarks/gpu.sh runs it.
Without torch's caching allocator every tensor is an allocation of its own, so that a step over its end, or a read of
what nobody wrote, is seen. Only copies and our own kernels run on the device: nothing else is judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch

import avflow_ext
from avflow_ext import (
    AttentionProblem,
    Cut,
    Streams,
    Tokens,
    attention,
    attention_reference,
    compact,
    compact_reference,
    device,
    gather_rms_norm,
    gather_rms_norm_reference,
)

EVERYTHING = dict(return_lse=True, return_group_mass=True)


def kernels() -> Iterator[str]:
    """Names the attention kernels that this device runs, one after the other, and lets each take every call."""
    for name in ("cuda", "tall", "hopper"):
        if name != "hopper" or device.runs_hopper(torch.cuda.current_device()):
            with device.taking(name):
                yield name


def cases() -> Iterator[tuple[str, AttentionProblem, str]]:
    """(name, problem, semantics) with every feature of the kernel, at sizes that fill no tile."""
    n, start = 150, 110
    order = torch.cat([torch.arange(n), torch.arange(start, n), torch.arange(start + 7, n)])
    stream = torch.cat([torch.zeros(n), torch.ones(n - start), torch.full((n - start - 7,), 2)]).int()
    tokens = Tokens(order, order // 9 % 5, order // 25 - 1, stream)
    streams = Streams([-1, 0, 0], [0, start, start + 7])
    cuts = [
        Cut(0b00001, 0b00110, (1,)),
        Cut(0b00100, 0b11111, scope="other_items", random_share=0.5, seed=7),
        Cut(0b00010, 0b01000, heads=5, cut_self=True),
    ]
    keep = torch.arange(len(tokens))[torch.arange(len(tokens)) % 7 != 3]
    yield "streams and cuts", AttentionProblem(tokens, streams=streams, cuts=cuts), "renormalize"
    yield "zero", AttentionProblem(tokens, streams=streams, cuts=cuts), "zero"
    kept = AttentionProblem(tokens, streams=streams, cuts=cuts, keep_rows=keep[5:], keep_keys=keep)
    yield "kept rows and keys", kept, "renormalize"
    keys = Tokens(torch.arange(1500), torch.arange(1500) // 400)
    for rows in (1, 3):  # few rows over many keys: the keys are split and merged
        some = Tokens(torch.arange(1500 - rows, 1500), torch.full((rows,), 3))
        yield f"{rows} rows, 1500 keys", AttentionProblem(some, keys, cuts=[Cut(0b10, 0b1000)]), "renormalize"
    lengths = torch.tensor([200, 330, 70, 1500, 129])  # a batch: each sequence has a row tile of its own
    at = torch.cat([torch.arange(length) for length in lengths.tolist()])
    keys = Tokens(at, at // 50 % 4, None, torch.repeat_interleave(torch.arange(len(lengths)), lengths))
    batch = AttentionProblem(
        keys.select(lengths.cumsum(0) - 1), keys, Streams.roots(len(lengths)), [Cut(4, 15, heads=9)]
    )
    yield "a row each of 5 sequences", batch, "renormalize"


def decode_step() -> float:
    """The largest difference for two sequences in a cache that is written in part.

    Its tensors hold less than the problem has.
    """
    capacity, slots, d = 900, 700, 128
    at, stream = torch.arange(capacity).repeat(2), torch.arange(2).repeat_interleave(capacity)
    problem = AttentionProblem(
        Tokens([300, 300], [0, 0], None, [0, 1]),
        Tokens(at, at // 400, None, stream),
        Streams.roots(2),
        [Cut(0b10, 0b1, heads=3)],
        latest_order=capacity - 1,
    )
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 16, d, generator=g).bfloat16()
    k, v = (torch.randn(2, 2, slots, d, generator=g).bfloat16().transpose(1, 2) for _ in range(2))
    worst = 0.0
    for last in (300, 699, 899):
        order = torch.tensor([last, 310], dtype=torch.int32)
        expected = attention_reference(q.float(), k.float(), v.float(), problem, row_order=order)
        ours = attention(q.cuda(), k.cuda(), v.cuda(), problem, row_order=order.cuda())
        worst = max(worst, float((ours.out.cpu().float() - expected.out).abs().max()))
    assert worst < 0.05, worst
    return worst


def gathers() -> float:
    """Rows in pieces of 16 bytes and of 2; positions of padding and beyond the end: the largest difference."""
    g = torch.Generator().manual_seed(0)
    keep = torch.tensor([3, -1, 0, 49, 3, 50, 7], dtype=torch.int32)
    inside = torch.where(keep < 50, keep, -1)
    worst = 0.0
    for dtype in (torch.bfloat16, torch.float16):
        for width in (2048, 3584, 8192, 65):
            x, weight = (torch.randn(*shape, generator=g).to(dtype) for shape in ((50, width), (width,)))
            kept, normed = gather_rms_norm(x.cuda(), weight.cuda(), 1e-6, keep.cuda())
            expected = gather_rms_norm_reference(x, weight, 1e-6, inside)
            assert torch.equal(kept.cpu(), expected[0])
            worst = max(worst, float((normed.cpu().float() - expected[1].float()).abs().max()))
        for d in (128, 20, 7):
            cache = torch.randn(1, 2, 50, d, generator=g).to(dtype)
            ours = compact(cache.cuda(), keep[None].cuda()).cpu()
            assert torch.equal(ours, compact_reference(cache, inside[None]))
    assert worst < 0.1, worst
    return worst


def passes() -> float:
    """A layer's passes in pieces of 16 bytes and of 2, of rows that begin anywhere: the largest difference."""
    g = torch.Generator().manual_seed(0)
    worst = 0.0
    for dtype in (torch.bfloat16, torch.float16):
        for width in (2048, 65):
            x, residual, wide = (torch.randn(50, n, generator=g).to(dtype) for n in (width, width, width + 3))
            weight = torch.randn(width, generator=g).to(dtype)
            worst = max(
                worst,
                of_pass("rms_norm", x, weight, 1e-6),
                of_pass("add_rms_norm", x, residual, weight, 1e-6),
                of_pass("add_rms_norm", wide[:, 3:], residual, weight, 1e-6),
                of_pass("silu_mul", x, wide[:, 3:]),
                of_pass("silu_mul", x, residual),
            )
        for d in (128, 20):
            q, k = (torch.randn(50, heads, d, generator=g).to(dtype) for heads in (4, 2))
            cos, sin = (torch.randn(50, d, generator=g).to(dtype) for _ in range(2))
            worst = max(worst, of_pass("rotary", q, k, cos, sin))
            worst = max(worst, of_pass("rotary", q, k, cos.float(), sin.float()))
    return worst


def of_pass(op: str, *given: Any) -> float:
    """The largest difference of the op on the device from its reference on the CPU."""
    found = getattr(avflow_ext, op)(*(one.cuda() if isinstance(one, torch.Tensor) else one for one in given))
    expected = getattr(avflow_ext, f"{op}_reference")(*given)
    both = [one if isinstance(one, tuple) else (one,) for one in (found, expected)]
    error = max(float((a.cpu().float() - b.float()).abs().max()) for a, b in zip(*both, strict=True))
    assert error < 0.1, (op, error)
    return error


def attentions() -> float:
    """The largest difference of all cases, outputs, log-sum-exps and masses."""
    worst = 0.0
    for name, problem, semantics in cases():
        for heads, kv_heads, d, dtype in ((14, 2, 64, torch.bfloat16), (8, 1, 128, torch.float16)):
            g = torch.Generator().manual_seed(0)
            q = torch.randn(problem.n_rows, heads, d, generator=g).to(dtype)
            k, v = (torch.randn(problem.n_keys, kv_heads, d, generator=g).to(dtype) for _ in range(2))
            expected = attention_reference(q.float(), k.float(), v.float(), problem, semantics=semantics, **EVERYTHING)
            ours = attention(q.cuda(), k.cuda(), v.cuda(), problem, semantics=semantics, **EVERYTHING)
            for field, a, b in zip(ours._fields, ours, expected, strict=True):
                error = float((a.cpu().float().nan_to_num(neginf=0) - b.nan_to_num(neginf=0)).abs().max())
                worst = max(worst, error)
                assert error < 0.05, (name, heads, d, field, error)
            print(f"{name}, {heads}/{kv_heads} heads, d {d}, {dtype}: fine")
    return worst


def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    for kernel in kernels():
        print(f"attention, {kernel} kernel: largest difference {attentions():.1e}")
        print(f"a cache that fills, {kernel} kernel: largest difference {decode_step():.1e}")
    print(f"gather_rms_norm and compact: largest difference {gathers():.1e}")
    print(f"a layer's passes: largest difference {passes():.1e}")
