"""Finds CUDA's compiler for setup.py: which nvcc, and which architectures it is asked for.

AVFLOW_CUDA        1: a missing nvcc is an error; 0: leave CUDA out; unset: build the kernels where there is an nvcc
AVFLOW_CUDA_ARCHS  narrows the architectures, such as "80" or "90 120 80-virtual"; a bare number means machine code
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Machine code of one number runs on the later ones of its tens (80 on 86 and 89); PTX of 80 covers what is yet to come.
ARCHS = ("80-real", "90-real", "100-real", "120-real", "80-virtual")
COMPRESSES_FROM = (12, 8)  # --compress-mode, and sm_100 and sm_120


class Toolkit(NamedTuple):
    """A compiler that was found."""

    nvcc: str
    version: tuple[int, int]
    archs: tuple[str, ...]  # in CMake's words


def candidates(env: Mapping[str, str], folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(where it was named, path) of every place to look, best first."""
    if named := env.get("CUDACXX"):
        yield "CUDACXX", shutil.which(named, path=env.get("PATH", "")) or named
    if home := env.get("CUDA_HOME"):
        yield "CUDA_HOME", str(Path(home) / "bin" / "nvcc")
    if found := shutil.which("nvcc", path=env.get("PATH", "")):
        yield "PATH", found
    yield "/usr/local/cuda", "/usr/local/cuda/bin/nvcc"
    for folder in folders:  # of the PyPI packages nvidia-cuda-nvcc, -crt, -runtime, -cccl and nvidia-nvvm
        for toolchain in sorted(Path(folder).glob("nvidia/cu[0-9]*"), reverse=True):
            yield "PyPI", str(toolchain / "bin" / "nvcc")


def real_compiler(path: str) -> str:
    """The compiler itself: a wrapper script lies in no toolkit, and CMake looks for the headers beside the compiler."""
    command = [path, "--dryrun", "-x", "cu", "-c", os.devnull]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if not (top := re.search(r"^#\$ TOP=(.+)$", ran.stderr + ran.stdout, re.MULTILINE)):
        return ""
    real = Path(os.path.realpath(top[1].strip())) / "bin" / "nvcc"
    return str(real) if os.access(real, os.X_OK) else ""


def version_of(nvcc: str) -> tuple[int, int]:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def known_archs(nvcc: str) -> set[int]:
    text = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    return {int(number) for number in re.findall(r"compute_(\d+)$", text, re.MULTILINE)}


def choose_archs(wanted: str, known: set[int]) -> tuple[str, ...]:
    """The architectures to build in CMake's words; by default those of ARCHS that this nvcc knows."""
    if not wanted.strip():
        return tuple(arch for arch in ARCHS if int(arch.split("-")[0]) in known)
    archs = []
    for word in re.split(r"[\s,;]+", wanted.strip()):
        shape = re.fullmatch(r"(?:sm_|compute_)?(\d+)(-real|-virtual)?", word)
        if not shape or int(shape[1]) < 80 or int(shape[1]) not in known:
            shown = " ".join(str(number) for number in sorted(known) if number >= 80)
            raise SystemExit(
                f"AVFLOW_CUDA_ARCHS names {word!r}: this nvcc offers {shown}; 80 is the oldest that avflow has"
            )
        kind = shape[2] or ("-virtual" if word.startswith("compute_") else "-real")
        if shape[1] + kind not in archs:
            archs.append(shape[1] + kind)
    return tuple(archs)


def find_toolkit(env: Mapping[str, str] = os.environ, folders: Sequence[str] | None = None) -> Toolkit | None:
    """The first working nvcc, or None where CUDA is left out; the reason is printed in one line.

    Raises:
        SystemExit: AVFLOW_CUDA=1 and no nvcc works, CUDACXX names none, or an architecture that nvcc does not know.
    """
    choice = env.get("AVFLOW_CUDA", "").strip().lower()
    if choice not in ("", "0", "off", "1", "on"):
        raise SystemExit(f"AVFLOW_CUDA={choice}: pass 1 (must be built), 0 (leave it out), or leave it unset")
    if choice in ("0", "off"):
        print("avflow: CUDA kernels left out (AVFLOW_CUDA=0)", file=sys.stderr)
        return None
    tried = []
    for source, path in candidates(env, sys.path if folders is None else folders):
        if nvcc := real_compiler(path):
            return Toolkit(nvcc, version_of(nvcc), choose_archs(env.get("AVFLOW_CUDA_ARCHS", ""), known_archs(nvcc)))
        tried.append(path)
        if source == "CUDACXX":  # named outright: another compiler than that would be a surprise
            raise SystemExit(f"CUDACXX={env['CUDACXX']} is no working nvcc: correct it, or unset it")
    where = "CUDACXX, CUDA_HOME, PATH, /usr/local/cuda and the nvidia-cuda-nvcc package"
    if choice:
        raise SystemExit(f"AVFLOW_CUDA=1, but there is no working nvcc (looked at {where}; tried {', '.join(tried)})")
    print(f"avflow: no nvcc found ({where}): building the CPU part only", file=sys.stderr)
    return None
