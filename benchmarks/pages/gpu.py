"""Writes the tables measured on a GPU into README.md and the pages of docs/, from the JSON files of one results folder.

    python benchmarks pages/gpu benchmarks/results/h200

The folder holds what gpu.sh left there: attention, sweep, evict, decode, towers and profile .json, or some of them. A
table gets its place, at the end of docs/performance.md and behind the CPU's in README.md, once there is one.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.lib.marks import markdown_table, place, put

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def _name(result: dict[str, Any]) -> str:
    return f"{result['shape']['name'].upper()}, {result['shape']['tokens']:,}"


def _pair(values: dict[str, float], form: str = "{:.2f}") -> str:
    return " / ".join(form.format(value) for value in values.values()) or "-"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _seconds(values: dict[str, float]) -> str:
    return " / ".join(_ms(value) for value in values.values()) or "-"


def machine_line(data: dict[str, Any]) -> str:
    m = data["machine"]
    kernel = data.get("kernel", data.get("path"))
    text = f"{m['gpu']}, CUDA {m['cuda']}, torch {m['torch']}, {data['dtype']}, kernel {kernel}"
    text += f", {data['date']}" if "date" in data else ""
    if data.get("ceilings"):
        copy, product = data["ceilings"]["copy_bytes_per_second"], data["ceilings"]["matmul_flops_per_second"]
        text += (
            f". In the same run a large copy moves {copy / 1e12:.2f} TB/s (read and written), and a bf16 product of "
            f"8192 x 8192 matrices runs at {product / 1e12:.0f} TFLOP/s"
        )
    return text + "."


def left_out(data: dict[str, Any]) -> str:
    """What failed and what was skipped, as the file has it; "" where all is there."""
    lines = [f"- failed: {name}: {text.splitlines()[0][:200]}" for name, text in data.get("errors", {}).items()]
    late: dict[str, list[str]] = {}  # what the run had no time for, by model and length
    for name, text in data.get("skipped", {}).items():
        if text.startswith("needs about"):
            *case, step = re.split(r", (?!.*tokens)", name, maxsplit=1)
            late.setdefault(", ".join(case), []).append(step)
        else:
            lines.append(f"- skipped: {name}: {text}")
    lines += [f"- no time left for {case}: {'; '.join(steps)}" for case, steps in late.items()]
    note = f"\n\n{data['note']}" if "note" in data else ""
    return note + ("\n\nNot in the tables:\n" + "\n".join(lines) if lines else "")


def attention_table(data: dict[str, Any]) -> str:
    rows = []
    for name, case in data["cases"].items():
        ours = case["seconds"].get("avflow")
        others = [f"{ours / s:.2f} x {who}" for who, s in case["seconds"].items() if who != "avflow" and ours]
        others += [f"{who}: failed" for who in case["errors"]]
        rate = f"{case['tflops']:.0f}" if "tflops" in case else "-"
        time = "-" if ours is None else f"{ours * 1e6:,.0f} us"
        rows.append([name, time, rate, "; ".join(others), case["goal"]])
    return markdown_table(["case", "time", "TFLOP/s", "time against others in the same run", "goal"], rows)


def _sweeps(data: dict[str, Any], part: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(r, r[part]) for r in data["results"] if part in r]


def _dense(found: dict[str, Any]) -> str:
    """Against the fastest backend of the peer."""
    times = found.get("dense_masks_over_sweep")
    if not times:
        return "-"
    backend = min(times, key=times.get)
    return f"{times[backend]:.0f} ({backend})"


def _peak(found: dict[str, Any]) -> str:
    return f"{found['peak_bytes'] / GIB:.1f} GiB"


def sweep_table(data: dict[str, Any]) -> str:
    """Knockouts whose targets come after the media."""
    head = ["model, tokens", "clean forward, sdpa " + " / ".join(_backends(data)), "runs", "packed rows", "sweep"]
    head += ["sweep / clean forward", "dense masks / sweep", "peak memory"]
    rows = []
    for r, s in _sweeps(data, "after_media"):
        row = [
            _name(r),
            _seconds(r["clean_seconds"]),
            str(s["runs"]),
            f"{s['packed_row_ratio']:.2f}",
            _ms(s["seconds"]),
        ]
        rows.append([*row, f"**{_pair(s['over_clean'])}**", _dense(s), _peak(s)])
    return markdown_table(head, rows)


def _backends(data: dict[str, Any]) -> list[str]:
    return list(next((r["clean_seconds"] for r in data["results"] if r["clean_seconds"]), {}))


def sweep_media_table(data: dict[str, Any]) -> str:
    """Knockouts whose targets lie in the media."""
    head = ["model, tokens", "windows around", "runs", "sweep", "forwards a run, sdpa " + " / ".join(_backends(data))]
    head += ["dense masks / sweep", "peak memory"]
    rows = []
    for r, s in _sweeps(data, "in_media"):
        where = "all layers" if s["layers"] == "all" else f"{len(s['layers'])} of {r['shape']['layers']} layers"
        row = [_name(r), where, str(s["runs"]), _ms(s["seconds"]), f"**{_pair(s['forwards_a_run'])}**"]
        rows.append([*row, _dense(s), _peak(s)])
    return markdown_table(head, rows)


def evict_table(data: dict[str, Any]) -> str:
    head = [
        "model, tokens",
        "schedule",
        "FLOPs saved",
        "sdpa, best backend",
        "nothing leaves",
        "evict",
        "prefill saved",
    ]
    head += ["of ideal", "saved against sdpa", "indexing / evict", "KV bytes, keep / drop", "peak memory"]
    rows = []
    for r in data["results"]:
        best, kv = r["prefill_seconds"], r["kv_bytes"]
        plain = min((label for label in best if label.startswith("plain")), key=best.get, default=None)
        for name, s in r["schedules"].items():
            label = f"evict, {name}"
            row = [
                _name(r),
                name,
                f"{100 * s['flops_saved']:.1f} %",
                _ms(best.get(plain)),
                _ms(best.get("no schedule")),
            ]
            row += [_ms(best[label])]
            saved, ideal = s["saved_of"], s["share_of_ideal"]
            row += [f"**{100 * saved['no schedule']:.1f} %**" if "no schedule" in saved else "-"]
            row += [f"{100 * ideal['no schedule']:.0f} %" if "no schedule" in ideal else "-"]
            row += [f"{100 * saved[plain]:.1f} %" if plain in saved else "-"]
            row += [f"{s['indexing_over_evict']:.2f}" if "indexing_over_evict" in s else "-"]
            whole = next((size for who, size in kv.items() if who.startswith("plain")), None)
            parts = [kv.get(label), kv.get(f"drop, {name}")]
            row += [" / ".join("-" if p is None or not whole else f"{p / whole:.3f}" for p in parts)]
            rows.append([*row, f"{r['peak_bytes'].get(label, 0) / GIB:.1f} GiB"])
    return markdown_table(head, rows)


DECODERS = ("plain, eager", "keep, eager", "drop, eager", "plain, graph", "keep, graph")


def decode_table(data: dict[str, Any]) -> str:
    rows = []
    for r in data["results"]:
        for found in r.get("decode", {}).get("batches", []):
            rates = [found["tokens_per_second"].get(who) for who in DECODERS]
            cells = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
            kv = [found["kv_bytes"].get(who) for who in ("plain", "keep", "drop")]
            held = " / ".join("-" if size is None else f"{size / GIB:.2f}" for size in kv)
            rows.append([_name(r), str(found["batch"]), *cells, held])
    return markdown_table(["model, tokens", "batch", *DECODERS, "KV in GiB, plain / keep / drop"], rows)


def towers_table(data: dict[str, Any]) -> str:
    """One clip through each tower."""
    rows = []
    for name in ("vision", "audio"):
        found, best = data[name], data[name]["seconds"]
        row = [name, *(_ms(best.get(who)) for who in ("transformers", "avflow, MLP as it is", "avflow"))]
        launches = " / ".join(f"{found[who]['launches']:,}" for who in ("transformers", "avflow"))
        rows.append([*row, f"**{best['transformers'] / best['avflow']:.2f}**", launches])
    head = ["tower", "transformers", "avflow, MLP as it is", "avflow", "transformers / avflow", "launches"]
    return markdown_table(head, rows)


def towers_line(data: dict[str, Any]) -> str:
    m = data["machine"]
    return f"{m['gpu']}, torch {m['torch']}; {data['layers']} layers, {data['video_seconds']} s of video and sound."


def profile_table(data: dict[str, Any]) -> str:
    done = [r for r in data["results"] if "profile" in r]
    kinds = list(dict.fromkeys(kind for r in done for kind in r["profile"]["device_seconds"]))
    rows = []
    for r in done:
        p = r["profile"]
        shares = [f"{100 * p['device_seconds'].get(kind, 0) / p['wall_seconds']:.1f} %" for kind in kinds]
        waits = sum(entry["count"] for name, entry in p["waits"].items() if "Synchronize" in name)
        host = sum(
            entry["seconds"] for name, entry in r["host"].items() if name.startswith(("attention prob", "plans"))
        )
        idle = f"{100 * p['idle_seconds'] / p['wall_seconds']:.1f} %"
        case = f"{r['case']} ({r['shape']['tokens']:,} tokens)"
        times = [_ms(seconds) for seconds in (r["seconds"], p["wall_seconds"])]
        rows.append([case, *times, *shares, idle, f"{p['launches']:,}", _ms(host), f"{waits:,}"])
    head = ["case", "time", "under the profiler", *kinds, "idle", "launches", "plans on the host", "waits of the host"]
    return markdown_table(head, rows)


SECTIONS = {  # name of the table: (file, makers of what stands between its marks, heading and what it says)
    "gpu-attention": (
        "attention",
        (machine_line, attention_table),
        "### Attention\n`python benchmarks cuda/attention`.",
    ),
    "gpu-sweep": (
        "sweep",
        (machine_line, sweep_table),
        "### Sweep\n`python benchmarks cuda/sweep`: random weights at the sizes of Qwen2.5's decoders, 50 "
        "question\ntokens. First the paths of `av_video` whose targets come after the media, in windows of 7 layers "
        "around every\nlayer. *Dense masks*: one forward for every run, of which a few are timed.",
    ),
    "gpu-sweep-media": (
        "sweep",
        (sweep_media_table,),
        "Then those whose targets lie in the media (cross-frame, cross-segment, audio <-> video). *Forwards a run*: "
        "the\nwhole time, shared clean rows included, over runs and the time of one clean forward; the goal is 0.65.",
    ),
    "gpu-evict": (
        "evict",
        (machine_line, evict_table),
        "### Eviction\n`python benchmarks cuda/evict`: prefill. *Of ideal*: the time saved, of that "
        "without a schedule,\nover the floating-point operations saved. *Indexing*: hidden states indexed by plain "
        "torch, with sdpa flash.",
    ),
    "gpu-decode": (
        "evict",
        (decode_table,),
        "Tokens per second in decoding, media gone after half of the layers; *graph*: a CUDA graph of one step on a "
        "static cache.",
    ),
    "gpu-towers": (
        "towers",
        (towers_line, towers_table),
        "### Towers\n`python benchmarks op/towers`: Qwen2.5-Omni-3B's, by transformers, by avflow with the vision"
        "\ntower's MLP as it is, and by avflow.",
    ),
    "gpu-profile": (
        "profile",
        (machine_line, profile_table),
        "### Where the time goes\n`python benchmarks cuda/profile`: *time* is that of a call without the profiler; the "
        "shares are of one\ncall under the profiler, whose time stands beside it.",
    ),
}


def write_pages(folder: Path, root: Path) -> list[str]:
    """Writes the tables for which the folder has results into the pages below `root`; gives their names."""
    page, done = root / "docs" / "performance.md", []
    for name, (file, makers, words) in SECTIONS.items():
        if name == "gpu-decode" and (folder / "decode.json").exists():  # a run of its own; else a part of evict's
            file = "decode"
        if not (folder / f"{file}.json").exists():
            continue
        data = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
        text = "\n\n".join(make(data) for make in makers)
        place(page, name, ("" if done or "## On a GPU" in page.read_text() else "## On a GPU\n\n") + words)
        put(page, name, text + (left_out(data) if makers[0] is machine_line else ""))
        done.append(name)
        if name == "gpu-sweep":
            readme = root / "README.md"
            place(readme, name, "The same on a GPU, at the sizes of Qwen2.5-Omni's decoders:", behind="sweep")
            put(readme, name, text)
        if name == "gpu-evict":
            evict = root / "docs" / "eviction.md"
            place(evict, name, "On a GPU, at the sizes of Qwen2.5-Omni's decoders:")
            put(evict, name, text)
    return done


def on_gpu(folder: Path) -> bool:
    """Whether any file of the folder was measured on a GPU."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return any(data.get("machine", {}).get("gpu") for data in files)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    if not on_gpu(folder):
        parser.error(f"{folder} holds no figures of a GPU; for a CPU's: python benchmarks pages/cpu")
    print(f"tables of {folder} written to README.md and docs/: {', '.join(write_pages(folder, ROOT))}")
