"""The CUDA kernels compiled for every architecture of the wheel: nothing hot spills, blocks fit beside each other."""

import re
import sys
from pathlib import Path

import pytest
from device_code import CSRC, compile_device_code, find_nvdisasm, hot_accesses, local_accesses, serialised, spills
from machine_code import kernels

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from cuda_toolkit import ARCHS, find_toolkit  # noqa: E402

# attend, attend_few: 2 dtypes x 2 head_dims; merge: 2 dtypes x 3 heights of tiles. gather_rms_norm: 2 dtypes x 2
# widths; compact: 4 units. silu_mul: 2 dtypes x 2 widths; rotary: these, by tables of the dtype and by float32's.
# attend_tall: 2 dtypes x 2 head_dims, with mass and without. attend_wide: as attend, for sm_90a alone.
KERNELS = {"attention": 14, "gather": 8, "hopper": 4, "passes": 12, "tall": 8}
# Of 65,536 registers: attend and attend_tall have two blocks of 128 threads beside each other (attend three at head_dim
# 64, which its launch bounds see to), attend_few three (four), gather_rms_norm two of 512, the passes four of 256,
# attend_wide one of 384, whose warpgroups then exchange theirs.
REGISTERS = {"attention": 256, "gather": 64, "hopper": 168, "passes": 64, "tall": 256}
# Bytes stored and loaded by all of a kernel's code: a device of sm_90 takes attend_tall for measurements alone.
SPILLED = {("tall", "90"): 300}
CASES = [(source, arch.split("-")[0]) for source in KERNELS for arch in ARCHS if arch.endswith("real")]
CASES = [(source, arch) for source, arch in CASES if source != "hopper"] + [("hopper", "90a")]


@pytest.fixture(scope="module")
def nvcc():
    toolkit = find_toolkit()
    if toolkit is None:
        pytest.skip("no nvcc was found")
    return toolkit.nvcc


def spills_that_cost(nvcc, report, source, cubin):
    """What spills where, a line each; nothing where all of it is in the cold code of Hopper's producer."""
    if not any(map(any, spills(report))):
        return []
    nvdisasm = find_nvdisasm(nvcc)
    if source.stem != "hopper" or nvdisasm is None:
        return [f"{report}\nwhere that is in hopper.cu, nvdisasm says: pip install nvidia-cuda-nvdisasm"]
    kernel = (source.parent / "hopper_kernel.cuh").read_text()
    return [f"{access.instruction} {access.lines}" for access in hot_accesses(local_accesses(nvdisasm, cubin), kernel)]


# The way of a tile without a mask at head_dim 128, on sm_80: kernel, products (scores [rows of a warp, 64] and
# outputs [rows of a warp, d], of 16 x 8 x 16 each), matrix loads, instructions at most. A product of 32 rows needs as
# many loads as one of 16, and its queries' besides: 3.2 products a load instead of 2.
TURNS = {"attention": ("6attendILb1ELi{}EE", 128, 64, 530), "tall": ("11attend_tallILb1ELi{}ELb0EE", 256, 80, 1020)}
LONGER = {"90": 1.05, "120": 1.2}


