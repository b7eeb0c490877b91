"""Writes the tables measured on a CPU into README.md and the pages of docs/, from the JSON files of one results folder.

    python benchmarks pages/cpu benchmarks/results/cpu-epyc-2core

The folder holds some of attention, attention-avx2, sweep, sweep-media, bf16, calls, patch, check, memory and
evict .json, as cpu/ and op/calls write them; the tables of those are written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.lib.marks import markdown_table, put

ROOT = Path(__file__).resolve().parents[2]
# Files of a folder, without .json; benchmarks/cpu.sh makes them all.
TABLES = {"attention", "attention-avx2", "bf16", "calls", "memory", "sweep", "sweep-media", "patch", "check", "evict"}


def attention_table(data: dict[str, Any]) -> str:
    rows = []
    for name, case in data["cases"].items():
        note = f" x {case['factor']:.2f} (its share of the work)" if case["factor"] != 1 else ""
        ms = case["seconds"]["avflow"] * 1e3
        rows.append([name, f"{ms:.1f} ms", f"{case['ratio']:.2f}", f"{case['peer']}{note}", case["goal"]])
    return markdown_table(["case", "time", "ratio", "peer in the same run", "goal"], rows)


def sweep_table(*files: dict[str, Any]) -> str:
    head = ["layers x hidden, tokens", "knocked-out runs", "packed rows", "sweep / clean forward", "goal"]
    rows = []
    for r in (r for data in files for r in data["results"]):
        shape, packed = r["shape"], r["packed_row_ratio"]
        name = f"{shape['layers']} x {shape['hidden']}, {shape['tokens']}"
        figures = [f"{packed:.2f}", f"**{r['sweep_over_clean']:.2f}**", f"{1.25 * packed:.2f}"]
        rows.append([name, str(r["knocked_out_runs"]), *figures, f"{r['dense_mask_over_sweep']:.0f}"])
    return markdown_table([*head, "dense masks / sweep"], rows)


def patch_table(data: dict[str, Any]) -> str:
    head = ["layers x hidden, tokens", "cells", "states of", "packed rows", "patch / clean forward", "hooks / patch"]
    rows = []
    for r in data["results"]:
        shape = r["shape"]
        name = f"{shape['layers']} x {shape['hidden']}, {shape['tokens']}"
        for source, t in r["traces"].items():
            figures = [f"{t['packed_row_ratio']:.2f}", f"**{t['over_clean']:.2f}**", f"{t['hooks_over_patch']:.0f}"]
            rows.append([name, str(r["cells"]), source, *figures])
    return markdown_table(head, rows)


def memory_table(data: dict[str, Any]) -> str:
    rows = []
    for r in data["results"]:
        sizes = (r["peak_mib"], r["peak_mib"] - r["before_mib"], r["tokens"] ** 2 / 2**18)
        rows.append([f"{r['tokens']:,}", *(f"{size:.0f} MiB" for size in sizes)])
    return markdown_table(["tokens", "peak", "of it the sweep", "one N x N fp32 matrix"], rows)


def evict_table(data: dict[str, Any]) -> str:
    head = ["media leave", "FLOPs saved", "prefill saved", "of ideal", "against sdpa", "dense mask / evict"]
    head += ["indexing / evict", "decode step, keep / drop", "KV bytes, keep / drop"]
    rows = []
    for r in data["results"]:
        saved = [f"{100 * r['flops_saved']:.1f} %", f"**{100 * r['saved_of_no_schedule']:.1f} %**"]
        saved += [f"{100 * r['share_of_ideal']:.0f} %", f"{100 * r['saved_of_plain']:.1f} %"]
        over = [f"{r[f'{who}_over_evict']:.2f}" for who in ("dense_mask", "indexing")]
        parts = [
            f"{values['keep'] / values['plain']:.2f} / {values['drop'] / values['plain']:.2f}"
            for values in (r["decode_step_seconds"], r["kv_bytes"])
        ]
        rows.append([r["schedule"].removeprefix("media "), *saved, *over, *parts])
    return markdown_table(head, rows)


def check_table(data: dict[str, Any]) -> str:
    head = ["layers x hidden, tokens", "run", "compared before / not compared", "compared now: more clean forwards"]
    rows = []
    for r in data["results"]:
        shape = r["shape"]
        name = f"{shape['layers']} x {shape['hidden']}, {shape['tokens']}"
        for run in ("sweep", "block"):
            one = r[run]
            rows.append([name, run, f"**{one['held_over_off']:.2f}**", f"{one['first_more_in_forwards']:.1f}"])
    return markdown_table(head, rows) + f"\n\n{machine_line(data)}"


def bf16_table(data: dict[str, Any]) -> str:
    """Of the path in use in bfloat16, and of avx512 in float32, of which all that run there are multiples."""
    path, cases = data["path"], data["cases"]
    runs = {who for case in cases.values() for who in case["seconds"]}
    others = [name for name in ("avx512_bf16", "avx512", "avx2") if name != path and f"{name} bf16" in runs]
    rows = []
    for name, case in cases.items():
        seconds = case["seconds"]
        base = seconds["avx512 fp32"]
        ms = [f"{seconds[who] * 1e3:.1f} ms" for who in ("avx512 fp32", f"{path} bf16")]
        peers = [*(f"{other} bf16" for other in others), "sdpa fp32", "sdpa bf16"]
        ratios = [f"{base / seconds[who]:.2f}" if who in seconds else "" for who in peers]
        rows.append([name, *ms, f"**{base / seconds[f'{path} bf16']:.2f}**", *ratios])
    head = ["case", "fp32", f"bf16, {path}", path, *others, "sdpa fp32", "sdpa bf16"]
    line = machine_line(data).replace(", fp32.", ".")
    return markdown_table(head, rows) + f"\n\n{line}"


def calls_table(data: dict[str, Any]) -> str:
    """Microseconds: an op by its function, by its operator, and what torch has in its place."""
    us = {name: f"{1e6 * each:.1f} us" for name, each in data["seconds"].items()}
    ops = [name for name in us if f"{name}, the operator" in us]
    torchs = {"attention": "attention, torch's sdpa", "rms_norm": "rms_norm, torch's own"}
    rows = [[op, us[op], us[f"{op}, the operator"], us.get(torchs.get(op, ""), "")] for op in ops]
    rows.append(["a problem of one row, packed", us["a problem, packed"], "", ""])
    line = machine_line(data).replace(", fp32.", ".")
    return markdown_table(["", "the function", "torch.ops.avflow", "torch's"], rows) + f"\n\n{line}"


def machine_line(data: dict[str, Any]) -> str:
    m = data["machine"]
    return f"{m['processor']}, {m['cores']} cores, {m['threads']} threads, torch {m['torch']}, fp32."


def told(table: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    """The table with its machine below: those of one page come from several."""
    return lambda data: f"{table(data)}\n\n{machine_line(data)}"


def write_pages(folder: Path, root: Path) -> None:
    """Writes the tables of the folder's results into the pages below `root`."""

    page = root / "docs" / "performance.md"
    tables: list[tuple[str, Path, str, Callable[[dict[str, Any]], str]]] = [
        ("attention", page, "attention", told(attention_table)),
        ("attention-avx2", page, "attention-avx2", told(attention_table)),
        ("sweep", page, "sweep", told(sweep_table)),
        ("sweep-media", page, "sweep-media", told(sweep_table)),
        ("bf16", page, "bf16", bf16_table),
        ("calls", page, "calls", calls_table),
        ("check", page, "check", check_table),
        ("patch", page, "patch", patch_table),
        ("memory", page, "memory", told(memory_table)),
        ("evict", root / "docs" / "eviction.md", "evict", evict_table),
        ("sweep", root / "README.md", "sweep", sweep_table),
    ]
    for name, where, mark, table in tables:
        file = folder / f"{name}.json"
        if file.exists():
            data = json.loads(file.read_text(encoding="utf-8"))
            if name == "bf16":  # a table for each way of multiplying it
                mark = f"bf16-{data['path']}"
            put(where, mark, table(data))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    write_pages(folder, ROOT)
    print(f"tables of {folder} written to README.md and docs/")
