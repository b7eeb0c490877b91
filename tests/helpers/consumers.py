"""Builds by CMake, as users of libavflow make them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STRICT = "-Wall -Wextra -Wpedantic -Werror"


def tool(name: str) -> str:
    """cmake or ninja, of this environment or of the machine."""
    if (beside := Path(sys.executable).parent / name).is_file():
        return str(beside)
    if found := shutil.which(name):
        return found
    pytest.skip(f"{name} is not installed")


def ready(*command: str, **env: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def cmake(source: Path, build: Path, *settings: str, **env: str) -> None:
    """Configures `source` into `build`, and compiles."""
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "--log-level=NOTICE"]
    ready(tool("cmake"), "-S", str(source), "-B", str(build), *generator, *settings, **env)
    ready(tool("cmake"), "--build", str(build))


def examples(build: Path, package: str, *settings: str, **env: str) -> Path:
    """The folder with the programs of examples/cpp, built against this CMake package, warnings as errors."""
    strict = (f"-DCMAKE_C_FLAGS={STRICT}", f"-DCMAKE_CXX_FLAGS={STRICT}")
    cmake(ROOT / "examples/cpp", build, f"-Davflow_DIR={package}", *strict, *settings, **env)
    return build
