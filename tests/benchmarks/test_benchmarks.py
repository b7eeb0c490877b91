"""The benchmarks that need a GPU: the same ones with a tiny shape on the CPU, and what their files hold."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avflow.models.compat import cache_argument, cache_of
from avflow.walk.layers import run_layers
from avflow_ext import capabilities

CACHE = cache_argument()
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_sweep(scripts, tmp_path):
    path = tmp_path / "sweep.json"
    assert scripts("cuda/sweep").measure("cpu", ["tiny"], [180, 160], str(path), 60.0) == 0
    data = read(path)
    assert data["errors"] == data["skipped"] == {}
    assert [r["shape"]["tokens"] for r in data["results"]] == [180, 160]
    for r in data["results"]:
        assert set(r["clean_seconds"]) == {"flash", "math"}
        assert (r["after_media"]["runs"], r["in_media"]["runs"]) == (36, 9)
        for part in (r["after_media"], r["in_media"]):
            assert part["forwards_a_run"]["math"] == pytest.approx(part["over_clean"]["math"] / part["runs"])
            assert part["dense_masks_over_sweep"]["math"] > 0
    assert torch.get_default_dtype() == torch.float32


def test_patch_of_a_device(scripts, tmp_path):
    path = tmp_path / "patch.json"
    assert scripts("cuda/patch").measure("cpu", ["tiny"], [160], str(path), 60.0) == 0
    data = read(path)
    assert data["errors"] == data["skipped"] == {}
    (r,) = data["results"]
    assert set(r["traces"]) == {"zero", "another question", "other media"} and r["hook_seconds_each"] > 0
    for trace in r["traces"].values():
        assert trace["over_clean"]["math"] == pytest.approx(trace["seconds"] / r["clean_seconds"]["math"])
        assert trace["hooks_over_patch"] == pytest.approx(r["hook_seconds_each"] * r["cells"] / trace["seconds"])
    assert r["traces"]["zero"]["packed_row_ratio"] < r["traces"]["other media"]["packed_row_ratio"]


def test_calls(scripts, tmp_path, monkeypatch):
    path, script = tmp_path / "calls.json", scripts("op/calls")
    monkeypatch.setattr(script, "CALLS", 3)
    script.main(["--turns", "1", "--json", str(path)])
    seconds = read(path)["seconds"]
    assert all(each > 0 for each in seconds.values())
    table = scripts("pages/cpu").calls_table(read(path))
    for op in set(capabilities()["ops"]) - {"compact"}:
        assert f"| {op} | " in table and f"{1e6 * seconds[op]:.1f} us" in table


@pytest.mark.skipif(sys.platform == "win32", reason="a script of bash")
def test_the_script_of_a_cpu_names_commands_that_are_there(scripts, tmp_path):
    """And a file for each table that pages/cpu writes."""
    script = ["bash", str(FOLDER / "cpu.sh"), "--dry-run", str(tmp_path / "out")]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^== OMP_NUM_THREADS=\d+ \S+ benchmarks (\S+)(.*) --json (\S+)$", told, re.M)
    assert {Path(file).stem for *_, file in commands} == scripts("pages/cpu").TABLES
    for name, options, _ in commands:
        with pytest.raises(SystemExit) as ended:  # argparse takes the options, and then refuses the last one
            scripts(name).main([*options.split(), "--no-such-option"])
        assert ended.value.code == 2
    assert not (tmp_path / "out").exists()
    refused = subprocess.run([*script, "attentoin"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr == "no benchmark named attentoin\n"


def test_plans(scripts, tmp_path):
    path = tmp_path / "plans.json"
    scripts("op/plans").main(["--shape", "tiny", "--tokens", "700", "--turns", "1", "--json", str(path)])
    after, inside = read(path)["results"]
    assert (after["targets"], inside["targets"]) == ("after_media", "in_media")
    for r in (after, inside):
        assert 700 < r["rows"][0] <= r["rows"][1] and r["walks"] == 1
        assert 0 < r["pack_seconds"]["mean"] <= r["pack_seconds"]["most"]
        assert r["plan_bytes"] > 32 * r["rows"][1]  # two columns of 16 bytes, and the plan
    assert after["rows"][1] < inside["rows"][1]


def test_before_the_first_layer(scripts, tmp_path):
    path = tmp_path / "first.json"
    scripts("op/first_layer").main(["--shape", "tiny", "--tokens", "300", "--turns", "1", "--json", str(path)])
    (r,) = read(path)["results"]
    assert set(r["cpu_seconds"]) == {"jobs and starts", "the first layer", "layouts and the other layers"}
    assert min(r["cpu_seconds"].values()) > 0
    assert importlib.import_module("avflow.walk.walk").run_layers is run_layers


def test_evict(scripts, tmp_path):
    path = tmp_path / "evict.json"
    scripts("cuda/evict").measure("cpu", ["tiny"], [160], str(path), 60.0, [2])
    data = read(path)
    assert [name for name in data["errors"] if "graph" not in name] == []  # compiled decoding has tests of its own
    (r,) = data["results"]
    assert len(r["schedules"]) == 4 and all("no schedule" in s["share_of_ideal"] for s in r["schedules"].values())
    kv = r["kv_bytes"]
    for name in r["schedules"]:
        assert kv[f"drop, {name}"] < kv[f"evict, {name}"] == kv[f"indexing, {name}"] < kv["plain math"]
        assert r["logits_apart"][name]["indexing"] < r["logits_apart"][name]["plain"] / 2
    (decoded,) = r["decode"]["batches"]
    assert {"plain, eager", "keep, eager", "drop, eager", "plain, graph"} <= set(decoded["tokens_per_second"])
    assert decoded["kv_bytes"]["plain"] == 2 * kv["plain math"]  # a batch of two
    assert set(decoded["attention"]) == {"one sequence", "several"}
    assert all(found["bytes_per_second"] > 0 for found in decoded["attention"].values())


def test_row_tiles_of_a_batch_are_planned_in_two_ways(scripts, monkeypatch):
    """What the benchmark times on a device: with its switch, tiles of the CUDA plan hold several sequences."""
    from avflow_ext._load import _C

    decode, planned = scripts("cuda/decode"), []

    def attention(q, k, v, problem):
        packed = problem.packed(q.shape[1] // k.shape[2], device_type="cuda").numpy()
        planned.append(_C.plan_size(packed)["tile_rows"])
        return decode_attention(q, k, v, problem)

    decode_attention = decode.attention
    monkeypatch.setattr(decode, "attention", attention)
    monkeypatch.setattr(decode, "ATTENTION", 0.0)
    decode.row_tiles(3, 400, (8, 1, 64), "cpu", torch.bfloat16)
    assert planned[:2] == [1, 8]


def test_a_wide_cache_decodes_as_each_of_its_sequences(scripts):
    import avflow

    decode, decoders, prompts = (scripts(name) for name in ("cuda/decode", "lib/decoders", "lib/prompts"))
    model = decoders.make_named("tiny", "cpu")
    prompt = prompts.make_prompt(model, 160)
    embeds = prompt.inputs_embeds[None].to(model.dtype)
    for how in ("keep", "drop"):
        with avflow.evict(model, {"video": 0, "audio": 1}, how, groups=list(prompt.groups), items=list(prompt.items)):
            logits = []
            for batch in (1, 3):
                out = model.hf(inputs_embeds=embeds, use_cache=True)
                cache = decode.widen(cache_of(out), batch)
                token = torch.full((batch, 1), 7)
                for _ in range(2):
                    logits.append(model.hf(input_ids=token, **{CACHE: cache}, use_cache=True).logits[:, -1])
        for one, three in zip(logits[:2], logits[2:], strict=True):
            torch.testing.assert_close(three, one.expand(3, -1), atol=2e-2, rtol=2e-2)


def test_profile(scripts, tmp_path):
    path = tmp_path / "profile.json"
    script = scripts("cuda/profile")
    report = scripts("lib/report").Report("cpu", str(path), 60.0)
    profiles = script.Profiles(report, "tiny", True)
    profiles.decoder()
    profiles.thinker()
    assert report.finish() == 0
    found = {r["case"]: r for r in read(path)["results"]}
    assert len(found) == 6
    for r in found.values():
        p = r["profile"]
        busy = sum(p["device_seconds"].values())
        assert p["launches"] > 0 and p["device_seconds"]["matrix products"] > 0
        assert busy + p["idle_seconds"] == pytest.approx(p["wall_seconds"], rel=0.05)
    swept = found["sweep, targets after the media"]
    assert swept["profile"]["device_seconds"]["attention, avflow"] > 0
    assert swept["host"]["attention problems"]["count"] > 0 and swept["host"]["plans packed"]["seconds"] > 0
    encoded = found["Thinker, media encoded up to the first layer"]
    assert encoded["profile"]["device_seconds"]["attention, sdpa"] > 0  # of the towers


def test_attention_without_its_device(scripts, tmp_path, monkeypatch):
    """What stands around the cases: the parts in turn, a file after each, a part that fails."""
    script, path = scripts("cuda/attention"), tmp_path / "attention.json"
    monkeypatch.setattr(script, "ceilings", lambda device: {"copy_bytes_per_second": 1.0})
    monkeypatch.setattr(script, "best_times", lambda candidates, seconds: ({k: seconds for k in candidates}, {}))
    for name in ("decode", "streams"):
        monkeypatch.setattr(script, name, lambda *args: 1 / 0)

    def prompts(cases, n, size, flash4):
        cases.add(f"{size}, {n} tokens", {"avflow": None, "sdpa flash": None}, "sdpa flash", "-", flops=1e12)

    monkeypatch.setattr(script, "whole_prompts", prompts)
    assert script.measure("cpu", str(path), True, 0.25, 60.0) == 1
    cases = read(path)["cases"]
    assert list(cases) == [*(f"3B, {n} tokens" for n in script.LENGTHS), "7B, 8192 tokens"]
    assert all(case["ratio"] == 1 and case["tflops"] == 4 for case in cases.values())


def test_peers_that_are_compiled(scripts, tmp_path, monkeypatch):
    """What is missing is named, what fails leaves its error, and the others are timed; outputs are compared."""
    script, path = scripts("cuda/attention"), tmp_path / "attention.json"
    assert "No module named 'flash_attn'" in script.why_no_flash4()
    report = scripts("lib/report").Report("cpu", str(path), 500.0)
    cases = script.Cases(report, 0.0)
    operands = script.Operands
    monkeypatch.setattr(script, "operands", lambda *args: operands(*args[:2], script.SHAPES[args[2]]))
    asked = []

    def flex(self, tokens, source, target, problem, backend):
        asked.append((problem is not None, backend))
        if backend == "FLASH":
            raise TypeError("no such kernel")
        mask = scripts("lib/layouts").dense_mask(tokens, source, target)
        return (lambda: self.sdpa(mask)() * 2) if problem is None else self.sdpa(mask)

    monkeypatch.setattr(operands, "flex", flex)
    script.compiled_peers(cases, 300, True)
    assert asked == [(True, "FLASH"), (True, None), (False, None)]
    (case,) = cases.found.values()
    assert set(case["seconds"]) == {"avflow", "FlexAttention, blocks of avflow's plan"}
    errors = list(read(path)["errors"].values())
    assert "no such kernel" in errors[0] and "outputs differ by" in errors[1] and len(errors) == 2
    case = operands(64, 64, (2, 1, 64))
    with pytest.raises(ImportError):
        case.flash4()
    calls = []
    fake = type(script)("flash_attn.cute")
    fake.flash_attn_func = lambda q, k, v, causal: calls.append((q.shape, k.shape, causal)) or (q, None)
    monkeypatch.setitem(sys.modules, "flash_attn", type(script)("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", fake)
    sys.modules["flash_attn"].cute = fake
    assert script.why_no_flash4() is None
    assert torch.equal(case.flash4()()[0], case.q) and calls == [((1, 64, 2, 64), (1, 64, 1, 64), True)]


def test_towers(scripts, tmp_path):
    path = tmp_path / "towers.json"
    scripts("op/towers").measure("cpu", "narrow", 2, 5, str(path), 0.0)
    data = read(path)
    # First layer: 5 frames of 12 windows, of 3 lengths; second: the frames. Sound: two chunks of 2 s, one of 1 s.
    calls = {"vision": (60 + 5, 3 + 1), "audio": (2 * 3, 2 * 2)}
    for name, (before, after) in calls.items():
        found = data[name]
        assert found["transformers"]["attention_calls"] == before and found["avflow"]["attention_calls"] == after
        assert found["apart"] <= 1e-5 and found["ratio"] > 0
    assert data["vision"]["avflow"]["operators"] < data["vision"]["transformers"]["operators"]


def test_a_trace_of_a_device(scripts):
    traces = scripts("lib/traces")

    def event(cat, name, ts, dur, **more):
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 1, **more}

    events = [
        event("user_annotation", traces.REGION, 0, 100),
        event("kernel", "void avflow::cuda::attend<128>(avflow::cuda::Call)", 10, 20),
        event("kernel", "nvjet_tst_128x256", 20, 20),  # another stream: they overlap
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 50, 5, args={"bytes": 64}),
        event("kernel", "void at::native::elementwise_kernel<direct_copy_kernel_cuda>", 60, 10),
        event("cuda_runtime", "cudaStreamSynchronize", 50, 8),
        event("kernel", "outside", 200, 10),
    ]
    found = traces.summary(events, on_cuda=True)
    assert found["idle_seconds"] == pytest.approx(55e-6)  # 0..10, 40..50, 55..60, 70..100
    assert found["device_seconds"] == pytest.approx(
        {"attention, avflow": 20e-6, "matrix products": 20e-6, "copies and indexing": 15e-6}
    )
    assert found["launches"] == 3
    assert found["waits"]["cudaStreamSynchronize"]["count"] == 1
    assert found["copies"]["Memcpy DtoH (Device -> Pageable)"]["bytes"] == 64
    assert found["longest_gaps"][0]["seconds"] == pytest.approx(30e-6)


def test_steps_fail_and_run_out_of_time_alone(scripts, tmp_path):
    report = scripts("lib/report").Report("cpu", str(tmp_path / "r.json"), 50.0)
    assert report.step("wrong", lambda: 1 / 0) is None
    assert report.step("long", lambda: 1, seconds=1000) is None
    assert report.step("fine", lambda: 3, seconds=1) == 3
    report.share(10)
    assert 0 < report.left <= 5
    data = read(tmp_path / "r.json")
    assert "ZeroDivisionError" in data["errors"]["wrong"] and "1000 s" in data["skipped"]["long"]
    assert set(data["step_seconds"]) == {"wrong", "fine"}
    report.lost = "the device is lost"
    assert report.step("after that", lambda: 3, None) is None
    assert read(tmp_path / "r.json")["skipped"]["after that"] == "the device is lost"
    assert report.finish() == 1


def test_tables(scripts, tmp_path):
    """From files of the tiny shape that claim a GPU, into copies of the pages; a second time changes nothing."""
    results, root = tmp_path / "results", tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    for page in ("README.md", "docs/performance.md", "docs/eviction.md"):
        (root / page).write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
    scripts("cuda/sweep").measure("cpu", ["tiny"], [160], str(results / "sweep.json"), 60.0)
    data = read(results / "sweep.json")
    data["machine"] |= {"gpu": "a GPU of this test", "cuda": "13.0"}
    data["skipped"]["one step"] = "for this test"
    (results / "sweep.json").write_text(json.dumps(data))
    tables = scripts("pages/gpu")
    assert tables.on_gpu(results) and not tables.on_gpu(tmp_path)
    assert tables.write_pages(results, root) == ["gpu-sweep", "gpu-sweep-media"]
    page = (root / "docs/performance.md").read_text()
    assert "a GPU of this test" in page and "- skipped: one step: for this test" in page
    assert "a GPU of this test" in (root / "README.md").read_text()
    tables.write_pages(results, root)
    assert (root / "docs/performance.md").read_text() == page
    assert page.count("## On a GPU") == 1


def test_what_the_check_costs(scripts, tmp_path):
    """Every candidate runs, and the block and the sweep are compared when it is their turn."""
    path = tmp_path / "check.json"
    scripts("cpu/check").main(["--shape", "2x64x200", "--turns", "1", "--json", str(path)])
    (found,) = read(path)["results"]
    assert found["check"]["kinds"] == 2 and found["check"]["difference"] <= found["check"]["bound"]
    for name in ("sweep", "block"):
        assert min(found[name]["cpu_seconds"].values()) > 0 and found[name]["held_over_off"] > 0


def test_bf16(scripts, tmp_path):
    """Every path that runs here is timed in both dtypes, and the one in use is what it was before."""
    script, path = scripts("cpu/bf16"), tmp_path / "bf16.json"
    before, known = capabilities()["cpu"], script.paths()
    script.main(["--tokens", "70", "--keys", "300", "--turns", "1", "--json", str(path)])
    assert capabilities()["cpu"] == before
    found = read(path)
    assert len(found["cases"]) == 3
    for case in found["cases"].values():
        assert {f"{name} bf16" for name in known} <= set(case["seconds"]) and min(case["seconds"].values()) > 0
        assert not {"amx fp32", "avx512_bf16 fp32"} & set(case["seconds"])
    everything = {f"{name} bf16": 2.0 for name in ("amx", "avx512_bf16", "avx512", "avx2")} | {"avx512 fp32": 8.0}
    made_up = {"machine": found["machine"], "path": "amx", "cases": {"one": {"seconds": everything}}}
    table = scripts("pages/cpu").bf16_table(made_up)
    assert "| one | 8000.0 ms | 2000.0 ms | **4.00** | 4.00 | 4.00 | 4.00 |  |  |" in table
    del everything["amx bf16"]
    table = scripts("pages/cpu").bf16_table(made_up | {"path": "avx512_bf16"})
    assert "| avx512_bf16 | avx512 | avx2 | sdpa fp32 | sdpa bf16 |" in table and "amx" not in table
    assert "| one | 8000.0 ms | 2000.0 ms | **4.00** | 4.00 | 4.00 |  |  |" in table


def test_patch(scripts, tmp_path):
    path = tmp_path / "patch.json"
    scripts("cpu/patch").main(["--shape", "2x64x200", "--turns", "1", "--json", str(path)])
    (found,) = read(path)["results"]
    assert found["cells"] == 8 and set(found["traces"]) == {"zero", "another question", "other media"}
    ratios = [trace["packed_row_ratio"] for trace in found["traces"].values()]
    assert 1 < ratios[0] < ratios[1] < 2 < ratios[2]  # no other run; its question; its media too
    table = scripts("pages/cpu").patch_table(read(path))
    assert table.count("\n") == 4 and "| 2 x 64, 200 | 8 | other media |" in table


def test_the_pages_hold_what_the_result_files_hold(scripts, tmp_path):
    """Written again from benchmarks/results, in copies, no page changes."""
    results, pages = FOLDER / "results", ["README.md", *(f"docs/{name}.md" for name in ("performance", "eviction"))]
    (tmp_path / "docs").mkdir()
    for page in (*pages, "docs/findings.md"):
        (tmp_path / page).write_bytes((ROOT / page).read_bytes())
    for folder in ("cpu-epyc-2core", "cpu-xeon-2core"):
        scripts("pages/cpu").write_pages(results / folder, tmp_path)
    assert len(scripts("pages/gpu").write_pages(results / "h200", tmp_path)) == 6
    findings = scripts("findings/tables")
    for model, made in findings.PAGES.items():
        findings.write_tables(
            read(results / model / "findings.json"), tmp_path / "docs" / "findings.md", made["tables"]
        )
    for page in (*pages, "docs/findings.md"):
        assert (tmp_path / page).read_text(encoding="utf-8") == (ROOT / page).read_text(encoding="utf-8"), page


def test_decode(scripts, tmp_path, capsys):
    """avflow's own part; the peers are those of the extra `anchors`."""
    script = scripts("cpu/decode")
    script.write_video(tmp_path / "card.mp4", 11)
    script.one("avflow", "the last 10 s", tmp_path / "card.mp4", tmp_path / "frames.npy")
    assert set(json.loads(capsys.readouterr().out)) == {"cpu", "wall", "mib"}
    frames = np.load(tmp_path / "frames.npy")
    assert frames.shape == (20, 3, 360, 640) and (frames[0] != frames[-1]).any()
    assert script.chosen("64 frames", 18000)[::63] == [0, 17999]


def test_media_paths(scripts, tmp_path):
    path = tmp_path / "media.json"
    options = ["--shape", "4x64x160", "--tokens", "160", "--count", "tiny", "--turns", "1", "--json", str(path)]
    scripts("cpu/media_paths").main(options)
    found = read(path)
    assert found["counted"]["after_media"]["flops"] < found["counted"]["spread 5"]["flops"]
    assert found["counted"]["spread 5"]["flops"] < found["counted"]["whole, exact"]["flops"]
    assert set(found["timed"]) >= {"after_media", "whole, exact", "spread 10"}
