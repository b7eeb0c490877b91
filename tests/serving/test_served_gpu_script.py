"""benchmarks/vllm_gpu.sh, which has a quarter of an hour on a GPU and must not fail for a typing error there."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = "benchmarks/vllm_gpu.sh"


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """{name: (seconds, what every engine is given, command)}"""
    command = ["bash", ROOT / FOLDER, "--dry-run", tmp_path_factory.mktemp("out")]
    environment = os.environ | {"PYTHON": sys.executable}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = {}
    for line in shown.splitlines():
        name, seconds, engine, told = line.split("\t")
        found[name] = int(seconds), json.loads(engine or "{}"), told
    return found


def test_every_kernel_with_every_kind_of_graph(stages):
    graphs = ("eager", "piecewise", "full")
    wanted = {f"exact-{kind}" for kind in graphs} | {
        f"half-{kernel}-{kind}" for kernel in ("FLASH_ATTN", "FLASHINFER") for kind in graphs
    }
    assert wanted | {"build", "exact-row-by-row", "time-FLASH_ATTN", "time-FLASHINFER"} == set(stages)


def test_vllm_takes_what_engines_are_given(stages):
    from vllm.config import AttentionConfig, CompilationConfig
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for name, (_, engine, told) in stages.items():
        if name.startswith("time-"):
            engine = json.loads(told[told.index("--engine ") :].removeprefix("--engine "))
        if name == "build":
            continue
        assert set(engine) <= known
        assert AttentionConfig(backend=engine["attention_backend"]).backend.name in name + "TRITON_ATTN"
        CompilationConfig(**engine.get("compilation_config", {}))
        if "enforce_eager" in engine:
            assert engine["enforce_eager"] == ("eager" in name) != ("compilation_config" in engine)


def test_every_line_selects_tests(stages):
    """And as many as fit into its time: each engine starts in some ten seconds."""
    for what in {told for _, _, told in stages.values() if " -m pytest " in told}:
        path, _, words = what.partition("tests/serving/")[2].partition(" ")
        assert (ROOT / "tests/serving" / path).is_file()
        if words:
            chosen = ["-k", words.removeprefix("-k ")]
            command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *chosen]
            done = subprocess.run([*command, f"tests/serving/{path}"], capture_output=True, text=True, cwd=ROOT)
            count = re.search(r"(\d+)/\d+ tests collected", done.stdout)
            assert count and 0 < int(count[1]) <= 8, done.stdout[-2000:]


def test_what_is_timed_runs_on_a_cpu(stages, tmp_path):
    """The same command, smaller."""
    told = stages["time-FLASH_ATTN"][2]
    words = shlex.split(told[: told.index(" --engine ")])
    words[words.index("--shape") + 1] = "tiny"
    words[words.index("--after") + 1 : words.index("--turns")] = ["1", "-1"]
    words[words.index("--tokens") + 1 : words.index("--after")] = ["256"]
    words[words.index("--turns") + 1], words[words.index("--json") + 1] = "1", str(tmp_path / "time.json")
    small = json.dumps({"dtype": "float32", "enforce_eager": True})
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_USE_V2_MODEL_RUNNER"}
    command = [*words, "--device", "cpu", "--engine", small]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "time.json").read_text())["results"]
    assert [(row["after"], row["evicts"]) for row in results] == [(1, False), (1, True), (-1, False)]
    held = [row["kv_blocks_of_layers"] for row in results]
    # 257 .. 320 tokens are 10 blocks of 32 in 3 layers; 61 + 64 that stay are 4 in the last one
    assert held == [30, 24, 30] and all(row["first_token_seconds"] > 0 for row in results)
