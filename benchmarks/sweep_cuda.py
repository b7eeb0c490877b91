"""`python benchmarks/sweep.py --device cuda --shape 3b 7b`: all of av_video on decoders of Qwen2.5's sizes, in bf16.

Three sums for each shape and length, in one process: the knockouts whose targets come after the media, all of the
preset, and clean forwards of transformers with each backend of SDPA; then forwards with a dense mask, as other tools
run one per knockout and window. What fails leaves its error, and figures are written after each.
Tried on the CPU with the tiny shape; not run on any device so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from sweep import AFTER_MEDIA, IN_MEDIA, clean_forward, dense_mask, make_prompt
from timing import machine, write_json
from torch.nn.attention import SDPBackend, sdpa_kernel

import avflow
from avflow.attention import kernel_name
from avflow.compat import declare_torchvision

# layers, hidden, intermediate, heads, kv heads, vocabulary: the text decoders of Qwen2.5(-Omni), and one to try this on
SHAPES = {
    "3b": (36, 2048, 11008, 16, 2, 151936),
    "7b": (28, 3584, 18944, 28, 4, 151936),
    "tiny": (3, 128, 256, 2, 1, 512),
}
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
TOLERANCE = 0.1  # of the clean log-probability: two attentions that round to bf16 at other places, over all layers


def make_model(shape: str, device: str) -> avflow.Model:
    """Random weights, made in bf16 where they will lie: nothing larger is allocated on the way."""
    declare_torchvision()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    layers, hidden, inner, heads, kv_heads, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return avflow.wrap(Qwen2ForCausalLM(config).eval())
    finally:
        torch.set_default_dtype(before)


class Clock:
    """Seconds of a call, with the device's work inside."""

    def __init__(self, device: str) -> None:
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self, call: Callable[[], object]) -> float:
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def best(self, call: Callable[[], object], repeats: int) -> float:
        """After one call to warm up."""
        call()
        return min(self(call) for _ in range(repeats))


class Case:
    """One shape at one length; `result` grows step by step."""

    def __init__(self, model: avflow.Model, shape: str, tokens: int, clock: Clock, save: Callable[[], None]) -> None:
        self.model, self.clock, self.save = model, clock, save
        self.prompt = make_prompt(model, tokens)
        self.prompt.inputs_embeds = self.prompt.inputs_embeds.to(model.device, model.dtype)
        layers, hidden, inner, heads, kv_heads, _ = SHAPES[shape]
        sizes = {"layers": layers, "hidden": hidden, "intermediate": inner, "heads": f"{heads}/{kv_heads}"}
        self.result = {"shape": {"name": shape, **sizes, "tokens": tokens}, "clean_seconds": {}, "errors": {}}

    def step(self, name: str, run: Callable[[], None]) -> None:
        """Runs it; what fails is told, and the next step runs."""
        try:
            run()
        except Exception as error:  # a peer's missing kernel, a full device
            self.result["errors"][name] = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"    {name} failed: {self.result['errors'][name]}")
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.save()

    def clean(self, backend: str) -> None:
        with sdpa_kernel(BACKENDS[backend]):
            seconds = self.clock.best(lambda: clean_forward(self.model, self.prompt), 3)
        self.result["clean_seconds"][backend] = seconds
        print(f"    clean forward, sdpa {backend}: {seconds:.3f} s")

    def sweep(self, name: str, knockouts: list, repeats: int) -> None:
        request = avflow.SweepRequest(knockouts, select="all")
        plan = avflow.estimate(self.model, self.prompt, request)
        rows: list = []
        seconds = []
        for _ in range(repeats):
            seconds.append(self.clock(lambda: rows.append(avflow.sweep_prompt(self.model, self.prompt, request))))
        theirs = float(torch.log_softmax(clean_forward(self.model, self.prompt).float(), -1)[self.prompt.answer_ids[0]])
        ours = rows[0].rows[0]["logp_clean"]
        if not abs(ours - theirs) < TOLERANCE:
            raise AssertionError(f"log-probability of the clean run: {ours} here, {theirs} in transformers")
        clean = min(self.result["clean_seconds"].values())
        ratio = min(seconds) / clean
        self.result[name] = {
            "knockouts": len(knockouts),
            "runs": len(knockouts) * self.model.n_layers,
            "walks": plan["walks"],
            "seconds": min(seconds),
            "packed_row_ratio": plan["ratio"],
            "flop_ratio": plan["flops"] / plan["clean_flops"],
            "over_best_clean": ratio,
            "over_packed_rows": ratio / plan["ratio"],
            "clean_logp_difference": abs(ours - theirs),
        }
        print(
            f"    sweep, {name}: {min(seconds):.2f} s in {plan['walks']} walks, {ratio:.2f} x the best clean forward, "
            f"packed rows {plan['ratio']:.2f} x, quotient {ratio / plan['ratio']:.2f}"
        )

    def dense(self, backend: str) -> None:
        mask = dense_mask(self.model, self.prompt).to(self.model.device)
        with sdpa_kernel(BACKENDS[backend]):
            each = self.clock.best(lambda: clean_forward(self.model, self.prompt, {"full_attention": mask}), 1)
        self.result.setdefault("dense_mask_seconds_each", {})[backend] = each
        for name in ("after_media", "av_video"):
            if name in self.result:
                times = each * self.result[name]["runs"] / self.result[name]["seconds"]
                self.result[name].setdefault("dense_masks_over_sweep", {})[backend] = times
        print(f"    a forward with a dense mask, sdpa {backend}: {each:.3f} s")

    def run(self) -> None:
        on_cuda = self.model.device.type == "cuda"
        for backend in ("flash", "cuDNN") if on_cuda else ("flash", "math"):
            self.step(f"clean, {backend}", lambda backend=backend: self.clean(backend))
        self.step("after_media", lambda: self.sweep("after_media", AFTER_MEDIA, 3))
        self.step("av_video", lambda: self.sweep("av_video", [*AFTER_MEDIA, *IN_MEDIA], 1))
        for backend in ("efficient", "cuDNN", "math") if on_cuda else ("math",):
            self.step(f"dense, {backend}", lambda backend=backend: self.dense(backend))


def main(device: str, shapes: list[str], lengths: list[int], path: str | None) -> int:
    """0 where every step of every case ran."""
    if unknown := [shape for shape in shapes if shape not in SHAPES]:
        raise SystemExit(f"--shape {unknown[0]}: pass one of {', '.join(SHAPES)}, or LAYERSxHIDDENxTOKENS on the CPU")
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {}
    report = {"machine": {**machine(), **gpu}, "dtype": "bfloat16", "results": []}
    report["kernel"] = kernel_name(torch.device(device))
    print(f"{report['machine']}, bf16, kernel {report['kernel']}")
    for shape in shapes:
        model = make_model(shape, device)
        for tokens in lengths:
            print(f"{shape}, {tokens} tokens")
            case = Case(model, shape, tokens, Clock(device), lambda: write_json(path, report, quiet=True))
            report["results"].append(case.result)
            case.run()
        del model, case
    write_json(path, report)
    return 1 if any(result["errors"] for result in report["results"]) else 0
