"""What a call costs beside its arithmetic: the ops on one row and a few keys, by their functions and directly. CPU.

    python benchmarks op/calls [--keys 64] [--turns 15] [--json FILE]

Claim: beside its arithmetic a call takes the time of one or two of torch's own operators, called from Python; every
layer of every decoding step pays it. Least CPU time of this process in turns, one thread, without gradients; a turn is
500 calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import avflow_ext
from avflow_ext import AttentionProblem, Tokens
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import least_cpu_seconds

CALLS = 500
SHAPE = HEADS, KV_HEADS, DEPTH = 2, 1, 16
EPS = 1e-6

Call = Callable[[], object]


def candidates(keys: int) -> dict[str, Call]:
    """What is timed, by its name: functions of avflow_ext, operators of torch.ops.avflow, their peers of torch."""
    ops = torch.ops.avflow
    row, before = Tokens([keys - 1], [0]), Tokens(range(keys), [0] * keys)
    problem = AttentionProblem(row, before)
    packed = problem.packed(HEADS // KV_HEADS)
    q = torch.randn(1, HEADS, DEPTH)
    k, v = torch.randn(2, keys, KV_HEADS, DEPTH)
    turned = [t.transpose(0, 1)[None] for t in (q, k, v)]  # [1, heads, rows, d]
    x, weight, keep = torch.randn(1, 64), torch.ones(64), torch.zeros(1, dtype=torch.int32)
    table = torch.randn(1, DEPTH)
    given: dict[str, tuple[Any, ...]] = {
        "gather_rms_norm": (x, weight, EPS, keep),
        "rms_norm": (x, weight, EPS),
        "add_rms_norm": (x, x, weight, EPS),
        "rotary": (q, q, table, table),
        "silu_mul": (x, x),
    }

    def each(function: Callable[..., object], arguments: tuple[Any, ...]) -> Call:
        return lambda: function(*arguments)

    found: dict[str, Call] = {
        "attention": lambda: avflow_ext.attention(q, k, v, problem),
        "attention, the operator": each(ops.attention, (q, k, v, packed, 0.25, 1, 0, False, None, None)),
        "attention, torch's sdpa": lambda: sdpa(*turned, enable_gqa=True),
    }
    for op, arguments in given.items():
        found |= {
            op: each(getattr(avflow_ext, op), arguments),
            f"{op}, the operator": each(getattr(ops, op), arguments),
        }
    found["rms_norm, torch's own"] = lambda: torch.nn.functional.rms_norm(x, (64,), weight, EPS)
    return found | {"a problem, packed": lambda: AttentionProblem(row, before).packed(HEADS // KV_HEADS)}


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found: dict[str, Any] = {"machine": machine(), "keys": args.keys}

        def turn(call: Call) -> Call:
            return lambda: [call() for _ in range(CALLS)]

        calls = {name: turn(call) for name, call in candidates(args.keys).items()}
        found["seconds"] = {name: each / CALLS for name, each in least_cpu_seconds(calls, args.turns).items()}
    finally:
        torch.set_num_threads(threads)
    for name, each in found["seconds"].items():
        print(f"{each * 1e6:8.2f} us  {name}")
    write_json(args.json, found)
