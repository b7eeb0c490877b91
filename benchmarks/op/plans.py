"""What the host does for each layer of a sweep, beside the device's work: the attention problem, and its block plan.

    python benchmarks op/plans [--shape 3b 7b] [--tokens 10240 32768] [--kernel hopper] [--json FILE]

Sweeps of av_video in windows of 7 around every layer; no model runs and no GPU is needed: only the layouts count. A
clean layer of Qwen2.5-Omni-3B at 10k tokens is 2.0 TFLOP, 3.6 ms at 550 TFLOP/s: what the host takes for one must stay
well below that, or the device waits. Best of several turns for each layer.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch.utils.benchmark import timer

import avflow
from avflow.experiments.sweep_plan import Plan
from avflow.walk.answers import predicting
from avflow.walk.walk import Problems
from benchmarks.lib.decoders import SHAPES, make_named
from benchmarks.lib.prompts import AFTER_MEDIA, IN_MEDIA, make_prompt
from benchmarks.lib.report import machine, write_json

QUESTION = 50  # tokens of question and options
MEMORY = "60GB"  # for the packed rows: of an 80 GB device


def layer_seconds(plan: Plan, kernel: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Seconds of each layer of the first walk for the problem and for its plan, and the bytes of the largest plan.

    Single calls: a problem keeps the plan that it has made.
    """
    model, layout = plan.model, plan.layouts[0]
    rows, _ = predicting(layout, plan.columns)
    problems = Problems(model, [SimpleNamespace(columns=c) for c in plan.columns], layout, plan.knockouts)
    problem_seconds, pack_seconds, largest = [], [], 0
    for layer in range(model.n_layers):
        began = timer()
        problem = problems.make(layer, rows if layer == model.n_layers - 1 else None)
        made = timer()
        words = problem.packed(model.n_heads // model.n_kv_heads, "renormalize", kernel)
        pack_seconds.append(timer() - made)
        problem_seconds.append(made - began)
        largest = max(largest, 4 * words.numel())
    return np.array(problem_seconds), np.array(pack_seconds), largest


def measure(shape: str, tokens: int, kernel: str, turns: int) -> list[dict[str, Any]]:
    """A line for each kind of targets. kernel: whose tiles are planned; turns: the best of them counts."""
    model, results = make_named(shape, "meta"), []
    prompt = make_prompt(model, tokens, QUESTION)
    for name, knockouts in (("after_media", AFTER_MEDIA), ("in_media", IN_MEDIA)):
        began = timer()
        plan = Plan(model, [prompt], avflow.SweepRequest(knockouts, select="all", memory=MEMORY))
        rows = plan.layouts[0].rows
        planned = timer() - began
        taken = [layer_seconds(plan, kernel) for _ in range(turns)]
        problem, pack = (np.min([t[i] for t in taken], axis=0) for i in (0, 1))
        results.append(
            {
                "shape": shape,
                "tokens": tokens,
                "targets": name,
                "kernel": kernel,
                "walks": len(plan.layouts),
                "rows": [rows[0], rows[-1]],
                "layout_seconds": planned,
                "problem_seconds": {"mean": problem.mean(), "most": problem.max()},
                "pack_seconds": {"mean": pack.mean(), "most": pack.max()},
                "plan_bytes": taken[0][2],
            }
        )
        print(
            f"{shape}, {tokens} tokens, {name}: {rows[0]} .. {rows[-1]} rows; a layer's problem "
            f"{1e3 * problem.mean():.2f} ms (most {1e3 * problem.max():.2f}), its plan {1e3 * pack.mean():.2f} ms "
            f"(most {1e3 * pack.max():.2f}), {taken[0][2] / 1e6:.2f} MB"
        )
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["3b", "7b"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[10240, 32768])
    parser.add_argument("--kernel", choices=("cpu", "cuda", "hopper"), default="hopper", help="whose tiles are planned")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args(arguments)
    print(machine())
    results = [r for s in args.shape for n in args.tokens for r in measure(s, n, args.kernel, args.turns)]
    write_json(args.json, {"machine": machine(), "results": results})
