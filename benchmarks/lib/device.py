"""What the end-to-end benchmarks share: decoders of Qwen2.5's sizes, a clock, and steps that a stop does not undo."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from timing import machine, write_json
from torch.nn.attention import SDPBackend

import avflow
from avflow.models.attention import kernel_name
from avflow.models.compat import declare_torchvision
from avflow_ext import capabilities

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


def gpu_facts() -> dict[str, Any]:
    """Of the current CUDA device; ends the program where avflow's kernels cannot run on it."""
    found = capabilities()["cuda"]
    if not found or found["path"] is None:
        sys.exit(f"no CUDA kernel to measure: {found['why'] if found else 'built without CUDA'}")
    device = torch.cuda.get_device_properties(0)
    return {"gpu": device.name, "sms": device.multi_processor_count, "cuda": torch.version.cuda}


def peers(device: str) -> tuple[str, ...]:
    """Backends of SDPA that a clean forward is timed with."""
    return ("flash", "cuDNN") if device == "cuda" else ("flash", "math")


def made_on(device: str, make: Callable[[], Any]) -> Any:
    """make() with weights in bf16 where they will lie: nothing larger is allocated on the way."""
    declare_torchvision()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return make()
    finally:
        torch.set_default_dtype(before)


def make_model(shape: str, device: str) -> avflow.Model:
    """A decoder of that shape with random weights."""
    declare_torchvision()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if shape not in SHAPES:
        raise SystemExit(f"--shape {shape}: pass one of {', '.join(SHAPES)}, or LAYERSxHIDDENxTOKENS on the CPU")
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
    return avflow.wrap(made_on(device, lambda: Qwen2ForCausalLM(config).eval()))


def shape_facts(shape: str, tokens: int) -> dict[str, Any]:
    layers, hidden, inner, heads, kv_heads, _ = SHAPES[shape]
    sizes = {"layers": layers, "hidden": hidden, "intermediate": inner, "heads": f"{heads}/{kv_heads}"}
    return {"name": shape, **sizes, "tokens": tokens}


class Clock:
    """Seconds of a call, with the device's work inside; and the most memory that it held."""

    def __init__(self, device: str) -> None:
        self.on_cuda = device == "cuda"
        self.peak_bytes = 0  # of the last call, everything that was allocated before it included; 0 on the CPU

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def __call__(self, call: Callable[[], object]) -> float:
        self.wait()
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        call()
        self.wait()
        seconds = time.perf_counter() - began
        if self.on_cuda:
            self.peak_bytes = torch.cuda.max_memory_allocated()
        return seconds

    def best(self, call: Callable[[], object], repeats: int) -> float:
        """After one call to warm up."""
        call()
        return min(self(call) for _ in range(repeats))


def ceilings(device: str) -> dict[str, float]:
    """What this device reaches: bytes a second of a large copy (read and written), bf16 FLOP/s of a large product."""
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2**30 if device == "cuda" else 2**20, dtype=torch.uint8, device=device)
    to, clock = torch.empty_like(big), Clock(device)

    def times(call: Callable[[], object], count: int = 10) -> float:
        return clock.best(lambda: [call() for _ in range(count)], 3) / count

    copy, product = times(lambda: to.copy_(big)), times(lambda: a @ b)
    return {"copy_bytes_per_second": 2 * big.numel() / copy, "matmul_flops_per_second": 2 * n**3 / product}


class Report:
    """A result file that grows: written after every step, so that a run that is stopped leaves what it has.

    seconds: for all steps. A step that would take longer than what is left of it is skipped, and the file says why.
    """

    def __init__(self, device: str, path: str | None, seconds: float) -> None:
        self.device, self.path, self.seconds = device, path, seconds
        self.last = self.end = time.monotonic() + seconds
        self.broken = ""  # why nothing can run any more
        gpu = gpu_facts() if device == "cuda" else {}
        self.data: dict[str, Any] = {"machine": {**machine(), **gpu}, "dtype": "bfloat16", "budget_seconds": seconds}
        self.data |= {"kernel": kernel_name(torch.device(device)), "date": time.strftime("%Y-%m-%d"), "results": []}
        self.data |= {"step_seconds": {}, "errors": {}, "skipped": {}}
        print(f"{self.data['machine']}, bf16, kernel {self.data['kernel']}")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def share(self, parts: int) -> None:
        """From here on, until the next call, there is one of `parts` equal parts of what is left of all."""
        now = time.monotonic()
        self.end = now + (self.last - now) / parts

    def save(self) -> None:
        write_json(self.path, self.data, quiet=True)

    def skip(self, name: str, reason: str) -> None:
        self.data["skipped"][name] = reason
        print(f"    {name}: skipped, {reason}")
        self.save()

    def step(self, name: str, run: Callable[[], Any], seconds: float | None = 0.0) -> Any:
        """Runs it, and gives what it returns; None where it fails or does not fit, which the file then tells.

        seconds: what it takes, as far as one can tell; None for what takes none, and is run in any case.
        """
        if self.broken:
            return self.skip(name, self.broken)
        if seconds is not None and (self.left < seconds or self.left <= 0):
            return self.skip(name, f"needs about {seconds:.0f} s, {max(0, self.left):.0f} s of {self.seconds:.0f} left")
        began = time.monotonic()
        try:
            return run()
        except Exception as error:  # a peer's missing kernel, a full device, a compiler that gives up
            self.data["errors"][name] = f"{type(error).__name__}: {str(error)[:500]}"
            print(f"    {name} failed: {self.data['errors'][name]}")
            return None
        finally:
            self.data["step_seconds"][name] = round(time.monotonic() - began, 3)
            self.save()
            self._clear(name)

    def _clear(self, name: str) -> None:
        """Frees what the step held. After a wrong access nothing runs on the device any more: the rest is skipped."""
        if self.device == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                self.broken = f"the device is lost since {name!r}: {str(error).splitlines()[0][:200]}"

    def finish(self) -> int:
        """0 where every step that ran was right."""
        write_json(self.path, self.data)
        return 1 if self.data["errors"] else 0
