"""The attention op in bfloat16 beside itself in float32 and torch's sdpa in bfloat16: prefill, and one row. CPU.

    python benchmarks cpu/bf16 [--tokens 2048] [--keys 16384] [--turns 15] [--json FILE]

Claim: where the processor multiplies bfloat16 (AMX), prefill in it takes 1 / 1.7 of the time of float32 at most. Every
path of the op that this processor runs is timed, for it is chosen at run time. Figures are the least CPU time of this
process of many turns, in which all candidates of a case follow each other; one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from avflow_ext import AttentionProblem, attention, capabilities
from avflow_ext._load import _C
from benchmarks.lib.layouts import VIDEO_TO_QUESTION, av_tokens, one_row, open_edges
from benchmarks.lib.operands import Operands
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import least_cpu_seconds

SHAPE = HEADS, KV_HEADS, DEPTH = 16, 2, 128
COPIES = 4  # of the keys and values that one row reads: more than a core's caches
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

ONLY_BF16 = ("amx", "avx512_bf16", "neon_bf16")

Call = Callable[[], object]


def paths() -> list[str]:
    """Those of the op that this processor runs, the fastest first."""
    before, found = _C.cpu_isa(), []
    for name in capabilities()["cpu_built"][:-1]:  # not the portable path, a tenth as fast
        try:
            _C.set_cpu_isa(name)
        except ValueError:
            continue
        found.append(name)
    _C.set_cpu_isa(before)
    return found


def candidates() -> list[tuple[str, str]]:
    """(path, dtype): all paths in bfloat16; in float32 those that do not leave it to another."""
    return [(path, name) for name in DTYPES for path in paths() if name == "bf16" or path not in ONLY_BF16]


def on(path: str, call: Call) -> Call:
    def run() -> None:
        _C.set_cpu_isa(path)
        call()

    return run


def prefill(n: int, turns: int) -> dict[str, Any]:
    """{case: {"seconds": {candidate: ...}, "gflop"}} of n tokens, without cuts and with video -> question cut."""
    tokens = av_tokens(n)
    operands = {name: Operands(n, n, SHAPE, dtype=dtype) for name, dtype in DTYPES.items()}
    found = {}
    for case, cuts in (("no cuts", []), ("video -> question", [VIDEO_TO_QUESTION])):
        problem = AttentionProblem(tokens, cuts=cuts)
        calls: dict[str, Call] = {
            f"{path} {name}": on(path, operands[name].ours(problem)) for path, name in candidates()
        }
        if not cuts:
            calls |= {f"sdpa {name}": operands[name].sdpa() for name in DTYPES}
        gflop = 4 * int(open_edges(problem).sum()) * DEPTH * HEADS / 1e9
        found[f"{case}, {n} tokens"] = {"seconds": least_cpu_seconds(calls, turns), "gflop": gflop}
    return found


def decode(keys: int, turns: int) -> dict[str, Any]:
    """The same of one row; a call reads all COPIES of the keys and values in turn. "bytes": of one copy, by dtype."""
    problem, calls = one_row(keys), {}
    for name, dtype in DTYPES.items():
        copies = [Operands(1, keys, SHAPE, dtype=dtype) for _ in range(COPIES)]
        folded = [c.q[0].view(1, KV_HEADS, HEADS // KV_HEADS, DEPTH) for c in copies]
        turned = [[t.transpose(0, 1)[None].contiguous() for t in (c.k, c.v)] for c in copies]

        def ours(copies: list[Operands] = copies) -> None:
            for c in copies:
                attention(c.q, c.k, c.v, problem)

        def theirs(folded: list[torch.Tensor] = folded, turned: list[list[torch.Tensor]] = turned) -> None:
            for q, kv in zip(folded, turned, strict=True):
                sdpa(q, *kv)

        mine = [path for path, dtype in candidates() if dtype == name]
        calls |= {f"{path} {name}": on(path, ours) for path in mine} | {f"sdpa {name}": theirs}
    times = {who: each / COPIES for who, each in least_cpu_seconds(calls, turns).items()}
    size = {name: 2 * keys * KV_HEADS * DEPTH * dtype.itemsize for name, dtype in DTYPES.items()}
    return {f"one row, {keys} keys": {"seconds": times, "bytes": size}}


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--keys", type=int, default=16384)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(arguments)
    threads, before = torch.get_num_threads(), _C.cpu_isa()
    try:
        torch.set_num_threads(1)
        found = {"machine": machine(), "path": before}
        print(f"{found['machine']}, {HEADS}/{KV_HEADS} heads, d {DEPTH}; CPU time")
        found["cases"] = prefill(args.tokens, args.turns) | decode(args.keys, args.turns)
    finally:
        torch.set_num_threads(threads)
        _C.set_cpu_isa(before)
    for case, one in found["cases"].items():
        print(case)
        for who, each in one["seconds"].items():
            rate = f"{one['gflop'] / each:6.0f} GFLOP/s" if "gflop" in one else ""
            rate = rate or f"{one['bytes'][who.split()[-1]] / each / 1e9:6.1f} GB/s"
            print(f"  {who:20} {each * 1e3:8.2f} ms {rate}")
    write_json(args.json, found)
