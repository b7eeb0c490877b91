"""What the CUDA op does to tensors that do not begin at 16 bytes: the function alone, built for the CPU."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from cuda_cases import BF16
from op_cases import qkv

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCE = """
#include "torch/tensors.h"
STABLE_TORCH_LIBRARY(avflow_alignment_test, m) { m.def("usable(Tensor t) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(avflow_alignment_test, CPU, m) { m.impl("usable", TORCH_BOX(&avflow::dense_at_16_bytes)); }
"""


@pytest.fixture(scope="module")
def usable(tmp_path_factory):
    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("the test needs g++")
    folder = tmp_path_factory.mktemp("alignment")
    (folder / "test.cpp").write_text(SOURCE)
    home = Path(torch.__file__).parent
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{CSRC}", f"-isystem{home}/include"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", str(folder / "test.cpp"), "-o", str(folder / "test.so")]
    command += [f"-L{home}/lib", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True)
    torch.ops.load_library(folder / "test.so")
    return torch.ops.avflow_alignment_test.usable


def odd(shape, start: int):
    """Contiguous, and beginning `start` elements after a multiple of 16 bytes."""
    memory = torch.randn(torch.Size(shape).numel() + start).to(BF16)
    assert memory.data_ptr() % 16 == 0
    return memory[start:].view(shape)


def views():
    """(name, tensor, whether it must be copied)"""
    base = torch.randn(2, 30, 2, 64).to(BF16)
    wide = torch.randn(2, 30, 2, 72).to(BF16)
    yield "contiguous", base, False
    yield "a cache by slot", base.transpose(1, 2), False
    yield "a slice at 16 bytes", wide[..., 8:], False
    yield "one of each, at any distance", odd((1, 1, 1, 64), 0).as_strided((1, 1, 1, 64), (3, 5, 7, 1)), False
    yield "begins at 2 bytes", odd((30, 2, 64), 1), True
    yield "begins at 8 bytes", odd((30, 2, 64), 4), True
    yield "a slice at 2 bytes", wide[..., 1:65], True
    yield "rows at odd distances", torch.randn(30, 2, 67).to(BF16)[..., :64], True
    yield "innermost stride 2", torch.randn(30, 2, 128).to(BF16)[..., ::2], True


@pytest.mark.parametrize("case", list(views()), ids=lambda c: c[0])
def test_copies_what_it_must(usable, case):
    _, tensor, copied = case
    ours = usable(tensor)
    assert torch.equal(ours, tensor) and (ours.data_ptr() != tensor.data_ptr()) == copied
    distances = [s for n, s in zip(ours.shape, ours.stride(), strict=True) if n > 1][:-1]
    assert ours.data_ptr() % 16 == 0 and ours.stride(-1) == 1 and all(s % 8 == 0 for s in distances)


def test_the_kernel_takes_what_it_gives_and_nothing_less(usable, sm80_library):
    """The launcher's own check of a call agrees: it refuses the views above, and takes their copies."""
    import cuda_emulator
    from cuda_cases import runs

    from avflow_ext import AttentionProblem

    problem = AttentionProblem(runs(30))
    q, _, _ = qkv(problem, 4, 2, 64, dtype=BF16)
    for name, view, copied in views():
        if view.shape != (30, 2, 64) or view.stride(-1) != 1:
            continue
        assert copied, name
        with pytest.raises(ValueError, match="not a call"):
            cuda_emulator.attention(sm80_library, q, view, view, problem)
        ours, _ = cuda_emulator.attention(sm80_library, q, usable(view), usable(view), problem)
        assert ours.out.isfinite().all()
