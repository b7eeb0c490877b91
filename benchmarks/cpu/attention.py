"""The attention op against torch's: causal, cut, cross-frame, streams, one row against many keys. CPU, fp32.

    python benchmarks/attention.py [--tokens 4096] [--json FILE] [--no-flex]
    python benchmarks/attention.py --device cuda     bf16, at 4k, 8k and 16k tokens: attention_cuda.py

Every line is a ratio of best times taken in turns in this process; the peer is named on the line. GFLOP/s count the
edges that are open (2 products of d multiply-adds each).
"""

from __future__ import annotations

import argparse
import sys

import torch
from timing import machine, side_by_side, write_json
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, capabilities
from avflow_ext._load import _C
from avflow_ext.reference import cut_mask, visible

HEADS, KV_HEADS, DEPTH = 16, 2, 128
SYSTEM, VIDEO, AUDIO, QUESTION, LAST = range(5)


def av_tokens(n: int, question: int = 48) -> Tokens:
    """An interleaved clip: 2-second chunks of 144 video and 50 audio tokens, then the question; item = chunk."""
    media = n - question - 1 - 16
    chunk = torch.arange(media) // 194
    is_video = torch.arange(media) % 194 < 144
    group = torch.cat(
        [
            torch.full((16,), SYSTEM),
            torch.where(is_video, VIDEO, AUDIO),
            torch.full((question,), QUESTION),
            torch.tensor([LAST]),
        ]
    )
    item = torch.cat([torch.full((16,), -1), chunk, torch.full((question + 1,), -1)])
    return Tokens(torch.arange(n), group, item)


