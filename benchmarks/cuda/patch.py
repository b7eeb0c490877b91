"""A trace by activation patching on decoders of Qwen2.5's sizes, on a CUDA device, bf16.

    python benchmarks cuda/patch [--shape 3b 7b] [--tokens 10240 32768] [--seconds 120] [--json FILE]

Claim: a whole trace of the tokens after the media (four sites, every layer) takes little more than the runs that it
compares. For each shape and length, in one process: clean forwards of transformers with each backend of SDPA; one
forward with a hook, as other tools run one per cell, which is multiplied; and the trace with zeros, with states of
another question about the same media, and of other media. A cell is held against the forward with the hook. The tests
run it on the CPU: --device cpu --shape tiny.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.attention import sdpa_kernel

import avflow
from benchmarks.lib.decoders import make_named, shape_facts
from benchmarks.lib.device import BACKENDS, clean_backends
from benchmarks.lib.options import device_parser
from benchmarks.lib.patching import SITES, hooked_forward, others
from benchmarks.lib.peers import clean_forward
from benchmarks.lib.prompts import QUESTION, make_prompt
from benchmarks.lib.report import Report
from benchmarks.lib.timing import Clock

LENGTHS = (10240, 32768)
TURNS = 2  # each has a call to warm up
TOLERANCE = 0.1  # of a log-probability: two attentions that round to bf16 at other places, over all layers
GUESSED_SECONDS = 2.0  # of a clean forward of 10,240 tokens, until one has been timed


class Case:
    """One shape at one length; `result` grows step by step."""

    def __init__(self, report: Report, model: avflow.Model, shape: str, tokens: int) -> None:
        self.report, self.model, self.clock = report, model, Clock(report.device)
        self.name = f"{shape}, {tokens} tokens"
        self.prompt = make_prompt(model, tokens, QUESTION)
        assert self.prompt.inputs_embeds is not None
        self.prompt.inputs_embeds = self.prompt.inputs_embeds.to(model.device, model.dtype)
        self.result = {"shape": {**shape_facts(shape, tokens), "question": QUESTION}, "sites": list(SITES)}
        self.result |= {"cells": len(SITES) * model.n_layers, "clean_seconds": {}, "traces": {}}
        report.data["results"].append(self.result)

    @property
    def clean(self) -> float:
        """Seconds of the fastest clean forward."""
        return min(self.result["clean_seconds"].values(), default=GUESSED_SECONDS)

    def forward(self, backend: str) -> None:
        with sdpa_kernel(BACKENDS[backend]):
            seconds = self.clock.best(lambda: clean_forward(self.model, self.prompt), TURNS)
        self.result["clean_seconds"][backend] = seconds
        print(f"    clean forward, sdpa {backend}: {seconds:.3f} s")

    def hooks(self) -> None:
        middle = self.model.n_layers // 2
        logits = hooked_forward(self.model, self.prompt, middle).float()
        self.result["hook_logp"] = float(torch.log_softmax(logits, -1)[self.prompt.answer_ids[0]])
        seconds = self.clock.best(lambda: hooked_forward(self.model, self.prompt, middle), TURNS)
        self.result["hook_seconds_each"] = seconds

    def trace(self, name: str, source: str | avflow.PatchSource) -> None:
        found: list[avflow.Results] = []

        def run() -> None:
            found.append(avflow.patch(self.model, self.prompt, source, SITES, select="all"))

        seconds = self.clock.best(run, TURNS)
        self.result["traces"][name] = {
            "seconds": seconds,
            "peak_bytes": self.clock.peak_bytes,
            "packed_row_ratio": found[0].meta["prompts"][0]["ratio"],
            "walks": found[0].meta["prompts"][0]["walks"],
            "over_clean": {b: seconds / clean for b, clean in self.result["clean_seconds"].items()},
            "hooks_over_patch": self.result.get("hook_seconds_each", self.clean) * self.result["cells"] / seconds,
        }
        print(f"    {name}: {seconds:.3f} s, {seconds / self.clean:.2f} x clean, {self.result['cells']} cells")
        if name == "zero" and "hook_logp" in self.result:
            cell = ("last", self.model.n_layers // 2)
            (ours,) = [r["logp_patched"] for r in found[0].table.to_pylist() if (r["site"], r["layer"]) == cell]
            if not abs(ours - self.result["hook_logp"]) < TOLERANCE:
                raise AssertionError(f"log-probability of {cell}: {ours} here, {self.result['hook_logp']} with a hook")

    def run(self) -> None:
        for backend in clean_backends(self.report.device):
            self.report.step(f"{self.name}, clean, {backend}", lambda b=backend: self.forward(b), 4 * self.clean)
        self.report.step(f"{self.name}, hooks", self.hooks, 5 * self.clean)
        for name, source in others(self.prompt).items():
            self.report.step(f"{self.name}, {name}", lambda n=name, s=source: self.trace(n, s), 10 * self.clean)


def measure(device: str, shapes: Sequence[str], lengths: Sequence[int], path: str | None, seconds: float) -> int:
    """0 where every step that ran was right."""
    report = Report(device, path, seconds)
    for index, shape in enumerate(shapes):
        report.share(len(shapes) - index)
        model = report.step(
            f"{shape}, model", lambda shape=shape: make_named(shape, device), 10 if device == "cuda" else 0
        )
        if model is None:
            continue
        for tokens in lengths:
            print(f"{shape}, {tokens} tokens")
            report.step(f"{shape}, {tokens} tokens", lambda s=shape, n=tokens, m=model: Case(report, m, s, n).run())
        del model
    return report.finish()


def main(arguments: list[str] | None = None) -> int:
    args = device_parser(__doc__, LENGTHS).parse_args(arguments)
    return measure(args.device, args.shape, args.tokens, args.json, args.seconds)
