"""The program that `make aarch64` runs in an emulator, here on this processor: attention and gathers on every path."""

import shutil
from pathlib import Path

import pytest
from consumers import ROOT, STRICT, ready

from avflow_ext import capabilities


def test_every_path_is_right(tmp_path):
    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("g++ is not installed")
    program, source = tmp_path / "numbers", Path(__file__).with_name("numbers.cpp")
    library = ROOT / "avflow_ext/lib/libavflow.so.1"
    include, found_at = f"-I{ROOT / 'csrc/include'}", f"-Wl,-rpath,{library.parent}"
    ready(
        compiler, "-std=c++17", "-O1", *STRICT.split(), include, str(source), str(library), found_at, "-o", str(program)
    )
    said = ready(str(program)).splitlines()
    assert "portable: 0 wrong" in said and all(line.endswith(": 0 wrong") for line in said)
    assert {line.split(":")[0] for line in said} <= set(capabilities()["cpu_built"])
