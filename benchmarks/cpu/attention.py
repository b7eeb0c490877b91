"""The attention op against torch's: causal, cut, cross-frame, streams, one row against many keys. CPU, fp32.

    python benchmarks cpu/attention [--tokens 4096] [--json FILE] [--no-flex]

Claim: cuts cost nothing beside the causal op, which is not slower than torch's. Peers: scaled_dot_product_attention,
causal and with a dense mask, FlexAttention, and avflow's own op without the cuts. Every line is a ratio of best times
taken in turns in this process; the peer is named on the line. GFLOP/s count the edges that are open (2 products of d
multiply-adds each).
"""

from __future__ import annotations

import argparse
from typing import Any

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
    prompts_together,
)
from benchmarks.lib.operands import Operands
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import side_by_side

SHAPE = HEADS, KV_HEADS, DEPTH = 16, 2, 128
STREAMS, STREAM_ROWS = 60, 49
SHORT = [100 + 200 * i // 63 for i in range(64)]  # tokens of each of many prompts
COPIES = 8  # of 16,384 keys and values: 270 MB, more than a cache


class Cases:
    """Prints each case beside its peer, and keeps what is written to the file."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, name: str, times: dict[str, float], peer: str, goal: str, factor: float = 1.0) -> None:
        """times: seconds by candidate, "avflow" among them; factor: share of the peer's work that this case has."""
        ratio = times["avflow"] / times[peer] / factor
        self.found[name] = {"seconds": times, "peer": peer, "ratio": ratio, "goal": goal, "factor": factor}
        print(f"{name:34} {times['avflow'] * 1e3:8.1f} ms   {ratio:6.2f} x {peer}   (goal {goal})")
        for other, seconds in times.items():
            if other not in ("avflow", peer):
                print(f"{'':34} {seconds * 1e3:8.1f} ms   {times['avflow'] / seconds:6.2f} x {other}")


def whole_prompt(cases: Cases, n: int, with_flex: bool) -> None:
    """Prefill of n tokens, without cuts and with video -> question cut."""
    operands, tokens = Operands(n, n, SHAPE), av_tokens(n)
    plain = AttentionProblem(tokens)
    times = side_by_side({"avflow": operands.ours(plain), "sdpa causal": operands.sdpa()})
    cases.add("no cuts", times, "sdpa causal", "<= 1.1")
    rate = 4 * int(open_edges(plain).sum()) * DEPTH * HEADS / times["avflow"] / 1e9
    cases.found["no cuts"]["gflops"] = rate
    print(f"{'':34} {rate:8.0f} GFLOP/s")

    dense = "sdpa, dense mask"
    candidates = {
        "avflow": operands.ours(AttentionProblem(tokens, cuts=[VIDEO_TO_QUESTION])),
        "avflow, no cuts": operands.ours(plain),
        dense: operands.sdpa(dense_mask(tokens, VIDEO, QUESTION)),
    }
    if with_flex:
        torch._dynamo.reset()
        candidates["FlexAttention"] = operands.flex(tokens, VIDEO, QUESTION)
    times = side_by_side(candidates, seconds=20)
    cases.add("video -> question", times, "avflow, no cuts", "<= 1")
    both = {who: times[who] for who in ("avflow", dense)}
    cases.add("video -> question, dense mask", both, dense, "<= 0.5")


def other_frames(cases: Cases, n: int, length: int) -> None:
    """A video of n tokens whose frames, of `length` tokens, do not see each other."""
    operands, film = Operands(n, n, SHAPE), frames(n, length)
    cross, whole = AttentionProblem(film, cuts=[OTHER_FRAMES]), AttentionProblem(film)
    share = _open_tiles(cross) / _open_tiles(whole)
    copy = "a fresh copy of q"  # what any op pays to read q and to fault in a new output
    candidates = {"avflow": operands.ours(cross), "avflow, no cuts": operands.ours(whole), copy: operands.q.clone}
    times = side_by_side(candidates)
    name, goal = f"cross-frame, {length}-token frames", f"near 1 x open tiles ({share:.3f})"
    cases.add(name, times, "avflow, no cuts", goal, factor=share)
    net = (times["avflow"] - times[copy]) / (times["avflow, no cuts"] - times[copy]) / share
    cases.found[name]["ratio_less_copy"] = net
    print(f"{'':34} {'':11}   {net:6.2f} x, less the copy on both sides")


def streams(cases: Cases, n: int) -> None:
    """What a sweep packs, against its parent alone."""
    tokens = av_tokens(n)
    packed, plain = packed_streams(tokens, STREAMS, STREAM_ROWS), AttentionProblem(tokens)
    share = int(open_edges(packed).sum()) / int(open_edges(plain).sum())
    candidates = {
        "avflow": Operands(packed.n_rows, packed.n_keys, SHAPE).ours(packed),
        "avflow, parent alone": Operands(n, n, SHAPE).ours(plain),
    }
    name, goal = f"{STREAMS} streams of {STREAM_ROWS} rows", f"<= 1.3 x edges ({share:.2f})"
    cases.add(name, side_by_side(candidates), "avflow, parent alone", goal, factor=share)


def short_prompts(cases: Cases) -> None:
    """Many short prompts in one call, against a call of torch's for each. The plan is made beforehand."""
    problem, each = prompts_together(SHORT), [Operands(n, n, SHAPE).sdpa() for n in SHORT]
    peer = "sdpa causal, prompt by prompt"
    ours = Operands(sum(SHORT), sum(SHORT), SHAPE).ours(problem)
    times = side_by_side({"avflow": ours, peer: lambda: [call() for call in each]})
    cases.add(f"{len(SHORT)} prompts of {SHORT[0]} to {SHORT[-1]}", times, peer, "<= 1")


def few_rows(cases: Cases, keys: int) -> None:
    """One decoded token over `keys` keys.

    Of torch's forms the best folds the heads of a kv head into rows. Each call reads the next of COPIES of the keys and
    values, as a model reads those of the next layer: none is in the cache any more when its turn comes.
    """
    copies = [Operands(1, keys, SHAPE) for _ in range(COPIES)]
    turned = [[t.transpose(0, 1)[None].contiguous() for t in (c.k, c.v)] for c in copies]  # [1, kv_heads, keys, d]
    folded = copies[0].q[0].view(1, KV_HEADS, HEADS // KV_HEADS, DEPTH)
    apart = copies[0].q[0][None, :, None]  # [1, heads, 1, d]
    problem = one_row(keys)
    calls = {
        "avflow": lambda i: attention(copies[i].q, copies[i].k, copies[i].v, problem),
        "sdpa, heads folded into rows": lambda i: sdpa(folded, *turned[i]),
        "sdpa, enable_gqa": lambda i: sdpa(apart, *turned[i], enable_gqa=True),
    }
    rounds = {name: (lambda call=call: [call(i) for i in range(COPIES)]) for name, call in calls.items()}
    times = {name: seconds / COPIES for name, seconds in side_by_side(rounds, seconds=5).items()}
    cases.add(f"one row, {keys} keys", times, "sdpa, heads folded into rows", "<= 1")


def _open_tiles(problem: AttentionProblem) -> int:
    return int((_C.tile_kinds(problem.packed(HEADS // KV_HEADS).numpy()) > 0).sum())


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--isa", choices=capabilities()["cpu_built"], help="force a path; default: the best one")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--no-flex", action="store_true", help="leave FlexAttention out (its compilation takes a minute)"
    )
    args = parser.parse_args(arguments)
    if args.isa:
        _C.set_cpu_isa(args.isa)
    n, path = args.tokens, capabilities()["cpu"]
    print(f"{machine()}, path {path}; fp32, {HEADS}/{KV_HEADS} heads, d {DEPTH}, {n} tokens")
    cases = Cases()
    whole_prompt(cases, n, not args.no_flex)
    for length in (n // 16, n // 4):
        other_frames(cases, n, length)
    streams(cases, n)
    short_prompts(cases)
    few_rows(cases, 16384)
    write_json(args.json, {"machine": machine(), "path": path, "tokens": n, "cases": cases.found})
