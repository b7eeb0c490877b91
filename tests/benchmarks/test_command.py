"""`python benchmarks`, benchmarks/gpu.sh and the commands that pages name; who may import whom in benchmarks/."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.mark.parametrize("script, stage", [("gpu.sh", "sweep"), ("vllm_gpu.sh", "time")])
def test_an_unknown_stage_is_refused(script, stage, tmp_path):
    command = ["bash", str(FOLDER / script), str(tmp_path / "out"), stage, "swep"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "unknown stage swep" in done.stderr


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """python benchmarks ARGUMENT..., from another folder."""
    return subprocess.run([sys.executable, str(FOLDER), *arguments], capture_output=True, text=True, cwd=folder)


def test_the_command_lists_runs_and_refuses_from_any_folder(tmp_path):
    listed = run(folder=tmp_path)
    assert listed.returncode == 0
    for name in ("cpu/attention", "cuda/profile", "op/gather", "findings/measure", "pages/gpu"):
        assert f"\n  {name} " in listed.stdout
    assert "  cuda/decode " not in listed.stdout  # a part of cuda/evict
    refused = run("cpu/swep", folder=tmp_path)
    assert refused.returncode == 2 and "no benchmark 'cpu/swep'; there are cpu/attention" in refused.stderr
    command = ["op/plans", "--shape", "tiny", "--tokens", "300", "--turns", "1", "--json", "plans.json"]
    assert run(*command, folder=tmp_path).returncode == 0
    assert len(json.loads((tmp_path / "plans.json").read_text())["results"]) == 2


def test_every_benchmark_takes_its_arguments(scripts, capsys):
    for name in scripts("__main__").names():
        with pytest.raises(SystemExit) as ended:
            scripts(name).main(["--help"])
        assert ended.value.code == 0
        assert f"python benchmarks {name}" in capsys.readouterr().out.replace("python3", "python"), name


def test_every_command_named_in_a_page_exists(scripts):
    names = scripts("__main__").names()
    pages = [ROOT / "README.md", ROOT / "Makefile", FOLDER / "gpu.sh", *(ROOT / "docs").glob("*.md")]
    pages += FOLDER.rglob("*.py")
    found = {name for page in pages for name in re.findall(r"python3? benchmarks (\w+/\w+)", page.read_text())}
    assert {"cpu/sweep", "cuda/sweep", "op/sanitize"} <= found <= set(names)
    stages = re.findall(r'(?:benchmark \w+ \d+|"\$python" benchmarks) (\w+/\w+)', (FOLDER / "gpu.sh").read_text())
    assert len(stages) == 8 and set(stages) <= set(names)


def test_a_benchmark_uses_lib_and_its_own_room_only():
    """lib/ uses nothing of the others; so no benchmark imports its twin on another device."""
    for path in FOLDER.glob("*/*.py"):
        room = path.parent.name
        allowed = {"lib"} if room in ("lib", "pages") else {"lib", room}
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("benchmarks."):
                assert part.module.split(".")[1] in allowed, f"{path}: {part.module}"
