"""Where the time of a sweep and of an evicted prefill goes: a decoder and a Thinker of Qwen2.5-Omni-3B's sizes, bf16.

    python benchmarks cuda/profile [--device cuda] [--shape 3b] [--seconds 90] [--json FILE]

Each case is run to warm up; TIMED times for its time, the host's work on plans timed beside it; and once under torch's
profiler. Reported are the best of the times, and from the profiled call the device's time by what it does, its idle
time, launches, and what makes the host wait. The tests run it on the CPU with the tiny shape, where operators stand for
kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

import avflow
from avflow.experiments.sweep import sweep_prompt
from avflow_ext import AttentionProblem
from benchmarks.cuda.evict import schedules
from benchmarks.lib.decoders import make_named, shape_facts
from benchmarks.lib.device import BACKENDS
from benchmarks.lib.prompts import AFTER_MEDIA, make_prompt
from benchmarks.lib.report import Report
from benchmarks.lib.thinker import CLIP, make_av_prompt, make_thinker
from benchmarks.lib.timing import Clock
from benchmarks.lib.traces import summary, table, traced

SWEPT, PREFILLED, QUESTION = 10240, 16384, 50  # tokens
TIMED = 3  # calls: on an H200 the first after the one to warm up still took up to 1.7 times as long as the next
CASE_SECONDS = 8.0  # five runs of about a second, and reading the trace


class HostTimes:
    """Seconds in some functions while its block lasts, without those of functions among them that they call."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.nested: list[float] = []

    def wrapped(self, name: str, call: Callable) -> Callable:
        def timed(*args, **kwargs):
            self.nested.append(0.0)
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                entry = self.found.setdefault(name, {"count": 0, "seconds": 0.0})
                entry["count"] += 1
                entry["seconds"] += took - self.nested.pop()
                if self.nested:
                    self.nested[-1] += took

        return timed

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        names = ("experiments.sweep", "walk.packing", "walk.walk")
        sweep, plan, walk = (importlib.import_module(f"avflow.{name}") for name in names)
        places = {
            "attention problems": (AttentionProblem, "__init__"),
            "plans packed": (AttentionProblem, "packed"),
            "plans uploaded": (AttentionProblem, "packed_on"),
            "jobs and starts": (plan.Walks, "__init__"),
            "layouts": (plan, "build_layout"),
            "columns of the walk": (walk.Problems, "__init__"),
            "capture, media encoded": (sweep, "begin_capture"),
            "waiting for embeddings": (sweep, "check_embeddings"),
            "prediction, waiting for the device included": (walk, "_predict"),
            "result rows": (sweep, "_rows_of"),
        }
        saved = [(owner, attribute, getattr(owner, attribute)) for owner, attribute in places.values()]
        try:
            for name, (owner, attribute) in places.items():
                setattr(owner, attribute, self.wrapped(name, getattr(owner, attribute)))
            yield
        finally:
            for owner, attribute, value in saved:
                setattr(owner, attribute, value)


class Profiles:
    def __init__(self, report: Report, shape: str, small: bool) -> None:
        self.report, self.shape, self.clock = report, shape, Clock(report.device)
        self.swept, self.prefilled = (400, 600) if small else (SWEPT, PREFILLED)

    def case(self, name: str, shape: dict, call: Callable[[], object]) -> None:
        """Runs a case; what it found so far stays in the file if a later run of it fails."""
        result: dict[str, Any] = {"case": name, "shape": shape}
        self.report.data["results"].append(result)
        call()
        result["all_seconds"] = []
        for _ in range(TIMED):
            host = HostTimes()
            with host.timing():
                seconds = self.clock(call)
            result["all_seconds"].append(seconds)
            if seconds == min(result["all_seconds"]):
                result |= {"seconds": seconds, "host": host.found, "peak_bytes": self.clock.peak_bytes}
        print(f"{name}: {result['seconds'] * 1e3:.1f} ms")
        for what, entry in sorted(result["host"].items(), key=lambda pair: -pair[1]["seconds"]):
            print(f"    {entry['seconds'] * 1e3:9.1f} ms          host: {entry['count']} x {what}")
        result["profile"] = summary(traced(call, self.clock.on_cuda), self.clock.on_cuda)
        print(table(result["profile"]))

    def step(self, name: str, shape: dict, call: Callable[[], object]) -> None:
        self.report.step(name, lambda: self.case(name, shape, call), CASE_SECONDS if self.clock.on_cuda else 0)

    def decoder(self) -> None:
        model = make_named(self.shape, self.report.device)
        prompt = make_prompt(model, self.swept, QUESTION)
        prompt.inputs_embeds = prompt.inputs_embeds.to(model.device, model.dtype)
        shape = shape_facts(self.shape, self.swept)
        after = avflow.SweepRequest(AFTER_MEDIA, select="all")
        self.step("sweep, targets after the media", shape, lambda: sweep_prompt(model, prompt, after))
        centres = list(range(2, model.n_layers, 4))
        inside = avflow.SweepRequest(["cross:video"], layers=centres, select="all")
        name = f"sweep, cross:video in {len(centres)} windows"
        self.step(name, shape, lambda: sweep_prompt(model, prompt, inside))

        long = make_prompt(model, self.prefilled, QUESTION)
        embeds = long.inputs_embeds[None].to(model.device, model.dtype)
        groups, items = list(long.groups), list(long.items)
        half = schedules(model.n_layers)["media after half"]

        @torch.no_grad()
        def prefill(block) -> None:
            with block:
                model.hf(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

        shape = shape_facts(self.shape, self.prefilled)
        self.step(
            "prefill, media leave after half of the layers",
            shape,
            lambda: prefill(avflow.evict(model, half, groups=groups, items=items)),
        )
        self.step("prefill, nothing leaves, sdpa flash", shape, lambda: prefill(sdpa_kernel(BACKENDS["flash"])))

    def thinker(self) -> None:
        capture = importlib.import_module("avflow.walk.capture").capture
        model, prompt = make_thinker(self.shape, self.report.device), make_av_prompt(self.shape)
        seconds, height, width = CLIP[self.shape]
        shape = {"name": self.shape, "tokens": len(prompt), "video_seconds": seconds, "patches": [height, width]}
        request = avflow.SweepRequest(AFTER_MEDIA, select="all")
        self.step("Thinker, media encoded up to the first layer", shape, lambda: capture(model, prompt))
        name = "Thinker, sweep with media encoded, targets after them"
        self.step(name, shape, lambda: sweep_prompt(model, prompt, request))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--shape", choices=("3b", "tiny"), default="3b")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all cases")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(arguments)
    report = Report(args.device, args.json, args.seconds)
    profiles = Profiles(report, args.shape, args.shape == "tiny")
    report.step("decoder", profiles.decoder)
    report.step("Thinker", profiles.thinker, 12 if args.device == "cuda" else 0)
    return report.finish()
