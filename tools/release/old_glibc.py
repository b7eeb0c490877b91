"""Links to glibc 2.28 on a machine with a newer one: what is linked then runs wherever manylinux_2_28 does.

PyPI's ziglang carries what a linker needs to know of every glibc: names and versions of its symbols. Only the linker is
misled; all is compiled by this machine's GCC (zig's own runtime would leave `__cpu_model` empty, and the kernels would
take the portable path without a word).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

GLIBC = (2, 28)
HERE = Path(__file__).resolve().parent
LIBRARIES = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libld.so.2")  # ld.so last


def is_old_enough() -> bool:
    """Whether this machine's own glibc will do, as that of a manylinux_2_28 container does."""
    version = platform.libc_ver()[1].split(".")
    return tuple(map(int, version[:2])) <= GLIBC


def make(folder: Path) -> list[str]:
    """CMake's settings that compile and link for GLIBC; what they name is put into `folder`.

    Raises:
        OSError: ziglang is not installed. subprocess.CalledProcessError: a compiler failed.
    """
    zig = folder / "zig"
    shutil.rmtree(folder, ignore_errors=True)
    zig.mkdir(parents=True)
    (zig / "empty.c").write_text("int avflow_empty(void) { return 0; }\n")
    target = f"{platform.machine()}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    without = ("-fno-compiler-rt", "-fno-ubsan-rt")  # these two would take a minute to compile
    build = ["build-lib", "-dynamic", "-lc", "-target", target, *without, "-O", "ReleaseFast", "empty.c"]
    env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(zig / "cache"), "ZIG_LOCAL_CACHE_DIR": str(zig / "cache")}
    subprocess.run([sys.executable, "-m", "ziglang", *build], cwd=zig, env=env, check=True)
    for name in (*LIBRARIES, "libc_nonshared.a"):
        (found,) = zig.glob(f"cache/o/*/{name}")
        shutil.copy(found, folder / name)
    for name in LIBRARIES[1:-1]:
        (folder / name.partition(".so.")[0]).with_suffix(".so").symlink_to(name)

    flags = ["-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-c"]
    compile_c = ["gcc", "-std=gnu99", *flags, str(HERE / "old_glibc.c"), "-o", "old_glibc.o"]
    compile_cpp = ["g++", "-std=c++17", *flags, str(HERE / "old_stdcxx.cpp"), "-o", "old_stdcxx.o"]
    for command in (compile_c, compile_cpp, ["ar", "rcs", "libold_glibc.a", "old_glibc.o"]):
        subprocess.run(command, cwd=folder, check=True)
    others = " ".join(LIBRARIES[1:])
    (folder / "libc.so").write_text(f"GROUP ( libc.so.6 libold_glibc.a libc_nonshared.a AS_NEEDED ( {others} ) )\n")
    link = f"-L{folder} {folder / 'old_stdcxx.o'}"
    return [
        f"-DCMAKE_CXX_FLAGS=-include {HERE / 'old_stdcxx.h'}",
        *(f"-DCMAKE_{kind}_LINKER_FLAGS={link}" for kind in ("SHARED", "MODULE")),
    ]
