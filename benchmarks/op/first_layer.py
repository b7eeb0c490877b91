"""What the host does for a sweep before its first layer runs, and before its second: a device without work waits.

    python benchmarks op/first_layer [--shape 3b 7b] [--tokens 10240 32768] [--turns 15] [--json FILE]

Sweeps of av_video after the media, in windows of 7 around every layer, on stand-ins as deep as Qwen2.5-Omni's decoders
with their heads, each of 8 numbers, in bf16 on the CPU; up to the loop over the layers, which does not run. What the
first layer does not need comes while it runs on a device: 3.6 ms at 10k tokens of the 3B model at 550 TFLOP/s. With
media to encode layouts come earlier still, meanwhile. Least CPU seconds of several turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
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
PARTS = ("jobs and starts", "the first layer", "layouts and the other layers")


class _Reached(Exception):
    """A walk's layers are next."""


def seconds_of(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def up_to_layers(call: Callable[[], object]) -> Callable[[], None]:
    """The call until `run_layers`, which raises _Reached here."""

    def reach() -> None:
        try:
            call()
        except _Reached:
            return

    return reach


def parts(model: avflow.Model, prompt: avflow.Prompt, captured: Any) -> dict[str, float]:
    """CPU seconds of each of PARTS, once."""
    plans: list[Plan] = []

    def plan() -> None:
        request = avflow.SweepRequest(AFTER_MEDIA, select="all", memory=MEMORY)
        plans.append(Plan(model, [prompt], request, [captured.columns]))

    first = up_to_layers(lambda: Runner(plans[0], [captured]).run_walk(0))
    others = up_to_layers(lambda: Runner(plans[0], [captured]).run(plans[0].layouts[0]))
    return dict(zip(PARTS, map(seconds_of, (plan, first, others)), strict=True))


@contextlib.contextmanager
def without_layers() -> Iterator[None]:
    """Walks stop with _Reached where their layers would run."""

    def stop(*given: Any, **named: Any) -> torch.Tensor:
        raise _Reached

    modules = [importlib.import_module(f"avflow.walk.{name}") for name in ("opening", "walk")]
    saved = [module.run_layers for module in modules]
    try:
        for module in modules:
            module.run_layers = stop
        yield
    finally:
        for module, own in zip(modules, saved, strict=True):
            module.run_layers = own


def measure(shape: str, tokens: int, turns: int) -> dict[str, Any]:
    model = make_thin(shape)
    prompt = make_prompt(model, tokens, QUESTION)
    prompt.inputs_embeds = prompt.inputs_embeds.to(model.dtype)
    captured = capture(model, prompt)
    with without_layers():
        taken = [parts(model, prompt, captured) for _ in range(turns)]
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
