"""Reads a torch profiler trace: where a device's time goes, how often it waits, and what makes the host wait for it."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

REGION = "avflow benchmark region"
# Kernel names (on the CPU: operators) to what they do; the first that matches counts.
KINDS = (
    ("attention, avflow", r"avflow::cuda::.*(attend|merge)|^avflow::attention"),
    ("gathers, avflow", r"avflow::cuda::|^avflow::"),
    ("attention, sdpa", r"flash|fmha|sdpa|scaled_dot_product|mha_fwd"),
    (
        "copies and indexing",
        r"memcpy|memset|copy|index|gather|scatter|catarray|cat_array|\bcat\b|fill|arange|repeat|clone",
    ),
    ("matrix products", r"gemm|gemv|nvjet|cutlass|cublas|xmma|splitk|wgmma|conv|\b(mm|addmm|bmm|matmul|linear)\b"),
    ("norms and elementwise", r"elementwise|reduce|norm|softmax|silu|gelu|sigmoid|reduction|aten::"),
)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaStreamWaitEvent")


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def traced(call: Callable[[], object], on_cuda: bool) -> list[dict[str, Any]]:
    """Events of one call, in the format of chrome traces (microseconds); the device's work is waited for."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_cuda else [])
    with profile(activities=activities) as prof, record_function(REGION):
        call()
        if on_cuda:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        prof.export_chrome_trace(str(path))
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]


def _outermost(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operators that no other calls: on the CPU they stand for kernels."""
    out: list[dict[str, Any]] = []
    for own in _by_thread(events).values():
        end = float("-inf")
        for event in sorted(own, key=lambda e: (e["ts"], -e["dur"])):
            if event["ts"] >= end:
                out.append(event)
                end = event["ts"] + event["dur"]
    return out


def _by_thread(events: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    threads: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        threads[event["tid"]].append(event)
    return threads


def _idle(work: list[dict[str, Any]], begin: float, end: float) -> tuple[float, list[tuple[float, str, str]]]:
    """Microseconds of begin .. end without work, and each gap with the work before and after it, longest first."""
    gaps, at, before = [], begin, "the beginning"
    for event in sorted(work, key=lambda e: e["ts"]):
        if event["ts"] > at:
            gaps.append((event["ts"] - at, before, event["name"]))
        if event["ts"] + event["dur"] > at:
            at, before = event["ts"] + event["dur"], event["name"]
    if end > at:
        gaps.append((end - at, before, "the end"))
    return sum(gap for gap, _, _ in gaps), sorted(gaps, reverse=True)


def summary(events: list[dict[str, Any]], on_cuda: bool) -> dict[str, Any]:
    """What one traced call did.

    Returns:
        wall_seconds: of the region, with the profiler's own cost. device_seconds: by kind. idle_seconds: of the region
        without device work, and idle_by_gap: the same by the length of the gap. longest_gaps. launches: kernels.
        top_kernels: by time. waits: calls of the runtime in which the host may wait, their number and seconds. copies:
        memory copies by direction, their number, bytes and seconds.
    """
    done = [e for e in events if e.get("ph") == "X"]
    region = next(e for e in done if e["name"] == REGION and e.get("cat") == "user_annotation")
    begin, end = region["ts"], region["ts"] + region["dur"]
    inside = [e for e in done if begin <= e["ts"] <= end]
    if on_cuda:
        work = [e for e in inside if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    else:
        work = _outermost([e for e in inside if e.get("cat") == "cpu_op"])
    kinds: dict[str, float] = defaultdict(float)
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in work:
        kinds[kind_of(event["name"])] += event["dur"] / 1e6
        entry = kernels[event["name"][:160]]
        entry[0] += 1
        entry[1] += event["dur"] / 1e6
    idle, gaps = _idle(work, begin, end)
    top = sorted(kernels.items(), key=lambda pair: -pair[1][1])[:20]
    return {
        "wall_seconds": region["dur"] / 1e6,
        "device_seconds": dict(sorted(kinds.items(), key=lambda pair: -pair[1])),
        "idle_seconds": idle / 1e6,
        "idle_by_gap": _by_length(gaps),
        "longest_gaps": [{"seconds": g / 1e6, "after": a[:160], "before": b[:160]} for g, a, b in gaps[:12]],
        "launches": sum(1 for e in work if e.get("cat") != "gpu_memcpy"),
        "top_kernels": [{"name": n, "kind": kind_of(n), "count": c, "seconds": s} for n, (c, s) in top],
        "waits": _waits(inside),
        "copies": _copies(work),
    }


def _by_length(gaps: list[tuple[float, str, str]]) -> dict[str, dict[str, float]]:
    bounds = (("under 10 us", 10), ("10 to 100 us", 100), ("100 us to 1 ms", 1000), ("over 1 ms", float("inf")))
    out = {name: {"count": 0, "seconds": 0.0} for name, _ in bounds}
    for gap, _, _ in gaps:
        entry = out[next(name for name, bound in bounds if gap < bound or bound == float("inf"))]
        entry["count"] += 1
        entry["seconds"] += gap / 1e6
    return out


def _waits(inside: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    calls = [e for e in inside if e.get("cat") in ("cuda_runtime", "cuda_driver") and e["name"].startswith(WAITS)]
    counts = Counter(e["name"] for e in calls)
    return {n: {"count": c, "seconds": sum(e["dur"] for e in calls if e["name"] == n) / 1e6} for n, c in counts.items()}


def _copies(work: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By the profiler's own words, such as "Memcpy DtoH (Device -> Pageable)"."""
    out: dict[str, dict[str, float]] = {}
    for event in work:
        if event.get("cat") == "gpu_memcpy":
            entry = out.setdefault(event["name"], {"count": 0, "bytes": 0, "seconds": 0.0})
            entry["count"] += 1
            entry["bytes"] += event.get("args", {}).get("bytes", 0)
            entry["seconds"] += event["dur"] / 1e6
    return out


def table(found: dict[str, Any]) -> str:
    wall, kinds = found["wall_seconds"], found["device_seconds"]
    lines = [f"    {s * 1e3:9.1f} ms {100 * s / wall:5.1f} %  {kind}" for kind, s in kinds.items()]
    lines.append(f"    {found['idle_seconds'] * 1e3:9.1f} ms {100 * found['idle_seconds'] / wall:5.1f} %  idle")
    lines.append(f"    {wall * 1e3:9.1f} ms          all, under the profiler; {found['launches']} launches")
    for name, entry in {**found["waits"], **found["copies"]}.items():
        lines.append(f"    {entry['seconds'] * 1e3:9.1f} ms          {entry['count']} x {name}")
    return "\n".join(lines)
