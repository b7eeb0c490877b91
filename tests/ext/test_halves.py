"""float16 in and out of the CPU kernels: every half, every kind of rounding, on each instruction set."""

import pytest
import torch

from avflow_ext import AttentionProblem, Tokens, attention, gather_rms_norm

HALVES = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same numbers; a NaN is a NaN. Sums begin at 0, so a -0 may come back as 0."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def means(values: torch.Tensor) -> torch.Tensor:
    """Of values [2, n, d]: attention of a query of zeros weighs two keys alike."""
    n, d = values.shape[1:]
    q = torch.zeros(1, n, d, dtype=values.dtype)
    problem = AttentionProblem(Tokens([1], [0]), Tokens([0, 1], [0, 0]))
    return attention(q, torch.zeros_like(values), values, problem).out[0]  # [n, d]


@pytest.mark.parametrize("apart", [0, 1, 2, 0x400, 0x1234])
def test_the_mean_of_two_halves_is_rounded_to_nearest_even(isa, apart):
    """Of one and the same: what was read is what is written. Of neighbours: a tie. 16 halves a head."""
    first, second = HALVES, HALVES.roll(apart)
    for begin in range(0, 2**16, 1024):
        pair = torch.stack([t[begin : begin + 1024].reshape(64, 16) for t in (first, second)])  # [2, heads, d]
        assert same(means(pair), ((pair[0].float() + pair[1].float()) / 2).half())


@pytest.mark.parametrize("scale", [1.0, 3.1e-3, 2.0**-12])
def test_products_overflow_and_underflow_as_torchs_do(isa, scale):
    """The norm's weight is every half; the row has small elements and large ones."""
    x = (torch.rand(1, 2**16 + 5, generator=torch.Generator().manual_seed(0)) * scale).half()
    x[0, ::7] *= 60
    keep, weight = torch.zeros(1, dtype=torch.int32), torch.cat([HALVES, torch.ones(5).half()])
    normed = gather_rms_norm(x, torch.ones_like(weight), 0.0, keep)[1]
    product = normed.float() * weight.float()
    assert product[product.isfinite()].abs().max() > 2**16 and (product.abs() < 2**-25).any()
    assert same(gather_rms_norm(x, weight, 0.0, keep)[1], product.half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flushing_small_numbers_changes_no_half(isa, dtype):
    """Halves below 2**-14 are numbers, whatever torch.set_flush_denormal says of float32's."""
    small = torch.arange(16).to(torch.int16).view(torch.float16).to(dtype).reshape(1, 16)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        assert same(means(torch.stack([small, small])), small)
    finally:
        torch.set_flush_denormal(False)
