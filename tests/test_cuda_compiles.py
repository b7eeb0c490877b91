"""The CUDA kernels compiled for two architectures: nothing is spilled, and shared memory fits the smallest device."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from cuda_toolkit import find_toolkit  # noqa: E402

KERNELS = 6  # attend: 2 dtypes x 2 head_dims; merge: 2 dtypes


@pytest.mark.slow
@pytest.mark.parametrize("arch, registers", [(80, 256), (90, 256)])
def test_no_kernel_spills(tmp_path, arch, registers):
    toolkit = find_toolkit()
    if toolkit is None:
        pytest.skip("no nvcc was found")
    command = [toolkit.nvcc, "-std=c++20", "-O3", "-Xptxas=-v", f"-arch=sm_{arch}", "-I", str(ROOT / "csrc"), "-c"]
    command += [str(ROOT / "csrc" / "cuda" / "attention.cu"), "-o", str(tmp_path / "attention.o")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "warning" not in told, told
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
    assert spills == [("0", "0", "0")] * KERNELS, told
    # Of 65,536 registers, two blocks of 128 threads must find room beside each other.
    assert all(int(used) <= registers for used in re.findall(r"Used (\d+) registers", told)), told
