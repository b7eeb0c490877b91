"""The CUDA kernels compiled for every architecture of the wheel: nothing spills, and blocks fit beside each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from cuda_toolkit import ARCHS, find_toolkit  # noqa: E402

# attend: 2 dtypes x 2 head_dims; merge: 2 dtypes. gather_rms_norm: 2 dtypes x 2 widths; compact: 4 units.
# attend_wide: as attend, for sm_90a alone.
KERNELS = {"attention": 6, "gather": 8, "hopper": 4}
# Of 65,536 registers: attend has two blocks of 128 threads beside each other (three at head_dim 64, which its launch
# bounds see to), gather_rms_norm two of 512, attend_wide one of 384, whose warpgroups then exchange theirs.
REGISTERS = {"attention": 256, "gather": 64, "hopper": 168}
CASES = [(source, arch.split("-")[0]) for source in KERNELS for arch in ARCHS if arch.endswith("real")]
CASES = [(source, arch) for source, arch in CASES if source != "hopper"] + [("hopper", "90a")]


@pytest.mark.slow
@pytest.mark.parametrize("source, arch", CASES)
def test_no_kernel_spills(tmp_path, source, arch):
    toolkit = find_toolkit()
    if toolkit is None:
        pytest.skip("no nvcc was found")
    command = [toolkit.nvcc, "-std=c++20", "-O3", "-Xptxas=-v", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    command += ["-I", str(ROOT / "csrc"), "-c", str(ROOT / "csrc" / "cuda" / f"{source}.cu")]
    command += ["-o", str(tmp_path / f"{source}.o")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "warning" not in told, told
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
    assert spills == [("0", "0", "0")] * KERNELS[source], told
    assert all(int(used) <= REGISTERS[source] for used in re.findall(r"Used (\d+) registers", told)), told
    assert sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")) == sorted(KERNELS)
