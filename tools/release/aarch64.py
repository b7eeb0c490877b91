"""libavflow and the programs in C and C++, compiled for aarch64 by ziglang and run in qemu: `make aarch64`."""

from __future__ import annotations

import re
import shutil
import sys

from packages import ROOT, WORK
from steps import TOOLS, CannotRun, Failed, run

FOLDER = WORK / "aarch64"
TARGET = "aarch64-linux-musl"  # programs that need no library at all, so that qemu needs no system
COMPILER = """#!/bin/sh
export ZIG_GLOBAL_CACHE_DIR="{folder}/zig" ZIG_LOCAL_CACHE_DIR="{folder}/zig"
exec "{python}" -m ziglang {tool} "$@"
"""


def toolchain() -> list[str]:
    """CMake's settings for it."""
    settings = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_FIND_ROOT_PATH=/"]
    tools = {"C_COMPILER": "cc", "CXX_COMPILER": "c++", "AR": "ar", "RANLIB": "ranlib"}
    for setting, tool in tools.items():
        script = FOLDER / tool
        target = f"{tool} -target {TARGET}" if tool in ("cc", "c++") else tool
        script.write_text(COMPILER.format(folder=FOLDER, python=sys.executable, tool=target))
        script.chmod(0o755)
        settings.append(f"-DCMAKE_{setting}={script}")
    return [*settings, f"-DCMAKE_MAKE_PROGRAM={TOOLS / 'ninja'}", "-G", "Ninja"]


def programs() -> str:
    """What the programs say in the emulator; as on any machine, but for the path's name.

    Raises:
        CannotRun: there is no qemu. Failed: a program says something else.
    """
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not qemu:
        raise CannotRun("qemu-aarch64 is not installed: apt-get install qemu-user; the workflow has an arm machine too")
    FOLDER.mkdir(parents=True, exist_ok=True)
    cmake, settings, prefix = TOOLS / "cmake", toolchain(), FOLDER / "installed"
    library, examples = FOLDER / "library", FOLDER / "programs"
    run(cmake, "-S", ROOT, "-B", library, "-DBUILD_SHARED_LIBS=OFF", f"-DCMAKE_INSTALL_PREFIX={prefix}", *settings)
    run(cmake, "--build", library)
    run(cmake, "--install", library)
    run(cmake, "-S", ROOT / "examples/cpp", "-B", examples, f"-DCMAKE_PREFIX_PATH={prefix}", *settings)
    run(cmake, "--build", examples)
    said = [run(qemu, examples / name).strip() for name in ("knockout", "evict")]
    if not re.search(r" on portable: .* cut, 0(\.0+)?$", said[0]) or not said[1].startswith("stayed: 0 3 7 11;"):
        raise Failed("\n".join(said))
    return "; ".join(said)


if __name__ == "__main__":
    print(programs())
