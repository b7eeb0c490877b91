"""What comparing a run with the model's own forward costs, in a sweep and in a block of avflow.knockout. CPU, fp32.

    python benchmarks cpu/check [--json FILE] [--shape 12x512x1024] [--turns 15]

Claim: once per model and kind of prompt one forward more (a block: two passes of the decoder), and nothing after that.
Random weights and embeddings, in one process; candidates take turns and the least CPU time of each counts: the claim is
of a few in a hundred, which wall time on a shared machine does not show. "off": nothing is compared. "held": the check
is on, and its comparison was made before. "first": it is made in this call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

import avflow
from avflow.experiments.sweep import sweep_prompt
from avflow.models.attention import kernel_name
from avflow.models.proof import checking, figures
from benchmarks.lib.decoders import make_sized
from benchmarks.lib.peers import clean_forward
from benchmarks.lib.prompts import AFTER_MEDIA, make_prompt
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import least_cpu_seconds

MODES = ("off", "held", "first")


def measure(shape: str, turns: int) -> dict[str, Any]:
    """shape: LAYERSxHIDDENxTOKENS."""
    layers, hidden, tokens = (int(part) for part in shape.split("x"))
    model = make_sized(layers, hidden)
    prompt = make_prompt(model, tokens)
    request = avflow.SweepRequest(AFTER_MEDIA, select="all")
    embeds = prompt.inputs_embeds[None]  # [1, tokens, hidden]

    def sweep() -> None:
        sweep_prompt(model, prompt, request)

    def block() -> None:
        with avflow.knockout(model, "video->question", groups=prompt.groups, items=prompt.items):
            model.hf(inputs_embeds=embeds, use_cache=False, logits_to_keep=1)

    def within(mode: str, how: str, call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for kind in [kind for kind in model.proofs if mode == "first" and kind[0] == how]:
                del model.proofs[kind]
            with checking(model, "off" if mode == "off" else "error"):
                call()

        return run

    candidates: dict[str, Callable[[], object]] = {"clean": lambda: clean_forward(model, prompt)}
    for name, how, call in (("sweep", "walk", sweep), ("block", "avflow.knockout", block)):
        candidates |= {f"{name} {mode}": within(mode, how, call) for mode in MODES}
        call()  # its comparison is made
    best = least_cpu_seconds(candidates, turns)
    found: dict[str, Any] = {"shape": {"layers": layers, "hidden": hidden, "tokens": tokens}, "turns": turns}
    found |= {"clean_cpu_seconds": best["clean"], "check": figures(model)}
    for name in ("sweep", "block"):
        off, held, first = (best[f"{name} {mode}"] for mode in MODES)
        found[name] = {
            "cpu_seconds": {"off": off, "held": held, "first": first},
            "held_over_off": held / off,
            "first_more_in_forwards": (first - off) / best["clean"],
        }
    return found


def table(results: list[dict[str, Any]]) -> str:
    lines = [f"{'layers x hidden, tokens':<26}{'':<8}{'held / off':>12}{'the first: forwards more':>26}"]
    for r in results:
        shape = f"{r['shape']['layers']} x {r['shape']['hidden']}, {r['shape']['tokens']}"
        for name in ("sweep", "block"):
            one = r[name]
            lines.append(f"{shape:<26}{name:<8}{one['held_over_off']:>12.3f}{one['first_more_in_forwards']:>26.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", nargs="+", default=["12x512x1024"], metavar="LAYERSxHIDDENxTOKENS")
    parser.add_argument("--turns", type=int, default=15, help="in each, every candidate is timed once")
    args = parser.parse_args(arguments)
    print(f"{machine()}, fp32, kernel {kernel_name(torch.device('cpu'))}")
    results = [measure(shape, args.turns) for shape in args.shape]
    print(table(results))
    write_json(args.json, {"machine": machine(), "results": results})
