"""Tables of a device's results whose stages stand in files of their own, or in none yet."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
MACHINE = {"gpu": "a GPU of this test", "cuda": "13.0", "torch": "2.11"}


def pages(folder: Path) -> Path:
    (folder / "docs").mkdir(parents=True)
    for page in ("README.md", "docs/performance.md", "docs/eviction.md"):
        (folder / page).write_bytes((ROOT / page).read_bytes())
    return folder


def save(folder: Path, name: str, data: dict) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"machine": MACHINE, **data}))


def decoded(rate: float) -> dict:
    batch = {"batch": 8, "tokens_per_second": {"plain, eager": rate, "keep, graph": 3 * rate}, "kv_bytes": {}}
    case = {"shape": {"name": "3b", "tokens": 8192}, "prefill_seconds": {}, "kv_bytes": {}, "schedules": {}}
    return {"dtype": "bfloat16", "kernel": "k", "results": [{**case, "decode": {"batches": [batch]}}]}


def test_the_towers(scripts, tmp_path):
    tables, root = scripts("pages/gpu"), pages(tmp_path / "root")
    tower = {"transformers": {"launches": 21573}, "avflow": {"launches": 1393}}
    times = {"transformers": 1.2, "avflow": 0.2, "avflow, MLP as it is": 0.3}
    sound = {"transformers": 0.1, "avflow": 0.05}
    both = {"vision": {**tower, "seconds": times}, "audio": {**tower, "seconds": sound}}
    save(tmp_path / "results", "towers", {"layers": 32, "video_seconds": 60, **both})
    assert tables.write_pages(tmp_path / "results", root) == ["gpu-towers"]
    page = (root / "docs/performance.md").read_text()
    assert "| vision | 1,200.0 ms | 300.0 ms | 200.0 ms | **6.00** | 21,573 / 1,393 |" in page
    assert "| audio | 100.0 ms | - | 50.0 ms | **2.00** |" in page and page.count("## On a GPU") == 1


def test_decoding_has_a_run_of_its_own_or_is_a_part_of_evictions(scripts, tmp_path):
    tables, root, results = scripts("pages/gpu"), pages(tmp_path / "root"), tmp_path / "results"
    page = root / "docs/performance.md"
    save(results, "evict", decoded(40.0))
    assert tables.write_pages(results, root) == ["gpu-evict", "gpu-decode"]
    assert "| 3B, 8,192 | 8 | 40 | - | - | - | 120 |" in page.read_text()
    save(results, "decode", decoded(50.0))
    assert tables.write_pages(results, root) == ["gpu-evict", "gpu-decode"]
    assert "| 3B, 8,192 | 8 | 50 | - | - | - | 150 |" in page.read_text()
    (results / "evict.json").unlink()
    assert tables.write_pages(results, root) == ["gpu-decode"]
