"""The emulated CUDA kernels of the decoder's passes against their references."""

import cuda_emulator
import torch
from cuda_emulator import SCHEDULES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import guarded
from test_gather import assert_norms, rows
from test_passes import assert_silus, gates, heads_and_tables

from avflow_ext import add_rms_norm_reference, rotary_reference, silu_mul_reference

HALVES = [torch.bfloat16, torch.float16]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(
    n=st.integers(0, 20),
    width=st.sampled_from([1, 7, 8, 64, 65, 264, 513, 2048]),
    dtype=st.sampled_from(HALVES),
    schedule=st.integers(0, SCHEDULES - 1),
)
@quick
def test_norms_equal_references(sm80_library, n, width, dtype, schedule):
    x, weight = rows(n, width, dtype, n)
    residual, _ = rows(n, width, dtype, n + 1)
    expected = add_rms_norm_reference(x, residual, weight, 1e-6)
    ours, wide = cuda_emulator.rms_norm(sm80_library, x, residual, weight, 1e-6, schedule)
    assert wide == (1 if width % 8 else 8)
    assert_norms(ours, expected, dtype)
    (_, alone), _ = cuda_emulator.rms_norm(sm80_library, expected[0], None, weight, 1e-6, schedule)
    assert torch.equal(alone, ours[1])


def test_norms_of_rows_that_begin_anywhere(sm80_library):
    x, weight = rows(9, 64, torch.bfloat16)
    residual, _ = rows(9, 64, torch.bfloat16, 1)
    expected = add_rms_norm_reference(x, residual, weight, 1e-6)
    for pad, wide in ((3, 1), (8, 8)):
        wider = torch.zeros(9, 64 + pad, dtype=x.dtype)[:, pad:]
        for a, b in ((wider.copy_(x), residual), (x, wider.clone().copy_(residual) if pad == 3 else residual)):
            ours, _ = cuda_emulator.rms_norm(sm80_library, a, b, weight, 1e-6)
            assert_norms(ours, expected, torch.bfloat16)
        shifted = torch.zeros(9, 64 + pad, dtype=x.dtype)[:, pad:].copy_(residual)
        ours, used = cuda_emulator.rms_norm(sm80_library, x, shifted, weight, 1e-6)
        assert used == wide
        assert_norms(ours, expected, torch.bfloat16)


@given(
    n=st.integers(0, 12),
    heads=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    d=st.sampled_from([2, 8, 16, 30, 64, 80, 128]),
    dtype=st.sampled_from(HALVES),
    tables=st.sampled_from([None, torch.float32]),
    rows_major=st.booleans(),
)
@quick
def test_rotary_equals_reference(sm80_library, n, heads, d, dtype, tables, rows_major):
    q, k, cos, sin = heads_and_tables(n, *heads, d, dtype, n, tables)
    if not rows_major:
        q, k = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k))
    ours, wide = cuda_emulator.rotary(sm80_library, q, k, cos, sin)
    assert wide == (1 if d % 16 else 8)
    expected = rotary_reference(q, k, cos, sin)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_rotary_of_tables_that_begin_anywhere(sm80_library):
    for dtype, pad, wide in ((torch.bfloat16, 1, 1), (torch.float32, 1, 1), (torch.float32, 4, 8)):
        q, k, cos, sin = heads_and_tables(5, 2, 1, 32, torch.bfloat16, tables=dtype)
        shifted = guarded((5, 32 + pad), 160 + 5 * pad, dtype)[:, pad:].copy_(sin)
        ours, used = cuda_emulator.rotary(sm80_library, q, k, cos, shifted)
        assert used == wide
        assert all(torch.equal(a, b) for a, b in zip(ours, rotary_reference(q, k, cos, sin), strict=True))


@given(n=st.integers(0, 12), width=st.sampled_from([1, 7, 8, 65, 264, 2048]), dtype=st.sampled_from(HALVES))
@quick
def test_silu_equals_reference(sm80_library, n, width, dtype):
    gate, up = gates(n, width, dtype, n)
    ours, wide = cuda_emulator.silu_mul(sm80_library, gate, up)
    assert wide == (1 if width % 8 else 8)
    assert_silus(ours, silu_mul_reference(gate, up), dtype)


def test_silu_of_halves_of_one_product(sm80_library):
    both = torch.cat(gates(7, 40, torch.bfloat16), 1)
    for split, wide in ((40, 8), (37, 1)):
        gate, up = both[:, :split], both[:, 40 : 40 + split]
        ours, used = cuda_emulator.silu_mul(sm80_library, gate, up)
        assert used == wide
        assert_silus(ours, silu_mul_reference(gate, up), torch.bfloat16)


def test_silu_of_any_number(sm80_library):
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)[None]
    ours, _ = cuda_emulator.silu_mul(sm80_library, every, torch.ones_like(every))
    expected = silu_mul_reference(every, torch.ones_like(every))
    assert torch.equal(ours.isnan(), expected.isnan())
    finite = expected.isfinite()
    assert_silus(ours[finite], expected[finite], torch.bfloat16)
