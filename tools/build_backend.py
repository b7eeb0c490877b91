"""setuptools' build backend with one more rule: build with an installed torch, do not download a second one.

avflow needs of torch only its stable-ABI headers and two libraries to link to; the result runs on every torch >= 2.11,
whichever of them it was built with. In an isolated build (a plain `pip install .`) the environment's packages are
hidden from `import`, but the interpreter still tells where they lie. So torch becomes a build requirement only where
there is none: a fixed one would fetch a second torch, of gigabytes where it is a CUDA build, for a few headers.

AVFLOW_TORCH_DIR: the folder of a torch to build with, also one of another Python: nothing of Python's is used of it.
"""

import os
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that stay as they are)

TORCH = "torch>=2.11"
MARK = "include/torch/csrc/stable/library.h"


def find_torch() -> str:
    """The folder of a torch >= 2.11: AVFLOW_TORCH_DIR, or the interpreter's; "" if it has none."""
    if named := os.environ.get("AVFLOW_TORCH_DIR"):
        return named
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}  # a venv's parent: `venv --system-site-packages`
    hidden = [sysconfig.get_path("platlib"), sysconfig.get_path("platlib", vars=base), site.getusersitepackages()]
    for folder in [*sys.path, *hidden]:
        torch = Path(folder) / "torch"
        if (torch / MARK).is_file() and version(torch) >= (2, 11):
            return str(torch)
    return ""


def version(torch: Path) -> tuple[int, int]:
    """(major, minor) of the torch in this folder, read without importing it."""
    for line in (torch / "version.py").read_text().splitlines():
        if line.startswith("__version__"):
            major, minor = line.split("'")[1].split(".")[:2]
            return int(major), int(minor)
    return 0, 0


def _with_torch(requirements: list[str]) -> list[str]:
    return requirements if find_torch() else [*requirements, TORCH]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _with_torch(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _with_torch(build_meta.get_requires_for_build_editable(config_settings))