def frames(n: int, length: int = 256) -> Tokens:
    return Tokens(torch.arange(n), torch.full((n,), VIDEO), torch.arange(n) // length)


def edges(problem: AttentionProblem) -> int:
    return int((visible(problem) & ~cut_mask(problem, 1)[0]).sum())


class Case:
    """q, k, v and the forms torch's kernels want."""

    def __init__(self, rows: int, keys: int) -> None:
        g = torch.Generator().manual_seed(0)
        self.q = torch.randn(rows, HEADS, DEPTH, generator=g)
        self.k = torch.randn(keys, KV_HEADS, DEPTH, generator=g)
        self.v = torch.randn(keys, KV_HEADS, DEPTH, generator=g)
        group = HEADS // KV_HEADS
        self.heads = tuple(  # [1, heads, n, d], contiguous: what SDPA likes best
            t.transpose(0, 1)[None].contiguous()
            for t in (self.q, self.k.repeat_interleave(group, 1), self.v.repeat_interleave(group, 1))
        )

    def ours(self, problem: AttentionProblem):
        return lambda: attention(self.q, self.k, self.v, problem)

    def causal(self):
        return lambda: sdpa(*self.heads, is_causal=True)

    def masked(self, problem: AttentionProblem):
        mask = (visible(problem) & ~cut_mask(problem, 1)[0])[None, None]  # [1, 1, rows, keys]
        return lambda: sdpa(*self.heads, attn_mask=mask)


def flex(case: Case, tokens: Tokens, source: int, target: int):
    """FlexAttention with the same rule as mask_mod; compiled, its block mask built beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    group = tokens.group
    n = len(tokens)

    def rule(b, h, i, j):
        return (i >= j) & ~((group[i] == target) & (group[j] == source))

    block = create_block_mask(rule, None, None, n, n, device="cpu")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(*case.heads, block_mask=block)


def few_rows(keys: int) -> dict[str, float]:
    """One decoded token over `keys` keys: torch's forms, the best of which folds the heads of a kv head into rows."""
    case = Case(1, keys)
    q = case.q[0].view(1, KV_HEADS, HEADS // KV_HEADS, DEPTH)  # heads of a kv head as its rows
    k, v = (t.transpose(0, 1)[None].contiguous() for t in (case.k, case.v))
    problem = AttentionProblem(
        Tokens([keys - 1], [LAST]), Tokens(torch.arange(keys), torch.full((keys,), VIDEO)), groups=LAST + 1
    )
    ours, folded = case.ours(problem), "sdpa, heads folded into rows"
    # In pairs: a third candidate would warm the cache for one of the two that read the same memory.
    times = side_by_side({"avflow": ours, folded: lambda: sdpa(q, k, v)}, seconds=3, least=20)
    gqa = side_by_side(
        {"avflow": ours, "gqa": lambda: sdpa(case.q[0][None, :, None], k, v, enable_gqa=True)}, seconds=2
    )
    return times | {"sdpa, enable_gqa": gqa["gqa"]}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--isa", choices=capabilities()["cpu_built"], help="force a path; default: the best one")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument(
        "--no-flex", action="store_true", help="leave FlexAttention out (its compilation takes a minute)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="of turns for each case on CUDA")
    args = parser.parse_args()
    if args.device == "cuda":
        import attention_cuda

        sys.exit(attention_cuda.main(args.json, not args.no_flex, args.seconds))
    n = args.tokens
    if args.isa:
        _C.set_cpu_isa(args.isa)
    result = {"machine": machine(), "path": capabilities()["cpu"], "tokens": n, "cases": {}}
    print(f"{result['machine']}, path {result['path']}; fp32, {HEADS}/{KV_HEADS} heads, d {DEPTH}, {n} tokens")
    case, tokens = Case(n, n), av_tokens(n)

    def show(name: str, times: dict[str, float], peer: str, goal: str, factor: float = 1.0) -> None:
        ratio = times["avflow"] / times[peer] / factor
        result["cases"][name] = {"seconds": times, "peer": peer, "ratio": ratio, "goal": goal, "factor": factor}
        print(f"{name:34} {times['avflow'] * 1e3:8.1f} ms   {ratio:6.2f} x {peer}   (goal {goal})")
        for other, seconds in times.items():
            if other not in ("avflow", peer):
                print(f"{'':34} {seconds * 1e3:8.1f} ms   {times['avflow'] / seconds:6.2f} x {other}")

    plain = AttentionProblem(tokens)
    times = side_by_side({"avflow": case.ours(plain), "sdpa causal": case.causal()})
    show("no cuts", times, "sdpa causal", "<= 1.1")
    rate = 4 * edges(plain) * DEPTH * HEADS / times["avflow"] / 1e9
    result["cases"]["no cuts"]["gflops"] = rate
    print(f"{'':34} {rate:8.0f} GFLOP/s")

    cut = AttentionProblem(tokens, cuts=[Cut(1 << VIDEO, 1 << QUESTION)])
    candidates = {"avflow": case.ours(cut), "avflow, no cuts": case.ours(plain), "sdpa, dense mask": case.masked(cut)}
    if not args.no_flex:
        candidates["FlexAttention"] = flex(case, tokens, VIDEO, QUESTION)
    times = side_by_side(candidates, seconds=20)
    show("video -> question", times, "avflow, no cuts", "<= 1")
    show(
        "video -> question, dense mask",
        {k: times[k] for k in ("avflow", "sdpa, dense mask")},
        "sdpa, dense mask",
        "<= 0.5",
    )

    for length in (n // 16, n // 4):
        film = frames(n, length)
        cross = AttentionProblem(film, cuts=[Cut(1 << VIDEO, 1 << VIDEO, scope="other_items")])
        whole = AttentionProblem(film)
        share = _open_tiles(cross) / _open_tiles(whole)
        copy = "a fresh copy of q"  # what any op pays to read q and to fault in a new output
        candidates = {"avflow": case.ours(cross), "avflow, no cuts": case.ours(whole), copy: case.q.clone}
        times = side_by_side(candidates)
        name, goal = f"cross-frame, {length}-token frames", f"near 1 x open tiles ({share:.3f})"
        show(name, times, "avflow, no cuts", goal, factor=share)
        net = (times["avflow"] - times[copy]) / (times["avflow, no cuts"] - times[copy]) / share
        result["cases"][name]["ratio_less_copy"] = net
        print(f"{'':34} {'':11}   {net:6.2f} x, less the copy on both sides")

    start, streams = n - 49, 60
    order = torch.cat([torch.arange(n), torch.arange(start, n).repeat(streams)])
    stream = torch.cat([torch.zeros(n), 1 + torch.arange(streams).repeat_interleave(49)])
    group = tokens.group[order]
    packed = Tokens(order, group, None, stream.int())
    table = Streams([-1] + [0] * streams, [0] + [start] * streams)
    swept = AttentionProblem(
        packed, streams=table, cuts=[Cut(1 << AUDIO, 1 << QUESTION, tuple(range(1, streams + 1, 2)))]
    )
    big = Case(len(packed), len(packed))
    share = edges(swept) / edges(plain)
    times = side_by_side({"avflow": big.ours(swept), "avflow, parent alone": case.ours(plain)})
    show(f"{streams} streams of 49 rows", times, "avflow, parent alone", f"<= 1.3 x edges ({share:.2f})", factor=share)

    times = few_rows(16384)
    show("one row, 16384 keys", times, "sdpa, heads folded into rows", "<= 1")
    write_json(args.json, result)


def _open_tiles(problem: AttentionProblem) -> int:
    return int((_C.tile_kinds(problem.packed(HEADS // KV_HEADS).numpy()) > 0).sum())


if __name__ == "__main__":
    main()
