"""Where the time of a sweep and of an evicted prefill goes: a decoder and a Thinker of Qwen2.5-Omni-3B's sizes, bf16.

    python benchmarks/profile_cuda.py [--device cuda] [--shape 3b] [--seconds 90] [--json FILE]

Each case is run three times: to warm up; for its time, with the host's work on plans timed beside it; and under torch's
profiler. Reported are the device's time by what it does, its idle time, launches, and what makes the host wait.
Tried on the CPU with the tiny shape, where operators stand for kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator

import torch
from device import BACKENDS, Clock, Report, make_model, shape_facts
from evict_cuda import schedules
from sweep import AFTER_MEDIA, make_prompt
from thinker import CLIP, make_av_prompt, make_thinker
from torch.nn.attention import sdpa_kernel
from traces import summary, table, traced

import avflow
from avflow_ext import AttentionProblem

SWEPT, PREFILLED, QUESTION = 10240, 16384, 50  # tokens
CASE_SECONDS = 6.0  # three runs of about a second, and reading the trace


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
            "capture, the device's work included": (sweep, "capture"),
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
        result = {"case": name, "shape": shape}
        self.report.data["results"].append(result)
        call()
        host = HostTimes()
        with host.timing():
            result["seconds"] = self.clock(call)
        result["host"] = host.found
        result["peak_bytes"] = self.clock.peak_bytes
        print(f"{name}: {result['seconds'] * 1e3:.1f} ms")
        for what, entry in sorted(host.found.items(), key=lambda pair: -pair[1]["seconds"]):
            print(f"    {entry['seconds'] * 1e3:9.1f} ms          host: {entry['count']} x {what}")
        result["profile"] = summary(traced(call, self.clock.on_cuda), self.clock.on_cuda)
        print(table(result["profile"]))

    def step(self, name: str, shape: dict, call: Callable[[], object]) -> None:
        self.report.step(name, lambda: self.case(name, shape, call), CASE_SECONDS if self.clock.on_cuda else 0)

    def decoder(self) -> None:
        model = make_model(self.shape, self.report.device)
        prompt = make_prompt(model, self.swept, QUESTION)
        prompt.inputs_embeds = prompt.inputs_embeds.to(model.device, model.dtype)
        shape = shape_facts(self.shape, self.swept)
        after = avflow.SweepRequest(AFTER_MEDIA, select="all")
        self.step("sweep, targets after the media", shape, lambda: avflow.sweep_prompt(model, prompt, after))
        centres = list(range(2, model.n_layers, 4))
        inside = avflow.SweepRequest(["cross:video"], layers=centres, select="all")
        name = f"sweep, cross:video in {len(centres)} windows"
        self.step(name, shape, lambda: avflow.sweep_prompt(model, prompt, inside))

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
        self.step(name, shape, lambda: avflow.sweep_prompt(model, prompt, request))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--shape", choices=("3b", "tiny"), default="3b")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all cases")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    report = Report(args.device, args.json, args.seconds)
    profiles = Profiles(report, args.shape, args.shape == "tiny")
    report.step("decoder", profiles.decoder)
    report.step("Thinker", profiles.thinker, 12 if args.device == "cuda" else 0)
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
