"""What is compiled, as files, and the programs that look into them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEM = re.compile(r"(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux[^.]*)\.so.*")
TORCH = ("libtorch_cpu.so", "libc10.so")
LIBAVFLOW = "libavflow.so.1"


def compiled_module() -> str:
    """avflow_ext._C."""
    spec = importlib.util.find_spec("avflow_ext._C")
    assert spec is not None and spec.origin is not None, "avflow_ext._C is not built: run `make ext`"
    return spec.origin


def library(name: str) -> str:
    """libavflow.so.1 or libavflow_torch.so, beside the module."""
    path = Path(compiled_module()).parent / "lib" / name
    assert path.is_file(), f"{name} is not built: run `make ext`"
    return str(path)


def products() -> dict[str, str]:
    """The three, by their names."""
    return {"libavflow": library(LIBAVFLOW), "libavflow_torch": library("libavflow_torch.so"), "_C": compiled_module()}


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (binutils) is not installed")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def dynamic(path: str, tag: str) -> list[str]:
    """What the dynamic section says under this tag: NEEDED, SONAME, RUNPATH ..."""
    return re.findall(rf"\({tag}\)[^[]*\[(.*)\]", run("readelf", "-d", path))


def foreign(needed: list[str]) -> list[str]:
    """Those that are neither the system's, nor torch's for the CPU, nor libavflow."""
    return [name for name in needed if not SYSTEM.fullmatch(name) and name not in (*TORCH, LIBAVFLOW)]


def exported(path: str) -> set[str]:
    """Symbols that others may link to; a version's own name is left out."""
    lines = run("nm", "-D", "--defined-only", path).splitlines()
    return {line.split()[-1].replace("@@", "@") for line in lines if line.split()[-2] != "A"}


def asked_for(path: str) -> set[str]:
    """Symbols that others must have, without their versions."""
    return set(re.findall(r" [Uw] ([^\s@]+)", run("nm", "-D", "--undefined-only", path)))
