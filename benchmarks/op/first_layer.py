"""What the host does for a sweep before its first layer runs: a device that has nothing else to do waits for it.

    python benchmarks op/first_layer [--shape 3b 7b] [--tokens 10240 32768] [--turns 15] [--json FILE]

Sweeps of av_video after the media, in windows of 7 around every layer, on stand-ins as deep as Qwen2.5-Omni's decoders
with their heads, each of 8 numbers, in bf16 on the CPU. Jobs and layouts come while media are encoded, so that the
device has work; what prepares the walk comes after that. Least CPU seconds of several turns.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import torch

import avflow
from avflow.experiments.sweep_plan import Plan
from avflow.walk.answers import Runner
from avflow.walk.capture import capture
from benchmarks.lib.decoders import SHAPES, make_thin
from benchmarks.lib.prompts import AFTER_MEDIA, make_prompt
from benchmarks.lib.report import machine, write_json

QUESTION = 50  # tokens of question and options
MEMORY = "60GB"  # for the packed rows: of an 80 GB device
PARTS = ("jobs and starts", "layouts", "the walk, up to its first layer")


class _Reached(Exception):
    """The walk's first layer is next."""


def _stop(*given: Any, **named: Any) -> torch.Tensor:
    raise _Reached


def seconds_of(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def parts(model: avflow.Model, prompt: avflow.Prompt, captured: Any) -> dict[str, float]:
    """CPU seconds of each of PARTS, once. The loop over the layers is replaced: it raises _Reached."""
    plans: list[Plan] = []

    def plan() -> None:
        plans.append(Plan(model, [prompt], avflow.SweepRequest(AFTER_MEDIA, select="all", memory=MEMORY)))

    def walk() -> None:
        try:
            Runner(plans[0], [captured]).run(plans[0].layouts[0])
        except _Reached:
            return

    return dict(zip(PARTS, (seconds_of(plan), seconds_of(lambda: plans[0].layouts), seconds_of(walk)), strict=True))


def measure(shape: str, tokens: int, turns: int) -> dict[str, Any]:
    model = make_thin(shape)
    prompt = make_prompt(model, tokens, QUESTION)
    prompt.inputs_embeds = prompt.inputs_embeds.to(model.dtype)
    captured, module = capture(model, prompt), importlib.import_module("avflow.walk.walk")
    own, module.run_layers = module.run_layers, _stop
    try:
        taken = [parts(model, prompt, captured) for _ in range(turns)]
    finally:
        module.run_layers = own
    best = {name: min(turn[name] for turn in taken) for name in PARTS}
    print(f"{shape}, {tokens} tokens: " + ", ".join(f"{name} {1e3 * each:.2f} ms" for name, each in best.items()))
    return {"shape": shape, "tokens": tokens, "cpu_seconds": best}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["3b", "7b"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[10240, 32768])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(machine())
    results = [measure(shape, tokens, args.turns) for shape in args.shape for tokens in args.tokens]
    write_json(args.json, {"machine": machine(), "results": results})
