"""What a device is and what it reaches at best; the backends of torch's attention that serve as peers on it."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from avflow_ext import capabilities
from benchmarks.lib.timing import Clock

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
TIMED_TOGETHER = 10  # copies, or products, so that a launch hides behind the call before it


def gpu_facts() -> dict[str, Any]:
    """Of the current CUDA device; ends the program where avflow's kernels cannot run on it."""
    found = capabilities()["cuda"]
    if not found or found["path"] is None:
        sys.exit(f"no CUDA kernel to measure: {found['why'] if found else 'built without CUDA'}")
    device = torch.cuda.get_device_properties(0)
    return {"gpu": device.name, "sms": device.multi_processor_count, "cuda": torch.version.cuda}


def clean_backends(device: str) -> tuple[str, ...]:
    """Names, in BACKENDS, of those that a clean forward is timed with. device: "cpu" or "cuda"."""
    return ("flash", "cuDNN") if device == "cuda" else ("flash", "math")


def ceilings(device: str) -> dict[str, float]:
    """What this device reaches: bytes per second of a large copy (read and written), FLOP/s of a large bf16 product."""
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))  # [n, n]
    source = torch.empty(2**30 if device == "cuda" else 2**20, dtype=torch.uint8, device=device)
    target, clock = torch.empty_like(source), Clock(device)
    copy = clock.best(lambda: [target.copy_(source) for _ in range(TIMED_TOGETHER)], 3) / TIMED_TOGETHER
    product = clock.best(lambda: [a @ b for _ in range(TIMED_TOGETHER)], 3) / TIMED_TOGETHER
    return {"copy_bytes_per_second": 2 * source.numel() / copy, "matmul_flops_per_second": 2 * n**3 / product}
