"""A layer's passes between its matrix products against plain torch: add and RMS norm, rotary embedding, SiLU times up.

    python benchmarks op/passes [--device cpu|cuda] [--tokens 8192] [--dtype bfloat16] [--json FILE]
    python benchmarks op/passes --sweep

Claim: each is one pass over memory, and its result has the rounding of transformers' own operations. At the shapes of
Qwen2.5-3B and 7B. On CUDA best times in turns, with the bandwidth of what must be read and written once, beside
liger-kernel and flashinfer where these are installed; on the CPU least CPU time in turns, on one thread. --sweep: a
whole sweep on the CPU, with the passes and with plain torch, of a decoder of three layers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch

import avflow
import avflow_ext
from avflow.models import fused
from avflow_ext import capabilities
from benchmarks.lib.decoders import make_sized
from benchmarks.lib.prompts import AFTER_MEDIA, make_prompt
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import best_times, least_cpu_seconds

TOWER = (16, 80)  # heads and d of Qwen2.5-Omni's vision tower
SHAPES = {"3B": (2048, 16, 2, 128, 11008), "7B": (3584, 28, 4, 128, 18944)}  # width, heads, kv heads, d, MLP
EPS = 1e-6
# The last is the vision towers': by tables in float32, rounded once.
OPS = {"rms_norm": "rms_norm", "add_rms_norm": "add_rms_norm", "rotary": "rotary", "silu_mul": "silu_mul"}
OPS |= {"rotary, a tower's": "rotary"}
Peers = dict[str, Callable[..., Any]]


def torch_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's own norm, which rounds once where transformers rounds twice."""
    total = residual + x
    return total, torch.nn.functional.rms_norm(total, (x.shape[1],), weight, EPS)


def installed_peers() -> dict[str, Peers]:
    """By op: kernels of liger-kernel and flashinfer, as far as they can be imported. Some work in place."""
    found: dict[str, Peers] = {op: {} for op in OPS}
    try:
        from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        found["rms_norm"]["liger"] = lambda x, weight, eps: LigerRMSNormFunction.apply(x, weight, eps)
        found["add_rms_norm"]["liger"] = lambda *given: LigerFusedAddRMSNormFunction.apply(*given)
        found["silu_mul"]["liger"] = lambda gate, up: LigerSiLUMulFunction.apply(gate, up)
    except ImportError as error:
        print(f"liger-kernel is not compared: {error}")
    try:
        import flashinfer

        found["rms_norm"]["flashinfer"] = flashinfer.rmsnorm
        found["add_rms_norm"]["flashinfer"] = flashinfer.fused_add_rmsnorm  # in place
    except (ImportError, AttributeError) as error:
        print(f"flashinfer is not compared: {error}")
    return found


