"""Writes the measured tables into README.md and the pages of docs/, from the JSON files of one results folder.

    python benchmarks/tables.py benchmarks/results/cpu-epyc-2core
    python benchmarks/tables.py benchmarks/results/h100        what gpu.sh left there, of it what there is

A table stands between the comments `<!-- NAME -->` and `<!-- /NAME -->`; everything else in the pages is left alone. A
GPU's tables get their place, at the end of docs/performance.md and behind the CPU's in README.md, once there are some.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import tables_gpu

ROOT = Path(__file__).resolve().parent.parent


def attention_table(data: dict) -> str:
    lines = ["| case | time | ratio | peer in the same run | goal |", "|---|---|---|---|---|"]
    for name, case in data["cases"].items():
        note = f" x {case['factor']:.2f} (its share of the work)" if case["factor"] != 1 else ""
        ms = case["seconds"]["avflow"] * 1e3
        lines.append(f"| {name} | {ms:.1f} ms | {case['ratio']:.2f} | {case['peer']}{note} | {case['goal']} |")
    return "\n".join(lines)


def sweep_table(*files: dict) -> str:
    lines = [
        "| layers x hidden, tokens | knocked-out runs | packed rows | sweep / clean forward | goal "
        "| dense masks / sweep |",
        "|---|---|---|---|---|---|",
    ]
    for r in (r for data in files for r in data["results"]):
        shape, packed = r["shape"], r["packed_row_ratio"]
        lines.append(
            f"| {shape['layers']} x {shape['hidden']}, {shape['tokens']} | {r['knocked_out_runs']} | {packed:.2f} | "
            f"**{r['sweep_over_clean']:.2f}** | {1.25 * packed:.2f} | {r['dense_mask_over_sweep']:.0f} |"
        )
    return "\n".join(lines)


def memory_table(data: dict) -> str:
    lines = ["| tokens | peak | of it the sweep | one N x N fp32 matrix |", "|---|---|---|---|"]
    for r in data["results"]:
        own = r["peak_mib"] - r["before_mib"]
        dense = r["tokens"] ** 2 / 2**18
        lines.append(f"| {r['tokens']:,} | {r['peak_mib']:.0f} MiB | {own:.0f} MiB | {dense:.0f} MiB |")
    return "\n".join(lines)


def evict_table(data: dict) -> str:
    lines = [
        "| media leave | FLOPs saved | prefill saved | of ideal | against sdpa | dense mask / evict | indexing / evict "
        "| decode step, keep / drop | KV bytes, keep / drop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in data["results"]:
        step, kv = r["decode_step_seconds"], r["kv_bytes"]
        lines.append(
            f"| {r['schedule'].removeprefix('media ')} | {100 * r['flops_saved']:.1f} % | "
            f"**{100 * r['saved_of_no_schedule']:.1f} %** | {100 * r['share_of_ideal']:.0f} % | "
            f"{100 * r['saved_of_plain']:.1f} % | {r['dense_mask_over_evict']:.2f} | {r['indexing_over_evict']:.2f} | "
            f"{step['keep'] / step['plain']:.2f} / {step['drop'] / step['plain']:.2f} | "
            f"{kv['keep'] / kv['plain']:.2f} / {kv['drop'] / kv['plain']:.2f} |"
        )
    return "\n".join(lines)


def machine_line(data: dict) -> str:
    m = data["machine"]
    return f"{m['processor']}, {m['cores']} cores, {m['threads']} threads, torch {m['torch']}, fp32."


def put(page: Path, name: str, text: str) -> None:
    """Replaces what stands between the two comments of `name`."""
    old = page.read_text(encoding="utf-8")
    mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not mark.search(old):
        sys.exit(f"{page} has no <!-- {name} --> ... <!-- /{name} -->")
    page.write_text(mark.sub(lambda m: f"{m[1]}{text}\n{m[2]}", old), encoding="utf-8")


def place(page: Path, name: str, words: str, behind: str | None = None) -> None:
    """Gives a table its marks, with `words` before it: at the page's end, or behind another table."""
    old = page.read_text(encoding="utf-8")
    if f"<!-- {name} -->" in old:
        return
    new = f"\n{words}\n\n<!-- {name} -->\n<!-- /{name} -->\n"
    end = f"<!-- /{behind} -->\n"
    if behind and end not in old:
        sys.exit(f"{page} has no <!-- /{behind} -->")
    page.write_text(old.replace(end, end + new, 1) if behind else old.rstrip("\n") + "\n" + new, encoding="utf-8")


def gpu_pages(folder: Path, root: Path) -> list[str]:
    """Writes the tables for which the folder has results; gives their names."""
    page, done = root / "docs" / "performance.md", []
    for name, (file, makers, words) in tables_gpu.SECTIONS.items():
        if not (folder / f"{file}.json").exists():
            continue
        data = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
        text = "\n\n".join(make(data) for make in makers)
        place(page, name, ("" if done or "## On a GPU" in page.read_text() else "## On a GPU\n\n") + words)
        put(page, name, text + (tables_gpu.left_out(data) if makers[0] is tables_gpu.machine_line else ""))
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
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return any(data.get("machine", {}).get("gpu") for data in files)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    if on_gpu(folder):
        print(f"tables of {folder} written to README.md and docs/: {', '.join(gpu_pages(folder, ROOT))}")
        return

    def read(name: str) -> dict:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    page = ROOT / "docs" / "performance.md"
    put(page, "machine", machine_line(read("attention")))
    put(page, "attention", attention_table(read("attention")))
    put(page, "attention-avx2", attention_table(read("attention-avx2")))
    put(page, "sweep", sweep_table(read("sweep")))
    put(page, "sweep-media", sweep_table(read("sweep-media")))
    put(page, "memory", memory_table(read("memory")))
    put(ROOT / "docs" / "eviction.md", "evict", evict_table(read("evict")))
    put(ROOT / "README.md", "sweep", sweep_table(read("sweep")))
    print(f"tables of {folder} written to README.md and docs/")


if __name__ == "__main__":
    main()
