"""The compiled module as a file, and the programs that look into it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess

import pytest

ALLOWED = re.compile(r"(libtorch_cpu|libc10|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux[^.]*)\.so.*")


def compiled_module() -> str:
    spec = importlib.util.find_spec("avflow_ext._C")
    assert spec is not None and spec.origin is not None, "avflow_ext._C is not built: run `make ext`"
    return spec.origin


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (binutils) is not installed")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
