"""Compiles a CUDA source for one architecture, and reads what ptxas and nvdisasm say of the machine code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parents[2] / "csrc"
COLD = ("any_nonfinite<", "take_out_nonfinite<", "fill_words<")  # of the producer: for partial tiles alone


def compile_device_code(
    nvcc: str, source: Path, arch: str, out: Path, first: Path | None = None, flags: Sequence[str] = ()
) -> str:
    """Writes the cubin `out`; what ptxas says. Headers in `first` go before those of csrc."""
    folders = [folder for folder in (first, CSRC) if folder is not None]
    command = [nvcc, "-std=c++20", "-O3", "-lineinfo", "-Xptxas=-v", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    command += [word for folder in folders for word in ("-I", str(folder))]
    command += [*flags, "-cubin", "-o", str(out), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def serialised(report: str) -> list[str]:
    """Kernels whose wgmma wait for one another: C7510, C7512, C7514, C7520, ... ptxas says that as mere information."""
    return [line for line in report.splitlines() if re.search(r"\(C75\d\d\)|wgmma.* serializ", line)]


def spills(report: str) -> list[tuple[int, int, int]]:
    """Of each kernel: bytes of stack, of spill stores, of spill loads."""
    found = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    return [(int(stack), int(stores), int(loads)) for stack, stores, loads in found]


def find_nvdisasm(nvcc: str) -> str | None:
    """Beside nvcc, in PATH, or from the package nvidia-cuda-nvdisasm."""
    packaged = [path for folder in sys.path for path in sorted(Path(folder).glob("nvidia/cu[0-9]*/bin/nvdisasm"))]
    beside = Path(nvcc).with_name("nvdisasm")
    found = [str(path) for path in (beside, *packaged) if path.is_file()]
    return found[0] if found else shutil.which("nvdisasm")


class LocalAccess(NamedTuple):
    """One load from or store to local memory: what a spill, or an array that registers cannot hold, compiles to."""

    instruction: str
    lines: list[tuple[str, int]]  # file and line that it comes from, then where that was inlined, outwards


def local_accesses(nvdisasm: str, cubin: Path) -> list[LocalAccess]:
    """All of a cubin."""
    text = subprocess.run([nvdisasm, "-gi", "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    found: list[LocalAccess] = []
    lines: list[tuple[str, int]] = []
    goes_on = False
    for line in text.splitlines():
        if at := re.match(r'\s*//## File "([^"]+)", line (\d+)', line):
            lines = [*(lines if goes_on else []), (Path(at[1]).name, int(at[2]))]
            goes_on = True
        elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*)", line):
            goes_on = False
            if re.search(r"\b(STL|LDL)\b", code[1]):
                found.append(LocalAccess(code[1], lines))
    return found


class Producer(NamedTuple):
    """Lines of hopper_kernel.cuh: the function that fetches tiles, its loop over them, and what is cold in that."""

    function: range
    loop: range
    cold: set[int]


def find_producer(source: str) -> Producer:
    lines = source.splitlines()
    first = next(i for i, line in enumerate(lines) if " produce(const Call" in line)
    last = next(i for i in range(first, len(lines)) if lines[i] == "}")
    loop = next(i for i in range(first, last) if lines[i].startswith("    for ("))
    loop_end = next(i for i in range(loop, last) if lines[i] == "    }")
    cold = {i + 1 for i in range(loop, loop_end) if any(name in lines[i] for name in COLD)}
    assert len(cold) == len(COLD), f"the producer's loop calls each of {COLD} in a line of its own, found {cold}"
    return Producer(range(first + 1, last + 2), range(loop + 1, loop_end + 2), cold)


def hot_accesses(accesses: list[LocalAccess], source: str) -> list[LocalAccess]:
    """Those that are not in the producer's cold code: what it does once, or for partial tiles alone."""
    producer = find_producer(source)

    def is_cold(access: LocalAccess) -> bool:
        own = [line for file, line in access.lines if file == "hopper_kernel.cuh" and line in producer.function]
        return bool(own) and (own[-1] not in producer.loop or own[-1] in producer.cold)

    return [access for access in accesses if not is_cold(access)]