def parts_of_one(random: Callable[..., torch.Tensor], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tower's q and k [rows, heads, d]: two thirds of one projection."""
    both = random(rows, 3, *TOWER)
    return both[:, 0], both[:, 1]


def inputs(
    size: str, tokens: int, device: str, dtype: torch.dtype
) -> tuple[dict[str, tuple[Any, ...]], dict[str, int]]:
    """Arguments of every op, and the numbers that it must read and write once."""
    width, heads, kv_heads, d, inner = SHAPES[size]
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(device, dtype)

    x, residual, weight = random(tokens, width), random(tokens, width), random(width)
    tables = random(tokens, d).cos(), random(tokens, d).sin()
    given = {
        "rms_norm": (x, weight, EPS),
        "add_rms_norm": (x, residual, weight, EPS),
        "rotary": (random(tokens, heads, d), random(tokens, kv_heads, d), *tables),
        "silu_mul": (random(tokens, inner), random(tokens, inner)),
        "rotary, a tower's": (*parts_of_one(random, tokens), *(2 * [random(tokens, TOWER[1]).float()])),
    }
    numbers = {"rms_norm": 2 * width, "add_rms_norm": 4 * width}
    numbers |= {"rotary": 2 * (heads + kv_heads + 1) * d, "silu_mul": 3 * inner}
    numbers |= {"rotary, a tower's": 4 * TOWER[0] * TOWER[1] + 4 * TOWER[1] * 2 // dtype.itemsize}
    return given, {op: count * tokens for op, count in numbers.items()}


@torch.inference_mode()
def measure(device: str, size: str, tokens: int, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """seconds: for each op on a device; on the CPU seven turns."""
    given, numbers = inputs(size, tokens, device, dtype)
    peers = installed_peers() if device == "cuda" else {op: {} for op in OPS}
    peers["add_rms_norm"]["add, F.rms_norm"] = lambda x, residual, weight, eps: torch_norm(x, residual, weight)
    results = {}
    for op, name in OPS.items():
        ours, steps = getattr(avflow_ext, name), getattr(avflow_ext, f"{name}_reference")
        check(ours(*given[op]), steps(*given[op]))
        candidates = {"avflow": ours, "transformers' steps": steps} | peers[op]
        calls = {name: lambda run=run, op=op: run(*given[op]) for name, run in candidates.items()}
        errors: dict[str, str] = {}
        if device == "cuda":
            times, errors = best_times(calls, seconds)
        else:
            times = least_cpu_seconds(calls, 7)
        moved = numbers[op] * dtype.itemsize / times["avflow"] / 1e9
        results[op] = {"seconds": times, "errors": errors, "gigabytes_per_second": moved}
        print(f"{size}, {tokens} tokens, {dtype}, {op}: {moved:.1f} GB/s")
        for name, each in times.items():
            print(f"    {each * 1e6:10.1f} us  {each / times['avflow']:6.2f} x  {name}")
    return {"size": size, "tokens": tokens, "dtype": str(dtype), "ops": results}


def sweeps(dtype: torch.dtype) -> dict[str, float]:
    """CPU seconds of a sweep with the layers as they are, and with their passes by the kernels."""
    made = make_sized(layers=3, hidden=2048)
    model = avflow.wrap(made.hf.to(dtype))
    prompt = make_prompt(model, 1000)

    def run(dtypes: tuple[torch.dtype, ...]) -> None:
        fused.DTYPES = dtypes
        avflow.sweep(model, prompt, AFTER_MEDIA, window=1, select="all", check="off")

    times = least_cpu_seconds({"plain torch": lambda: run(()), "passes": lambda: run((dtype,))}, 3)
    share = times["passes"] / times["plain torch"]
    print(f"sweep of 3 layers of width 2048, 1000 tokens, {dtype}: {share:.3f} x, {times}")
    return times


def check(ours: Any, steps: Any) -> None:
    """The results are those of the steps, but for a rounding here and there."""
    for a, b in zip(*(one if isinstance(one, tuple) else (one,) for one in (ours, steps)), strict=True):
        assert ((a - b).float().abs() <= 8 * torch.finfo(a.dtype).eps * b.float().abs() + 1e-6).all()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, help="default: 8192 on CUDA, 1024 on the CPU")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each op on CUDA")
    parser.add_argument("--sweep", action="store_true", help="measure a sweep on the CPU, and nothing else")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(arguments)
    if args.sweep:
        torch.set_num_threads(1)
        found = {str(dtype): sweeps(dtype) for dtype in (torch.bfloat16, torch.float32)}
        write_json(args.json, {"machine": machine(), "sweeps": found})
        return
    paths = {op: capabilities()["ops"][op][args.device] for op in OPS.values()}
    if None in paths.values():
        sys.exit(f"no kernel to measure on {args.device}: {paths}")
    if args.device == "cpu":
        torch.set_num_threads(1)
    where = {**machine(), "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None}
    print(f"{where}, {paths}")
    tokens = args.tokens or (8192 if args.device == "cuda" else 1024)
    dtype = getattr(torch, args.dtype)
    results = [measure(args.device, size, tokens, dtype, args.seconds) for size in SHAPES]
    write_json(args.json, {"machine": where, "paths": paths, "results": results})
