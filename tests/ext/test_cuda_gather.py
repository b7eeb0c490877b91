"""The emulated CUDA kernels of gather_rms_norm and compact against their references."""

import cuda_emulator
import pytest
import torch
from cuda_cases import noticed
from cuda_emulator import SCHEDULES, Alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import guarded
from test_gather import assert_norms, positions, rows

from avflow_ext import compact_reference, gather_rms_norm_reference

HALVES = [torch.bfloat16, torch.float16]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(
    n=st.integers(1, 20),
    m=st.integers(0, 20),
    width=st.sampled_from([1, 7, 8, 64, 65, 264, 513, 2048]),
    dtype=st.sampled_from(HALVES),
    schedule=st.integers(0, SCHEDULES - 1),
)
@quick
def test_norm_equals_reference(sm80_library, n, m, width, dtype, schedule):
    x, weight = rows(n, width, dtype, m)
    keep = positions(n, m, n)
    ours, wide = cuda_emulator.gather_rms_norm(sm80_library, x, weight, 1e-6, keep, schedule)
    assert wide == (1 if width % 8 else 8)
    assert_norms(ours, gather_rms_norm_reference(x, weight, 1e-6, keep), dtype)


def test_more_pieces_than_threads(sm80_library):
    """A row wider than a block reads at once: 8192 = 2 x 512 threads x 8."""
    x, weight = rows(3, 8192, torch.bfloat16)
    keep = torch.tensor([2, -1, 0], dtype=torch.int32)
    ours, wide = cuda_emulator.gather_rms_norm(sm80_library, x, weight, 1e-6, keep)
    assert wide == 8
    assert_norms(ours, gather_rms_norm_reference(x, weight, 1e-6, keep), torch.bfloat16)


def test_rows_that_begin_anywhere(sm80_library):
    x, weight = rows(9, 64, torch.bfloat16)
    keep = positions(9, 9)
    expected = gather_rms_norm_reference(x, weight, 1e-6, keep)
    for pad, wide in ((3, 1), (8, 8)):
        wider = torch.zeros(9, 64 + pad, dtype=torch.bfloat16)[:, pad:].copy_(x)
        ours, was = cuda_emulator.gather_rms_norm(sm80_library, wider, weight, 1e-6, keep)
        assert was == wide
        assert_norms(ours, expected, torch.bfloat16)


def test_the_schedule_changes_nothing(sm80_library):
    x, weight = rows(5, 2048, torch.float16)
    keep = positions(5, 6)
    first, *others = [
        cuda_emulator.gather_rms_norm(sm80_library, x, weight, 1e-6, keep, s)[0] for s in range(SCHEDULES)
    ]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_positions_beyond_are_padding(sm80_library):
    """Nobody looks at them before the launch on a device; nothing outside x is read for them."""
    x = guarded((3, 64), 192, torch.bfloat16)
    keep = torch.tensor([5, 2, -7, 2**31 - 1], dtype=torch.int32)
    (kept, normed), _ = cuda_emulator.gather_rms_norm(sm80_library, x, torch.ones(64).bfloat16(), 1e-6, keep)
    assert torch.equal(kept[1], x[2]) and (kept[[0, 2, 3]] == 0).all() and (normed[[0, 2, 3]] == 0).all()
    cache = guarded((1, 1, 3, 64), 192, torch.bfloat16)
    out, _ = cuda_emulator.compact(sm80_library, cache, keep[None])
    assert torch.equal(out[0, 0, 1], cache[0, 0, 2]) and (out[0, 0, [0, 2, 3]] == 0).all()


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.sampled_from([1, 3, 8, 64, 128])),
    m=st.integers(0, 20),
    dtype=st.sampled_from([*HALVES, torch.float32]),
    turned=st.booleans(),
)
@quick
def test_compact_equals_reference(sm80_library, shape, m, dtype, turned):
    batch, heads, n, d = shape
    x = torch.randn(shape, generator=torch.Generator().manual_seed(m)).to(dtype)
    if turned:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    keep = positions(n, batch * m, n).view(batch, m)
    out, unit = cuda_emulator.compact(sm80_library, x, keep)
    assert torch.equal(out, compact_reference(x, keep))
    assert unit == 16 or d * dtype.itemsize % 16


def test_compact_in_smaller_units(sm80_library):
    x = torch.randn(2, 3, 10, 72).bfloat16()
    keep = positions(10, 8).view(2, 4)
    for start, unit in ((0, 16), (4, 8), (2, 4), (1, 2)):
        view = x[..., start : start + 64]
        out, used = cuda_emulator.compact(sm80_library, view, keep)
        assert used == unit and torch.equal(out, compact_reference(view, keep))


BARRIER = "    sync_block();\n"


@pytest.mark.slow
@pytest.mark.parametrize("instead", ["", BARRIER], ids=["missing", "there"])
def test_a_missing_barrier_is_noticed(tmp_path, compiler, instead):
    library = cuda_emulator.broken(compiler, tmp_path, Alone("gather"), "gather_kernel.cuh", BARRIER, instead)
    x, weight = rows(2, 2048, torch.bfloat16)
    keep = torch.tensor([0, 1], dtype=torch.int32)
    expected = gather_rms_norm_reference(x, weight, 1e-6, keep)
    with noticed(instead != BARRIER):
        for schedule in range(SCHEDULES):
            ours, _ = cuda_emulator.gather_rms_norm(library, x, weight, 1e-6, keep, schedule)
            assert_norms(ours, expected, torch.bfloat16)
