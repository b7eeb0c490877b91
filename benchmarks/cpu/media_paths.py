"""The whole preset av_video, and the ways to pay less for its paths within the media. CPU, fp32; FLOPs at 3B's sizes.

    python benchmarks cpu/media_paths [--json FILE] [--shape 12x256x1024] [--turns 2] [--tokens 10240]

Counted: FLOPs and packed rows of a sweep in windows of 7 layers, in clean forwards of the same prompt, by the dry run
of a decoder of Qwen2.5-3B's sizes (36 layers), mean over the turns of `spread`. Timed: the same sweeps of a smaller
decoder with random weights, against one clean forward of transformers with sdpa.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import torch

import avflow
from avflow.experiments.cheaper import turn_of
from avflow.experiments.sweep import sweep_prompt
from avflow.models.attention import kernel_name
from benchmarks.lib.decoders import make_named, make_sized
from benchmarks.lib.peers import clean_forward
from benchmarks.lib.prompts import make_prompt
from benchmarks.lib.report import machine, write_json

GOAL = 8.0  # clean forwards a sample, for the whole preset
UNTIL = {"until a third": 1 / 3, "until a quarter": 1 / 4}  # share of the layers in which knocked-out runs have media
WIDE = "1000000GB"  # of a dry run: one walk


def ways(layers: int) -> dict[str, dict[str, Any]]:
    """Options of a SweepRequest, by what they are called."""
    third, quarter = (round(layers * share) - 1 for share in UNTIL.values())
    return {
        "after_media": dict(knockouts="after_media"),
        "whole, exact": {},
        "spread 5": dict(spread=5),
        "spread 10": dict(spread=10),
        f"media until {third}, 2 % checked": dict(media_until=third, media_check=0.02),
        f"media until {quarter}, 2 % checked": dict(media_until=quarter, media_check=0.02),
        f"media until {third}, spread 2, 2 % checked": dict(media_until=third, media_check=0.02, spread=2),
    }


def turns_of(prompt: avflow.Prompt, spread: int) -> list[avflow.Prompt]:
    """The prompt under a name for each turn of a spread."""
    names: dict[int, str] = {}
    number = 0
    while len(names) < spread:
        names.setdefault(turn_of(str(number), spread), str(number))
        number += 1
    return [dataclasses.replace(prompt, id=names[turn]) for turn in range(spread)]


def counted(tokens: int, shape: str = "3b") -> dict[str, dict[str, float]]:
    """Of every way: rows and flops, in clean forwards, and the most of a turn's flops."""
    model = make_named(shape, "meta")
    prompt, found = make_prompt(model, tokens), {}
    for name, options in ways(model.n_layers).items():
        request = avflow.SweepRequest(**options, select="all", memory=WIDE)
        costs = [avflow.estimate(model, one, request) for one in turns_of(prompt, request.spread)]
        flops = [cost["flops"] / cost["clean_flops"] for cost in costs]
        rows = sum(cost["ratio"] for cost in costs) / len(costs)
        found[name] = {"rows": rows, "flops": sum(flops) / len(flops), "most": max(flops)}
    return found


def timed(shape: str, turns: int) -> dict[str, float]:
    """Of every way: processor seconds of a sweep over those of a clean forward, each the best of `turns`.

    Not the clock's: a machine that others use would lengthen one and not the other.
    """
    layers, hidden, tokens = (int(part) for part in shape.split("x"))
    model = make_sized(layers, hidden)
    prompt = make_prompt(model, tokens)
    best: dict[str, float] = {}
    for _ in range(turns):
        clean = _seconds(lambda: clean_forward(model, prompt))
        best["clean"] = min(best.get("clean", clean), clean)
        for name, options in ways(layers).items():
            request = avflow.SweepRequest(**options, select="all")
            prompts = turns_of(prompt, request.spread)[:3]
            seconds = [_seconds(functools.partial(sweep_prompt, model, one, request)) for one in prompts]
            best[name] = min(best.get(name, float("inf")), sum(seconds) / len(seconds))
    return {name: seconds / best["clean"] for name, seconds in best.items() if name != "clean"}


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", default="12x256x1024", metavar="LAYERSxHIDDENxTOKENS", help="what is timed")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=10240, help="of the prompt whose FLOPs are counted")
    parser.add_argument("--count", default="3b", help="sizes of the decoder whose FLOPs are counted")
    args = parser.parse_args(arguments)
    print(f"{machine()}, fp32, kernel {kernel_name(torch.device('cpu'))}")
    flops = counted(args.tokens, args.count)
    print(f"\ncounted, {args.count}, {args.tokens} tokens, in clean forwards (goal for the whole preset: {GOAL:g})")
    print(f"{'':<42}{'rows':>8}{'FLOPs':>8}{'most':>8}")
    for name, cost in flops.items():
        print(f"{name:<42}{cost['rows']:>8.2f}{cost['flops']:>8.2f}{cost['most']:>8.2f}")
    times = timed(args.shape, args.turns)
    print(f"\nprocessor time, {args.shape}, in clean forwards")
    for name, ratio in times.items():
        print(f"{name:<42}{ratio:>8.2f}")
    write_json(args.json, {"machine": machine(), "counted": flops, "timed": times, "shape": args.shape})
