"""The attention op against torch's: causal, cut, cross-frame, streams, one row against many keys. CPU, fp32.

    python benchmarks cpu/attention [--tokens 4096] [--json FILE] [--no-flex]

Claim: cuts cost nothing beside the causal op, which is not slower than torch's. Peers: scaled_dot_product_attention,
causal and with a dense mask, FlexAttention, and avflow's own op without the cuts. Every line is a ratio of best times
taken in turns in this process; the peer is named on the line. GFLOP/s count the edges that are open (2 products of d
multiply-adds each).
"""

from __future__ import annotations

import argparse

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, attention, capabilities
from avflow_ext._load import _C
from benchmarks.lib.layouts import (
    OTHER_FRAMES,
    QUESTION,
    VIDEO,
    VIDEO_TO_QUESTION,
    av_tokens,
    dense_mask,
    frames,
    one_row,
    open_edges,
    packed_streams,
)
from benchmarks.lib.operands import Operands
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import side_by_side

SHAPE = HEADS, KV_HEADS, DEPTH = 16, 2, 128
STREAMS, STREAM_ROWS = 60, 49
COPIES = 8  # of 16,384 keys and values: 270 MB, more than a cache


def few_rows(keys: int) -> dict[str, float]:
    """Seconds of one decoded token over `keys` keys.

    Of torch's forms the best folds the heads of a kv head into rows. Each call reads the next of COPIES of the keys and
    values, as a model reads those of the next layer: none is in the cache any more when its turn comes.
    """
    cases = [Operands(1, keys, SHAPE) for _ in range(COPIES)]
    turned = [[t.transpose(0, 1)[None].contiguous() for t in (c.k, c.v)] for c in cases]  # [1, kv_heads, keys, d]
    folded = cases[0].q[0].view(1, KV_HEADS, HEADS // KV_HEADS, DEPTH)
    apart = cases[0].q[0][None, :, None]  # [1, heads, 1, d]
    problem = one_row(keys)
    calls = {
        "avflow": lambda i: attention(cases[i].q, cases[i].k, cases[i].v, problem),
        "sdpa, heads folded into rows": lambda i: sdpa(folded, *turned[i]),
        "sdpa, enable_gqa": lambda i: sdpa(apart, *turned[i], enable_gqa=True),
    }
    rounds = {name: (lambda call=call: [call(i) for i in range(COPIES)]) for name, call in calls.items()}
    return {name: seconds / COPIES for name, seconds in side_by_side(rounds, seconds=5).items()}


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--isa", choices=capabilities()["cpu_built"], help="force a path; default: the best one")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument(
        "--no-flex", action="store_true", help="leave FlexAttention out (its compilation takes a minute)"
    )
    args = parser.parse_args(arguments)
    n = args.tokens
    if args.isa:
        _C.set_cpu_isa(args.isa)
    result = {"machine": machine(), "path": capabilities()["cpu"], "tokens": n, "cases": {}}
    print(f"{result['machine']}, path {result['path']}; fp32, {HEADS}/{KV_HEADS} heads, d {DEPTH}, {n} tokens")
    case, tokens = Operands(n, n, SHAPE), av_tokens(n)

    def show(name: str, times: dict[str, float], peer: str, goal: str, factor: float = 1.0) -> None:
        ratio = times["avflow"] / times[peer] / factor
        result["cases"][name] = {"seconds": times, "peer": peer, "ratio": ratio, "goal": goal, "factor": factor}
        print(f"{name:34} {times['avflow'] * 1e3:8.1f} ms   {ratio:6.2f} x {peer}   (goal {goal})")
        for other, seconds in times.items():
            if other not in ("avflow", peer):
                print(f"{'':34} {seconds * 1e3:8.1f} ms   {times['avflow'] / seconds:6.2f} x {other}")

    plain = AttentionProblem(tokens)
    times = side_by_side({"avflow": case.ours(plain), "sdpa causal": case.sdpa()})
    show("no cuts", times, "sdpa causal", "<= 1.1")
    rate = 4 * int(open_edges(plain).sum()) * DEPTH * HEADS / times["avflow"] / 1e9
    result["cases"]["no cuts"]["gflops"] = rate
    print(f"{'':34} {rate:8.0f} GFLOP/s")

    cut = AttentionProblem(tokens, cuts=[VIDEO_TO_QUESTION])
    candidates = {
        "avflow": case.ours(cut),
        "avflow, no cuts": case.ours(plain),
        "sdpa, dense mask": case.sdpa(dense_mask(tokens, VIDEO, QUESTION)),
    }
    if not args.no_flex:
        candidates["FlexAttention"] = case.flex(tokens, VIDEO, QUESTION)
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
        cross = AttentionProblem(film, cuts=[OTHER_FRAMES])
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

    swept = packed_streams(tokens, STREAMS, STREAM_ROWS)
    big = Operands(swept.n_rows, swept.n_keys, SHAPE)
    share = int(open_edges(swept).sum()) / int(open_edges(plain).sum())
    times = side_by_side({"avflow": big.ours(swept), "avflow, parent alone": case.ours(plain)})
    name = f"{STREAMS} streams of {STREAM_ROWS} rows"
    show(name, times, "avflow, parent alone", f"<= 1.3 x edges ({share:.2f})", factor=share)

    times = few_rows(16384)
    show("one row, 16384 keys", times, "sdpa, heads folded into rows", "<= 1")
    write_json(args.json, result)


def _open_tiles(problem: AttentionProblem) -> int:
    return int((_C.tile_kinds(problem.packed(HEADS // KV_HEADS).numpy()) > 0).sum())