def check_turns(found, source, arch):
    """Nothing is stored or loaded for want of registers there, and the branches are those of the loop itself."""
    name, products, loads, most = TURNS[source]
    for d in (64, 128):
        kernel = next(kernel for mangled, kernel in found.items() if name.format(d) in mangled)
        turn = min(
            (turn for turn in kernel.turns(r"\bHMMA\b") if turn.count(r"\bHMMA\b") == products * d // 128),
            key=lambda turn: len(turn.instructions),
        )
        assert turn.count(r"\bLDSM\b") == loads * d // 128
        assert turn.taken <= 3 and len(turn.instructions) <= most * LONGER.get(arch, 1)
        assert turn.count(r"\bFMUL\b") <= (d + 4) * products // 256  # outputs are scaled once a turn
        assert (source, arch) in SPILLED or not turn.count(r"\b(STL|LDL)\b")


@pytest.mark.slow
@pytest.mark.parametrize("source, arch", CASES)
def test_no_kernel_spills(nvcc, tmp_path, source, arch):
    path = CSRC / "cuda" / f"{source}.cu"
    report = compile_device_code(nvcc, path, arch, tmp_path / "code")
    assert "warning" not in report, report
    assert not serialised(report)
    assert len(spills(report)) == KERNELS[source], report
    if (source, arch) in SPILLED:
        assert max(stores + loads for _, stores, loads in spills(report)) <= SPILLED[source, arch], report
    else:
        assert not spills_that_cost(nvcc, report, path, tmp_path / "code")
    assert all(int(used) <= REGISTERS[source] for used in re.findall(r"Used (\d+) registers", report)), report
    if source in TURNS and (nvdisasm := find_nvdisasm(nvcc)):
        check_turns(kernels(nvdisasm, tmp_path / "code"), source, arch)
    assert sorted(path.stem for path in (CSRC / "cuda").glob("*.cu")) == sorted(KERNELS)


# ---------------------------------------------------------------- that the test sees what it looks for


def compile_changed(nvcc, folder, changes):
    """The report, the source and the cubin of hopper.cu, with texts of its kernel replaced."""
    kernel = (CSRC / "cuda" / "hopper_kernel.cuh").read_text()
    for old, new in changes.items():
        assert kernel.count(old) == 1, old
        kernel = kernel.replace(old, new)
    (folder / "cuda").mkdir()
    (folder / "cuda" / "hopper_kernel.cuh").write_text(kernel)
    source, cubin = folder / "cuda" / "hopper.cu", folder / "code"
    source.write_text((CSRC / "cuda" / "hopper.cu").read_text())
    return compile_device_code(nvcc, source, "90a", cubin, first=folder), source, cubin


@pytest.mark.slow
def test_products_that_wait_for_one_another_are_noticed(nvcc, tmp_path):
    """Scores are read while the product of the tile before runs: ptxas then lets no two products overlap."""
    report, _, _ = compile_changed(nvcc, tmp_path, {"        products_wait<1>();\n": ""})
    assert "warning" not in report and not any(map(any, spills(report)))
    assert len(serialised(report)) == KERNELS["hopper"]


# An array that is indexed at run time lies in local memory, as what is spilled does.
LOCAL = "{ volatile int32_t held[16]; held[clock() & 15] = 1; held[clock() & 15] = held[3]; } "
COLD = {
    "if (!whole) fill_words<Of>(c, ": "if (!whole) " + LOCAL + "if (!whole) fill_words<Of>(c, ",
    "int begun = 0;": LOCAL + "int begun = 0;",  # before the producer's loop
}
HOT = ["begun = step + 1;", "scale_outputs<kDepth>(alpha, rows);", "join_sums(rows);"]  # the last two: of consumers


@pytest.mark.slow
def test_spills_pass_in_the_producers_cold_code(nvcc, tmp_path):
    if find_nvdisasm(nvcc) is None:
        pytest.skip("no nvdisasm was found: pip install nvidia-cuda-nvdisasm")
    report, source, cubin = compile_changed(nvcc, tmp_path, COLD)
    assert all(map(any, spills(report)))
    assert spills_that_cost(nvcc, report, source, cubin) == []


@pytest.mark.slow
def test_spills_pass_nowhere_else(nvcc, tmp_path):
    if find_nvdisasm(nvcc) is None:
        pytest.skip("no nvdisasm was found: pip install nvidia-cuda-nvdisasm")
    report, source, cubin = compile_changed(nvcc, tmp_path, COLD | {place: LOCAL + place for place in HOT})
    costly = spills_that_cost(nvcc, report, source, cubin)
    lines = (source.parent / "hopper_kernel.cuh").read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if LOCAL in line:
            named = [spill for spill in costly if f"('hopper_kernel.cuh', {number})" in spill]
            assert bool(named) == any(place in line for place in HOT), line
