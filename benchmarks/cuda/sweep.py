"""A sweep of av_video on decoders of Qwen2.5's sizes, on a CUDA device, bf16.

    python benchmarks cuda/sweep [--shape 3b 7b] [--tokens 10240 32768] [--seconds 120] [--json FILE]

Claim: all knocked-out runs together take little more than the clean forward. For each shape and length, in one process:
clean forwards of transformers with each backend of SDPA; the knockouts whose targets come after the media; those whose
targets lie in the media, in windows around every layer or, where that would take longer than IN_MEDIA_SECONDS, around
every second, fourth or eighth (the file names them); and forwards with a dense mask, as other tools run one per
knockout and window: a few are timed, and multiplied. A step that fails or is left out has its reason in the file, and
the next step runs. The tests run it on the CPU: --device cpu --shape tiny.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.attention import sdpa_kernel

import avflow
from avflow.experiments.sweep import sweep_prompt
from benchmarks.lib.decoders import make_named, shape_facts
from benchmarks.lib.device import BACKENDS, ceilings, clean_backends
from benchmarks.lib.options import device_parser
from benchmarks.lib.peers import clean_forward, knockout_mask
from benchmarks.lib.prompts import AFTER_MEDIA, IN_MEDIA, make_prompt
from benchmarks.lib.report import Report
from benchmarks.lib.timing import Clock

QUESTION = 50  # tokens of question and options
LENGTHS = (10240, 8192, 16384, 32768)  # what is stated for a prompt of 10k tokens comes first
TOLERANCE = 0.1  # of the clean log-probability: two attentions that round to bf16 at other places, over all layers
IN_MEDIA_SECONDS = (15.0, 5.0)  # at the first length, and at the others
TURNS = 2  # of a clean forward, and of one with a dense mask; each has a call to warm up
SWEEPS = 3  # of the knockouts after the media, the first of which warms up
STRIDES = (1, 2, 4, 8)
GUESSED_FLOPS = 250e12  # per second, until a clean forward has been timed


class Case:
    """One shape at one length; `result` grows step by step."""

    def __init__(self, report: Report, model: avflow.Model, shape: str, tokens: int, in_media_seconds: float) -> None:
        self.in_media_seconds = in_media_seconds
        self.report, self.model, self.clock = report, model, Clock(report.device)
        self.name = f"{shape}, {tokens} tokens"
        self.prompt = make_prompt(model, tokens, QUESTION)
        self.prompt.inputs_embeds = self.prompt.inputs_embeds.to(model.device, model.dtype)
        self.result = {"shape": {**shape_facts(shape, tokens), "question": QUESTION}}
        self.result |= {"clean_seconds": {}, "clean_peak_bytes": {}}
        report.data["results"].append(self.result)

    def step(self, name: str, run: Callable[[], None], seconds: float) -> None:
        self.report.step(f"{self.name}, {name}", run, seconds)

    def plan(
        self, knockouts: list[avflow.Knockout], layers: list[int] | None = None
    ) -> tuple[avflow.SweepRequest, dict[str, float]]:
        request = avflow.SweepRequest(knockouts, layers=layers, select="all")
        return request, avflow.estimate(self.model, self.prompt, request)

    def predicted(self, flops: float) -> float:
        """Seconds at the rate of the clean forward."""
        clean = self.result["clean_seconds"].values()
        clean_flops = self.plan(AFTER_MEDIA[:1], [0])[1]["clean_flops"]
        return flops * min(clean) / clean_flops if clean else flops / GUESSED_FLOPS

    def clean(self, backend: str) -> None:
        with sdpa_kernel(BACKENDS[backend]):
            seconds = self.clock.best(lambda: clean_forward(self.model, self.prompt), TURNS)
        self.result["clean_seconds"][backend] = seconds
        self.result["clean_peak_bytes"][backend] = self.clock.peak_bytes
        print(f"    clean forward, sdpa {backend}: {seconds:.3f} s")

    def sweep(self, name: str, knockouts: list[avflow.Knockout], repeats: int, layers: list[int] | None = None) -> None:
        """layers: centres of the windows; None for all. The first repeat warms up, unless it is the only one."""
        request, plan = self.plan(knockouts, layers)
        rows: list = []
        seconds, peaks = [], []
        for _ in range(repeats):
            seconds.append(self.clock(lambda: rows.append(sweep_prompt(self.model, self.prompt, request))))
            peaks.append(self.clock.peak_bytes)
        theirs = float(torch.log_softmax(clean_forward(self.model, self.prompt).float(), -1)[self.prompt.answer_ids[0]])
        ours = rows[0].rows[0]["logp_clean"]
        runs = len(knockouts) * (self.model.n_layers if layers is None else len(layers))
        took = min(seconds)
        self.result[name] = {
            "knockouts": [k.name for k in knockouts],
            "layers": "all" if layers is None else layers,
            "runs": runs,
            "walks": plan["walks"],
            "seconds": took,
            "all_seconds": seconds,
            "peak_bytes": max(peaks),
            "packed_row_ratio": plan["ratio"],
            "flop_ratio": plan["flops"] / plan["clean_flops"],
            "over_clean": {b: took / clean for b, clean in self.result["clean_seconds"].items()},
            "forwards_a_run": {b: took / clean / runs for b, clean in self.result["clean_seconds"].items()},
            "clean_logp_difference": abs(ours - theirs),
        }
        over = ", ".join(f"{ratio:.2f} x sdpa {b}" for b, ratio in self.result[name]["over_clean"].items())
        print(
            f"    {name}: {took:.2f} s, {runs} runs in {plan['walks']} walks, packed rows {plan['ratio']:.2f} x; {over}"
        )
        if not abs(ours - theirs) < TOLERANCE:
            raise AssertionError(f"log-probability of the clean run: {ours} here, {theirs} in transformers")

    def in_media(self) -> None:
        """Every layer, or as many as the time allows; the walk's clean rows are part of what is timed."""
        n = self.model.n_layers
        for stride in STRIDES:
            layers = None if stride == 1 else list(range(stride // 2, n, stride))
            seconds = self.predicted(self.plan(IN_MEDIA, layers)[1]["flops"])
            if seconds < min(self.in_media_seconds, 0.7 * self.report.left) or stride == STRIDES[-1]:
                break
        self.step("in_media", lambda: self.sweep("in_media", IN_MEDIA, 1, layers), 1.4 * seconds)
        if "in_media" in self.result:
            self.result["in_media"]["layer_stride"] = stride

    def dense(self, backend: str) -> None:
        mask = knockout_mask(self.prompt, self.model.device)
        with sdpa_kernel(BACKENDS[backend]):
            each = self.clock.best(lambda: clean_forward(self.model, self.prompt, mask), TURNS)
        self.result.setdefault("dense_mask_seconds_each", {})[backend] = each
        self.result.setdefault("dense_mask_peak_bytes", {})[backend] = self.clock.peak_bytes
        self.result["dense_mask_runs_timed"] = TURNS
        for name in ("after_media", "in_media"):
            if name in self.result:
                times = each * self.result[name]["runs"] / self.result[name]["seconds"]
                self.result[name].setdefault("dense_masks_over_sweep", {})[backend] = times
        print(f"    a forward with a dense mask, sdpa {backend}: {each:.3f} s")

    def math_fits(self) -> bool:
        """Its scores and their softmax, [heads, N, N] in fp32 and bf16, beside what is allocated."""
        if self.report.device != "cuda":
            return True
        return 12 * self.model.n_heads * len(self.prompt) ** 2 < 0.8 * torch.cuda.mem_get_info()[0]

    def run(self) -> None:
        one = self.predicted(self.plan(AFTER_MEDIA[:1], [0])[1]["clean_flops"])
        for backend in clean_backends(self.report.device):
            self.step(f"clean, {backend}", lambda backend=backend: self.clean(backend), 2 * TURNS * one)
        after = self.predicted(self.plan(AFTER_MEDIA)[1]["flops"])
        self.step("after_media", lambda: self.sweep("after_media", AFTER_MEDIA, SWEEPS), 4 * after)
        self.in_media()

    def dense_masks(self) -> None:
        """After all lengths' own steps: the math backend takes longer than these together."""
        one = self.predicted(self.plan(AFTER_MEDIA[:1], [0])[1]["clean_flops"])
        for backend in ("efficient", "cuDNN", "math") if self.report.device == "cuda" else ("math",):
            if backend == "math" and not self.math_fits():
                self.report.skip(f"{self.name}, dense, math", "its [heads, N, N] scores do not fit the device's memory")
                continue
            # The math backend moves every score through memory several times.
            seconds = 2 * TURNS * one * (15 if backend == "math" and self.report.device == "cuda" else 4)
            self.step(f"dense, {backend}", lambda backend=backend: self.dense(backend), seconds)


def one_shape(report: Report, model: avflow.Model, shape: str, lengths: Sequence[int]) -> None:
    cases: list[Case] = []

    def run(tokens: int, in_media_seconds: float) -> None:
        cases.append(Case(report, model, shape, tokens, in_media_seconds))
        cases[-1].run()

    for at, tokens in enumerate(lengths):
        print(f"{shape}, {tokens} tokens")
        in_media = IN_MEDIA_SECONDS[min(at, 1)]
        report.step(f"{shape}, {tokens} tokens", lambda n=tokens, t=in_media: run(n, t))
    for case in cases:
        report.step(f"{case.name}, dense masks", case.dense_masks)


def measure(device: str, shapes: Sequence[str], lengths: Sequence[int], path: str | None, seconds: float) -> int:
    """0 where every step that ran was right."""
    report = Report(device, path, seconds)
    report.data["ceilings"] = report.step("ceilings", lambda: ceilings(device))
    for index, shape in enumerate(shapes):
        report.share(len(shapes) - index)
        model = report.step(
            f"{shape}, model", lambda shape=shape: make_named(shape, device), 10 if device == "cuda" else 0
        )
        if model is None:
            continue
        one_shape(report, model, shape, lengths)
        del model
    return report.finish()


def main(arguments: list[str] | None = None) -> int:
    args = device_parser(__doc__, LENGTHS).parse_args(arguments)
    return measure(args.device, args.shape, args.tokens, args.json, args.seconds)
