"""A sweep against one clean forward, and against one dense-mask forward per knockout. CPU, fp32.

    python benchmarks cpu/sweep [--json FILE] [--shape 12x512x2048 ...] [--turns 3]
    python benchmarks cpu/sweep --media           knockouts whose targets lie in the media instead of after it
    python benchmarks cpu/sweep --memory          peak memory at 8k, 16k and 32k tokens

Claim: all knocked-out runs together take little more than the clean run that they share. Random weights, random
embeddings, in one process; candidates take turns and the best time of each counts. Peers:
(a) transformers' own decoder with sdpa, and lm_head on the last row only;
(b) the same decoder with sdpa and a dense N x N mask, one forward per knockout: a few are timed, and multiplied by the
    number of knockouts x windows. Other tools do this (and encode the media anew each time, left out here).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import avflow
from avflow.experiments.sweep import sweep_prompt
from avflow.models.attention import kernel_name
from benchmarks.lib.decoders import make_sized
from benchmarks.lib.peers import clean_forward, knockout_mask
from benchmarks.lib.prompts import AFTER_MEDIA, IN_MEDIA, QUESTION, make_prompt
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import Clock, side_by_side

GOAL = 1.25  # sweep / clean forward, over the ratio of packed rows to clean rows
SHAPES = ("12x512x2048", "28x256x4096")


def measure(shape: str, turns: int, knockouts: list[avflow.Knockout]) -> dict[str, Any]:
    """One line of the table. shape: LAYERSxHIDDENxTOKENS."""
    layers, hidden, tokens = (int(part) for part in shape.split("x"))
    model = make_sized(layers, hidden)
    prompt = make_prompt(model, tokens)
    request = avflow.SweepRequest(knockouts, select="all")
    plan = avflow.estimate(model, prompt, request)
    # The sweep's clean row is the forward's: the two sides of the comparison compute one thing.
    ours = sweep_prompt(model, prompt, request).rows[0]["logp_clean"]
    theirs = float(torch.log_softmax(clean_forward(model, prompt), -1)[prompt.answer_ids[0]])
    assert abs(ours - theirs) < 1e-3, (ours, theirs)
    mask = knockout_mask(prompt)
    candidates = {
        "clean": lambda: clean_forward(model, prompt),
        "sweep": lambda: sweep_prompt(model, prompt, request),
        "dense": lambda: clean_forward(model, prompt, mask),
    }
    best = side_by_side(candidates, seconds=0, turns=turns)
    runs = len(request.knockouts) * layers
    ratio = best["sweep"] / best["clean"]
    return {
        "shape": {
            "layers": layers,
            "hidden": hidden,
            "heads": f"{model.n_heads}/{model.n_kv_heads}",
            "tokens": tokens,
            "question": QUESTION,
        },
        "knockouts": len(request.knockouts),
        "knocked_out_runs": runs,
        "clean_seconds": best["clean"],
        "sweep_seconds": best["sweep"],
        "dense_mask_seconds_each": best["dense"],
        "dense_mask_runs_timed": turns,
        "packed_row_ratio": plan["ratio"],
        "flop_ratio": plan["flops"] / plan["clean_flops"],
        "sweep_over_clean": ratio,
        "over_packed_rows": ratio / plan["ratio"],
        "dense_mask_over_sweep": best["dense"] * runs / best["sweep"],
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        f"{'layers x hidden, tokens':<26}{'runs':>6}{'packed rows':>13}{'sweep/clean':>13}{'quotient':>10}"
        f"{'dense masks / sweep':>21}"
    ]
    for r in results:
        shape = f"{r['shape']['layers']} x {r['shape']['hidden']}, {r['shape']['tokens']}"
        lines.append(
            f"{shape:<26}{r['knocked_out_runs']:>6}{r['packed_row_ratio']:>12.2f}x{r['sweep_over_clean']:>12.2f}x"
            f"{r['over_packed_rows']:>10.2f}{r['dense_mask_over_sweep']:>20.0f}x"
        )
    lines.append(
        f"quotient: (sweep / clean forward) / (packed rows / clean rows); goal at most {GOAL}. dense masks: "
        f"{results[0]['dense_mask_runs_timed']} forwards timed, the best multiplied by the number of runs."
    )
    return "\n".join(lines)


def peak_memory(tokens: int) -> None:
    """One sweep at `tokens` tokens; prints the peak resident set in this process, before and with the sweep."""
    model = make_sized(3, 256)
    prompt = make_prompt(model, tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    knockouts = ["cross:video", "video->question", "question->last"]  # the first re-runs nearly all rows
    request = avflow.SweepRequest(knockouts, window=1, layers=1, select="all")
    walks: list[int] = []
    seconds = Clock("cpu")(lambda: walks.append(sweep_prompt(model, prompt, request).info["walks"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"tokens": tokens, "before_mib": before, "peak_mib": peak, "walks": walks[0], "seconds": seconds}
    print(json.dumps(result))


def peaks() -> list[dict[str, Any]]:
    """peak_memory of each size, in a process of its own, since a peak never falls."""
    out = []
    for tokens in (8192, 16384, 32768):
        command = [sys.executable, str(Path(__file__).parents[1]), "cpu/sweep", "--peak-of", str(tokens)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        out.append(json.loads(text.strip().splitlines()[-1]))
        r = out[-1]
        used = r["peak_mib"] - r["before_mib"]
        print(
            f"{tokens:>6} tokens: peak {r['peak_mib']:.0f} MiB, {used:.0f} MiB of it the sweep "
            f"({1024 * used / tokens:.1f} KiB a token); an N x N fp32 matrix would take {tokens**2 / 2**18:.0f} MiB"
        )
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="LAYERSxHIDDENxTOKENS")
    parser.add_argument("--turns", type=int, default=3, help="in each, every candidate runs to warm up and is timed")
    parser.add_argument("--media", action="store_true", help="targets in the media: every run re-runs the media rows")
    parser.add_argument("--memory", action="store_true", help="peak memory at 8k, 16k and 32k tokens instead")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.peak_of:
        return peak_memory(args.peak_of)
    if args.memory:
        results = peaks()
    else:
        print(f"{machine()}, fp32, kernel {kernel_name(torch.device('cpu'))}")
        knockouts = IN_MEDIA if args.media else AFTER_MEDIA
        results = [measure(shape, args.turns, knockouts) for shape in args.shape]
        print(table(results))
    write_json(args.json, {"machine": machine(), "results": results})
