"""Activation patching against one clean forward, and against one forward with hooks per cell. CPU, fp32.

    python benchmarks cpu/patch [--json FILE] [--shape 12x512x2048 ...] [--turns 3]

Claim: a whole trace of the tokens after the media (four sites, every layer) takes little more than the runs that it
compares. Random weights, random embeddings, in one process; candidates take turns and the best time of each counts.
Three sources of states: zeros, which need no other run; the same media with another question, whose media rows are
shared; other media, which are a second run. Peer: the same transformers decoder with sdpa and a forward hook, one
forward per cell, of which one is timed; the run that gives the states is left out.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import avflow
from avflow.models.attention import kernel_name
from benchmarks.lib.decoders import make_sized
from benchmarks.lib.patching import SITES, hooked_forward, others
from benchmarks.lib.peers import clean_forward
from benchmarks.lib.prompts import QUESTION, make_prompt
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import side_by_side

SHAPES = ("12x512x2048", "28x256x4096")
GOAL = 2.0  # forwards, of a trace after the media that needs no second reading of them


def measure(shape: str, turns: int) -> dict[str, Any]:
    """One line of the table. shape: LAYERSxHIDDENxTOKENS."""
    layers, hidden, tokens = (int(part) for part in shape.split("x"))
    model = make_sized(layers, hidden)
    prompt = make_prompt(model, tokens)
    sources = others(prompt)

    def patched(name: str) -> avflow.Results:
        return avflow.patch(model, prompt, sources[name], SITES, select="all")

    # Both sides compute one thing: a cell, and the forward with a hook.
    middle = layers // 2
    ours = [r for r in patched("zero").table.to_pylist() if (r["site"], r["layer"]) == ("last", middle)][0]
    theirs = float(torch.log_softmax(hooked_forward(model, prompt, middle), -1)[prompt.answer_ids[0]])
    assert abs(ours["logp_patched"] - theirs) < 1e-3, (ours, theirs)
    candidates = {"clean": lambda: clean_forward(model, prompt), "hooks": lambda: hooked_forward(model, prompt, middle)}
    candidates |= {name: lambda name=name: patched(name) for name in sources}
    best = side_by_side(candidates, seconds=0, turns=turns)
    cells = len(SITES) * layers
    return {
        "shape": {"layers": layers, "hidden": hidden, "tokens": tokens, "question": QUESTION},
        "sites": list(SITES),
        "cells": cells,
        "clean_seconds": best["clean"],
        "hook_seconds_each": best["hooks"],
        "traces": {
            name: {
                "seconds": best[name],
                "packed_row_ratio": patched(name).meta["prompts"][0]["ratio"],
                "over_clean": best[name] / best["clean"],
                "hooks_over_patch": best["hooks"] * cells / best[name],
            }
            for name in sources
        },
    }


def table(results: list[dict[str, Any]]) -> str:
    head = f"{'layers x hidden, tokens':<26}{'cells':>6}  {'put in':<18}{'packed rows':>12}{'patch/clean':>13}"
    lines = [f"{head}{'hooks / patch':>15}"]
    for r in results:
        shape = f"{r['shape']['layers']} x {r['shape']['hidden']}, {r['shape']['tokens']}"
        for name, t in r["traces"].items():
            lines.append(
                f"{shape:<26}{r['cells']:>6}  {name:<18}{t['packed_row_ratio']:>11.2f}x{t['over_clean']:>12.2f}x"
                f"{t['hooks_over_patch']:>14.0f}x"
            )
    lines.append(
        f"goal: at most {GOAL} clean forwards where the media are read once; other media are a second reading."
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="LAYERSxHIDDENxTOKENS")
    parser.add_argument("--turns", type=int, default=3, help="in each, every candidate runs to warm up and is timed")
    args = parser.parse_args(arguments)
    print(f"{machine()}, fp32, kernel {kernel_name(torch.device('cpu'))}")
    results = [measure(shape, args.turns) for shape in args.shape]
    print(table(results))
    write_json(args.json, {"machine": machine(), "results": results})
