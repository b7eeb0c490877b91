"""Small calls of the CUDA kernels under a sanitizer, each checked against the reference. benchmarks/gpu.sh runs it as

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python3 benchmarks/sanitize.py

Without torch's caching allocator every tensor is an allocation of its own, so that a step over its end, or a read of
what nobody wrote, is seen. Only copies and our own kernels run on the device: nothing else is judged.
"""

from __future__ import annotations

import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference

EVERYTHING = dict(return_lse=True, return_group_mass=True)


def cases():
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


def main() -> None:
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
    print(f"largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
