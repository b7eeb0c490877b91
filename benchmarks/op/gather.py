"""The gathers of the eviction boundary against plain torch: index_select, then RMSNorm; index_select of a cache.

    python benchmarks op/gather [--device cpu|cuda] [--tokens 16384] [--kept 0.1 0.5] [--json FILE]

Claim: one pass over the rows that stay, near the bandwidth of memory. Rows of the residual and one layer's keys at
Qwen2.5-3B and 7B shapes; fp32 on the CPU, bf16 on CUDA. Every line is a ratio of best times taken in turns in this
process, with the bandwidth of what must be read and written once.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from avflow_ext import capabilities, compact, compact_reference, gather_rms_norm, gather_rms_norm_reference
from benchmarks.lib.report import machine, write_json
from benchmarks.lib.timing import side_by_side

SHAPES = {"3B": (2048, 2, 128), "7B": (3584, 4, 128)}  # hidden, kv heads, d of Qwen2.5
EPS = 1e-6


def select_and_norm(x: torch.Tensor, weight: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers would do: Qwen2RMSNorm, operation by operation."""
    kept = x.index_select(0, keep)
    x32 = kept.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)
    return kept, weight * x32.to(kept.dtype)


def select_and_fused_norm(
    x: torch.Tensor, weight: torch.Tensor, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with torch's own norm."""
    kept = x.index_select(0, keep)
    return kept, torch.nn.functional.rms_norm(kept, (x.shape[1],), weight, EPS)


@torch.inference_mode()
def measure(device: str, size: str, tokens: int, share: float, seconds: float) -> dict[str, Any]:
    """size: of SHAPES; share: of the tokens that stay; seconds: for each comparison."""
    hidden, kv_heads, d = SHAPES[size]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    g = torch.Generator().manual_seed(0)
    keep = (torch.rand(tokens, generator=g) < share).nonzero().flatten().to(device)
    keep32, lines = keep.int(), keep.int()[None]
    x = torch.randn(tokens, hidden, generator=g).to(device, dtype)
    weight = torch.randn(hidden, generator=g).to(device, dtype)
    cache = torch.randn(1, kv_heads, tokens, d, generator=g).to(device, dtype)

    kept, normed = gather_rms_norm(x, weight, EPS, keep32)
    expected = gather_rms_norm_reference(x, weight, EPS, keep32)
    assert torch.equal(kept, expected[0])
    assert (normed - expected[1]).float().abs().max() <= 4 * torch.finfo(dtype).eps * expected[1].abs().max()
    assert torch.equal(compact(cache, lines), compact_reference(cache, lines))

    results = {}
    cases = {
        "gather_rms_norm": (
            {
                "avflow": lambda: gather_rms_norm(x, weight, EPS, keep32),
                "index_select, RMSNorm in steps": lambda: select_and_norm(x, weight, keep),
                "index_select, F.rms_norm": lambda: select_and_fused_norm(x, weight, keep),
            },
            3 * kept.numel() * dtype.itemsize,
        ),
        "compact": (
            {
                "avflow": lambda: compact(cache, lines),
                "index_select": lambda: cache.index_select(2, keep),
            },
            2 * kv_heads * len(keep) * d * dtype.itemsize,
        ),
    }
    for op, (candidates, moved) in cases.items():
        times = side_by_side(candidates, seconds)
        peer = min((t for name, t in times.items() if name != "avflow"), default=float("nan"))
        results[op] = {
            "seconds": times,
            "over_best_peer": times["avflow"] / peer,
            "gigabytes_per_second": moved / times["avflow"] / 1e9,
        }
        print(f"{size}, {tokens} tokens, {len(keep)} kept, {op}: {results[op]['gigabytes_per_second']:.0f} GB/s")
        for name, seconds_each in times.items():
            print(f"    {seconds_each * 1e6:10.1f} us  {times['avflow'] / seconds_each:6.2f} x  {name}")
    return {"size": size, "tokens": tokens, "kept": len(keep), "dtype": str(dtype), "ops": results}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--kept", type=float, nargs="+", default=(0.1, 0.5), help="shares of the tokens that stay")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each comparison")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(arguments)
    ops = capabilities()["ops"]
    paths = {op: ops[op][args.device] for op in ("gather_rms_norm", "compact")}
    if None in paths.values():
        sys.exit(f"no kernel to measure on {args.device}: {paths}")
    where = {**machine(), "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None}
    print(f"{where}, {paths}")
    results = [measure(args.device, size, args.tokens, share, args.seconds) for size in SHAPES for share in args.kept]
    write_json(args.json, {"machine": where, "paths": paths, "results": results})
