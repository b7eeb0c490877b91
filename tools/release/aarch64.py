"""libavflow, programs of examples/cpp and a test of its numbers, for aarch64, run in qemu: `make aarch64`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from steps import TOOLS, CannotRun, Failed, run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "aarch64"
COMPILER = "aarch64-linux-gnu-g++"
# Processors without products of bfloat16, and with them: what they must run, the fastest path first.
PROCESSORS = {"cortex-a72": ("portable",), "max": ("neon_bf16", "portable")}


def toolchain(compiler: str) -> list[str]:
    """CMake's settings for it. Programs hold all that they call, so that qemu needs no folder of another system."""
    settings = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}"]
    settings += [f"-DCMAKE_C_COMPILER={compiler.removesuffix('g++')}gcc", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
    settings += ["-DCMAKE_FIND_ROOT_PATH=/", "-DAVFLOW_WERROR=ON"]
    return [*settings, f"-DCMAKE_MAKE_PROGRAM={TOOLS / 'ninja'}", "-G", "Ninja"]


def programs() -> str:
    """What the programs say in the emulator; as on any machine, but for the path's name.

    Raises:
        CannotRun: there is no qemu, or no compiler. Failed: a program says something else.
    """
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    compiler = shutil.which(COMPILER)
    if not (qemu and compiler):
        missing = COMPILER if qemu else "qemu-aarch64"
        raise CannotRun(f"{missing} is not installed: apt-get install g++-aarch64-linux-gnu qemu-user")
    FOLDER.mkdir(parents=True, exist_ok=True)
    cmake, settings, prefix = TOOLS / "cmake", toolchain(compiler), FOLDER / "installed"
    library, examples, numbers = FOLDER / "library", FOLDER / "programs", FOLDER / "numbers"
    run(cmake, "-S", ROOT, "-B", library, "-DBUILD_SHARED_LIBS=OFF", f"-DCMAKE_INSTALL_PREFIX={prefix}", *settings)
    run(cmake, "--build", library)
    run(cmake, "--install", library)
    run(cmake, "-S", ROOT / "examples/cpp", "-B", examples, f"-DCMAKE_PREFIX_PATH={prefix}", *settings)
    run(cmake, "--build", examples)
    source, include = ROOT / "tests/embedding/numbers.cpp", f"-I{ROOT / 'csrc/include'}"
    run(compiler, "-std=c++17", "-O2", "-static", include, source, library / "libavflow.a", "-o", numbers)
    said = []
    for processor, paths in PROCESSORS.items():
        emulated = (qemu, "-cpu", processor)
        found = run(*emulated, numbers)
        if found != "".join(f"{path}: 0 wrong\n" for path in paths):
            raise Failed(f"numbers on {processor}: {found}")
        said += [run(*emulated, examples / name).strip() for name in ("knockout", "evict")]
        if not re.search(rf" on {paths[0]}: .* cut, 0(\.0+)?$", said[-2]) or not said[-1].startswith(
            "stayed: 0 3 7 11;"
        ):
            raise Failed("\n".join(said))
        said[-2] = f"{processor}: numbers right on {' and '.join(paths)}; {said[-2]}"
    return "; ".join(said)


if __name__ == "__main__":
    print(programs())
