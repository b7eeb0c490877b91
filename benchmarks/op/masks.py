"""Three ways to cut a group of tokens from another: what each costs before its first call, at that call, and after it.

    python benchmarks op/masks [--tokens 2048] [--json FILE] [--no-flex]

Claim: from labels to a first output avflow takes less than FlexAttention's block mask or a dense mask for SDPA, and a
call no longer. Peers: scaled_dot_product_attention with a dense mask, FlexAttention compiled by inductor. The same rule
(video -> question), heads and tokens; causal; fp32, on the CPU. "ready": from the tokens' groups to what the call
takes, best of five; compilation is told apart. Calls take turns, the best counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, attention, capabilities
from benchmarks.lib.layouts import QUESTION, VIDEO, VIDEO_TO_QUESTION, av_tokens, dense_mask
from benchmarks.lib.operands import Operands
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import side_by_side

SHAPE = HEADS, KV_HEADS, DEPTH = 16, 2, 128


def best(call: Callable[[], object], turns: int = 5) -> float:
    """Least seconds of one call."""
    seconds = []
    for _ in range(turns):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def flex_parts(operands: Operands, group: torch.Tensor) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What makes a block mask, and the compiled call that takes it."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = len(group)

    def rule(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (i >= j) & ~((group[i] == QUESTION) & (group[j] == VIDEO))

    compiled = torch.compile(flex_attention, dynamic=False)
    wide = operands.wide

    def make() -> Any:
        return create_block_mask(rule, None, None, n, n, device="cpu")

    return make, lambda block: compiled(*wide, block_mask=block)


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--no-flex", action="store_true", help="leave FlexAttention out (it compiles for a minute)")
    args = parser.parse_args(arguments)
    n = args.tokens
    operands, tokens = Operands(n, n, SHAPE), av_tokens(n)
    wide = operands.wide

    def packed() -> AttentionProblem:
        problem = AttentionProblem(tokens, cuts=[VIDEO_TO_QUESTION])
        problem.packed(HEADS // KV_HEADS)
        return problem

    problem, mask = packed(), dense_mask(tokens, VIDEO, QUESTION)
    ready = {"avflow": best(packed), "SDPA, dense mask": best(lambda: dense_mask(tokens, VIDEO, QUESTION))}
    bytes_held = {"avflow": 4 * problem.packed(HEADS // KV_HEADS).numel(), "SDPA, dense mask": mask.numel()}
    calls: dict[str, Callable[[], Any]] = {
        "avflow": lambda: attention(operands.q, operands.k, operands.v, problem).out,
        "SDPA, dense mask": lambda: sdpa(*wide, attn_mask=mask),
    }
    compiled = {}
    if not args.no_flex:
        make, call = flex_parts(operands, tokens.group)
        block = make()
        ready["FlexAttention"] = best(make, 3)
        begun = time.perf_counter()
        call(block)
        compiled["FlexAttention"] = time.perf_counter() - begun
        calls["FlexAttention"] = lambda: call(block)
    outputs = {name: call() for name, call in calls.items()}
    want = outputs["SDPA, dense mask"]
    wrong = {name: float((out.reshape(-1) - _as(want, out).reshape(-1)).abs().max()) for name, out in outputs.items()}
    seconds = side_by_side(calls, seconds=10)
    print(f"{machine()}, path {capabilities()['cpu']}; fp32, {HEADS}/{KV_HEADS} heads, d {DEPTH}, {n} tokens")
    for name in calls:
        first = f", compiled in {compiled[name]:.0f} s" if name in compiled else ""
        held = f", holds {bytes_held[name] / 1e6:.2f} MB" if name in bytes_held else ""
        print(f"{name:18} ready {1e3 * ready[name]:8.2f} ms   call {1e3 * seconds[name]:8.1f} ms{first}{held}")
    found = {"ready": ready, "call": seconds, "compile": compiled, "bytes": bytes_held, "largest_difference": wrong}
    write_json(args.json, {"machine": machine(), "path": capabilities()["cpu"], "tokens": n, **found})


def _as(want: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """SDPA's [1, heads, n, d] in the layout of `out`."""
    return want if out.dim() == 4 else want[0].transpose(0, 1)
