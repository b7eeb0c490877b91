"""repair.py WHEEL FOLDER: a manylinux_2_28 wheel of a linux one, beside which torch's libraries stay torch's.

Also cibuildwheel's repair-wheel-command (.github/workflows/release.yml).
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

PLATFORM = f"manylinux_2_28_{platform.machine()}"
TORCH = ("libtorch_cpu.so", "libc10.so")


def command(wheel: Path, folder: Path) -> list[str]:
    excludes = [word for name in TORCH for word in ("--exclude", name)]
    return ["auditwheel", "repair", "--plat", PLATFORM, *excludes, "--wheel-dir", str(folder), str(wheel)]


if __name__ == "__main__":
    sys.exit(subprocess.run(command(Path(sys.argv[1]), Path(sys.argv[2]))).returncode)
