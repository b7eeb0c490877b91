"""`python benchmarks/sweep.py --device cuda --shape 3b 7b`: av_video on decoders of Qwen2.5's sizes, in bf16.

For each shape and length, in one process: clean forwards of transformers with each backend of SDPA; the knockouts whose
targets come after the media; those whose targets lie in the media, in windows around every layer or, where that would
take longer than IN_MEDIA_SECONDS, around every second, fourth or eighth (the file names them); and forwards with a
dense mask, as other tools run one per knockout and window: a few are timed, and multiplied.
Each step's failure or omission is told in the file, and the next step runs. Tried on the CPU with the tiny shape.
"""

from __future__ import annotations

import torch
from device import BACKENDS, SHAPES, Clock, Report, ceilings, make_model, peers, shape_facts
from sweep import AFTER_MEDIA, IN_MEDIA, clean_forward, make_prompt
from torch.nn.attention import sdpa_kernel

import avflow

QUESTION = 50  # tokens of question and options
LENGTHS = (10240, 8192, 16384, 32768)  # what is stated for a prompt of 10k tokens comes first
TOLERANCE = 0.1  # of the clean log-probability: two attentions that round to bf16 at other places, over all layers
IN_MEDIA_SECONDS = (15.0, 5.0)  # at the first length, and at the others
DENSE_TIMED = 3  # forwards with a dense mask, of which the best is multiplied
STRIDES = (1, 2, 4, 8)
GUESSED_FLOPS = 250e12  # a second, until a clean forward has been timed


def dense_mask(prompt: avflow.Prompt, device: torch.device) -> torch.Tensor:
    """bool [1, 1, N, N] for video->question, made on the device: two of them at 32k tokens are 2 GiB."""
    n = len(prompt)
    rows = torch.tensor([g.startswith(("question", "option")) for g in prompt.groups], device=device)
    keys = torch.tensor([g == "video" for g in prompt.groups], device=device)
    open_ = torch.ones(n, n, dtype=torch.bool, device=device).tril_()
    open_ &= ~(rows[:, None] & keys[None, :])
    return open_[None, None]


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

    def step(self, name: str, run, seconds: float) -> None:
        self.report.step(f"{self.name}, {name}", run, seconds)

    def plan(self, knockouts: list, layers: list[int] | None = None) -> tuple[avflow.SweepRequest, dict]:
        request = avflow.SweepRequest(knockouts, layers=layers, select="all")
        return request, avflow.estimate(self.model, self.prompt, request)

    def predicted(self, flops: float) -> float:
        """Seconds at the rate of the clean forward."""
        clean = self.result["clean_seconds"].values()
        clean_flops = self.plan(AFTER_MEDIA[:1], [0])[1]["clean_flops"]
        return flops * min(clean) / clean_flops if clean else flops / GUESSED_FLOPS

    def clean(self, backend: str) -> None:
        with sdpa_kernel(BACKENDS[backend]):
            seconds = self.clock.best(lambda: clean_forward(self.model, self.prompt), 3)
        self.result["clean_seconds"][backend] = seconds
        self.result["clean_peak_bytes"][backend] = self.clock.peak_bytes
        print(f"    clean forward, sdpa {backend}: {seconds:.3f} s")

    def sweep(self, name: str, knockouts: list, repeats: int, layers: list[int] | None = None) -> None:
        """layers: centres of the windows; None for all. The first repeat warms up, unless it is the only one."""
        request, plan = self.plan(knockouts, layers)
        rows: list = []
        seconds, peaks = [], []
        for _ in range(repeats):
            seconds.append(self.clock(lambda: rows.append(avflow.sweep_prompt(self.model, self.prompt, request))))
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
        mask = dense_mask(self.prompt, self.model.device)
        with sdpa_kernel(BACKENDS[backend]):
            each = self.clock.best(
                lambda: clean_forward(self.model, self.prompt, {"full_attention": mask}), DENSE_TIMED - 1
            )
        self.result.setdefault("dense_mask_seconds_each", {})[backend] = each
        self.result.setdefault("dense_mask_peak_bytes", {})[backend] = self.clock.peak_bytes
        self.result["dense_mask_runs_timed"] = DENSE_TIMED
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
        for backend in peers(self.report.device):
            self.step(f"clean, {backend}", lambda backend=backend: self.clean(backend), 4 * one)
        after = self.predicted(self.plan(AFTER_MEDIA)[1]["flops"])
        self.step("after_media", lambda: self.sweep("after_media", AFTER_MEDIA, 3), 4 * after)
        self.in_media()
        for backend in ("efficient", "cuDNN", "math") if self.report.device == "cuda" else ("math",):
            if backend == "math" and not self.math_fits():
                self.report.skip(f"{self.name}, dense, math", "its [heads, N, N] scores do not fit the device's memory")
                continue
            # The math backend moves every score through memory several times.
            seconds = DENSE_TIMED * one * (15 if backend == "math" and self.report.device == "cuda" else 4)
            self.step(f"dense, {backend}", lambda backend=backend: self.dense(backend), seconds)


def main(device: str, shapes: list[str], lengths: list[int] | None, path: str | None, seconds: float) -> int:
    """0 where every step that ran was right."""
    if unknown := [shape for shape in shapes if shape not in SHAPES]:
        raise SystemExit(f"--shape {unknown[0]}: pass one of {', '.join(SHAPES)}, or LAYERSxHIDDENxTOKENS on the CPU")
    report = Report(device, path, seconds)
    report.data["ceilings"] = report.step("ceilings", lambda: ceilings(device))
    for index, shape in enumerate(shapes):
        report.share(len(shapes) - index)
        model = report.step(
            f"{shape}, model", lambda shape=shape: make_model(shape, device), 10 if device == "cuda" else 0
        )
        if model is None:
            continue
        for at, tokens in enumerate(lengths or LENGTHS):
            print(f"{shape}, {tokens} tokens")
            most = IN_MEDIA_SECONDS[min(at, 1)]
            report.step(
                f"{shape}, {tokens} tokens", lambda s=shape, n=tokens, m=model, t=most: Case(report, m, s, n, t).run()
            )
        del model
    return report.finish()
