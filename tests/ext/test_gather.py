"""gather_rms_norm and compact against their references: the gathers of the eviction boundary."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import guarded

from avflow_ext import compact, compact_reference, gather_rms_norm, gather_rms_norm_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def positions(n: int, m: int, seed: int = 0) -> torch.Tensor:
    """m positions from -1 (padding) to n - 1, in any order and repeated."""
    return torch.randint(-1, n, (m,), generator=torch.Generator().manual_seed(seed)).to(torch.int32)


def rows(n: int, width: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """x [n, width] whose rows differ in size, and weight [width]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g) * 10 ** (torch.arange(n) % 5 - 2)[:, None]
    return x.to(dtype), (1 + 0.3 * torch.randn(width, generator=g)).to(dtype)


def assert_norms(ours, expected, dtype):
    """kept: bit for bit. normed: the sum of squares may round otherwise, so one step of the dtype's grid, rarely."""
    assert torch.equal(ours[0], expected[0])
    eps = torch.finfo(dtype).eps
    # Two roundings, each of which may fall to the other side: a step each.
    bound = (2.1 if dtype != torch.float32 else 8) * eps * expected[1].float().abs() + 1e-30
    error = (ours[1].float() - expected[1].float()).abs()
    assert (error <= bound).all(), f"{(error / bound).max()} x the bound"
    if dtype != torch.float32 and error.numel():
        assert (error > 0).float().mean() < 0.02


# ---------------------------------------------------------------- gather_rms_norm


@given(
    n=st.integers(1, 40),
    m=st.integers(0, 60),
    width=st.sampled_from([1, 7, 8, 63, 64, 65, 511, 512, 513, 1152, 2048]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
@quick
def test_norm_equals_reference(n, m, width, dtype, seed):
    x, weight = rows(n, width, dtype, seed)
    keep = positions(n, m, seed)
    ours = gather_rms_norm(x, weight, 1e-6, keep)
    assert_norms(ours, gather_rms_norm_reference(x, weight, 1e-6, keep), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 33, 64, 520, 3584])
def test_norm_on_every_instruction_set(isa, width, dtype):
    x, weight = rows(50, width, dtype)
    keep = positions(50, 40)
    expected = gather_rms_norm_reference(x, weight, 1e-6, keep)
    assert_norms(gather_rms_norm(x, weight, 1e-6, keep), expected, dtype)
    wide = torch.zeros(60, width + 3, dtype=dtype)[5:55, 3:].copy_(x)  # rows that begin anywhere
    assert_norms(gather_rms_norm(wide, weight, 1e-6, keep), expected, dtype)
    turned = x.T.contiguous().T  # innermost stride is not 1
    assert_norms(gather_rms_norm(turned, weight, 1e-6, keep), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_is_that_of_transformers(dtype):
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    x, weight = rows(30, 256, dtype)
    norm = Qwen2RMSNorm(256, eps=1e-6).to(dtype)
    norm.weight.data.copy_(weight)
    keep = torch.arange(30, dtype=torch.int32)
    with torch.no_grad():
        expected = norm(x)
    assert torch.equal(gather_rms_norm_reference(x, weight, 1e-6, keep)[1], expected)
    assert_norms(gather_rms_norm(x, weight, 1e-6, keep), (x, expected), dtype)


def test_padding_rows_are_zero_even_of_broken_rows(isa):
    x, weight = rows(4, 64, torch.bfloat16)
    x[0] = torch.nan  # where a clamped -1 would read
    kept, normed = gather_rms_norm(x, weight, 1e-6, torch.tensor([-1, 1, -1], dtype=torch.int32))
    assert (kept[::2] == 0).all() and (normed[::2] == 0).all() and normed.isfinite().all()
    kept, normed = gather_rms_norm(x, weight, 1e-6, torch.tensor([0], dtype=torch.int32))
    assert kept.isnan().all() and normed.isnan().all()


def test_a_row_of_zeros_is_zero():
    weight = torch.ones(16)
    _, normed = gather_rms_norm(torch.zeros(2, 16), weight, 1e-6, torch.tensor([0, 1], dtype=torch.int32))
    assert (normed == 0).all()


def test_norm_reads_nothing_beyond(isa):
    x = guarded((3, 100), 300, torch.bfloat16)
    kept, normed = gather_rms_norm(x, x[2], 1e-6, torch.tensor([2, -1, 0], dtype=torch.int32))
    assert torch.equal(kept[0], x[2]) and normed.isfinite().all()


def test_threads_change_nothing():
    x, weight = rows(300, 96, torch.float32)
    keep = positions(300, 257)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(gather_rms_norm(x, weight, 1e-6, keep)[1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


# ---------------------------------------------------------------- compact


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 30), st.sampled_from([1, 3, 8, 64, 128])),
    m=st.integers(0, 150),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
@quick
def test_compact_equals_reference(shape, m, dtype, seed):
    batch, heads, n, d = shape
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    keep = positions(n, batch * m, seed).view(batch, m)
    ours = compact(x, keep)
    assert ours.is_contiguous() and torch.equal(ours, compact_reference(x, keep))


@pytest.mark.parametrize("dtype", DTYPES)
def test_compact_of_any_strides(dtype):
    x = torch.randn(2, 40, 3, 24).to(dtype)
    keep = torch.stack([positions(40, 30, s) for s in range(2)])
    views = [x.transpose(1, 2), x.transpose(1, 2)[..., 1:18], x.transpose(1, 2)[..., ::2], x.permute(0, 3, 1, 2)]
    for view in views:
        assert torch.equal(compact(view, keep), compact_reference(view, keep))


def test_compact_of_a_cache_reads_nothing_beyond():
    x = guarded((1, 2, 33, 8), 2 * 33 * 8, torch.float16)
    keep = torch.tensor([[32, -1, 0]], dtype=torch.int32)
    assert torch.equal(compact(x, keep)[0, :, 0], x[0, :, 32])


# ---------------------------------------------------------------- bad input, torch's own checks


def bad_calls():
    x, weight, keep = torch.randn(5, 8), torch.ones(8), torch.zeros(2, dtype=torch.int32)
    cache = torch.randn(2, 1, 5, 8)
    yield "x", lambda: gather_rms_norm(x[0], weight, 1e-6, keep), ValueError, r"\(8,\)"
    yield "weight", lambda: gather_rms_norm(x, weight[:4], 1e-6, keep), ValueError, "weight"
    yield "weight dtype", lambda: gather_rms_norm(x, weight.bfloat16(), 1e-6, keep), TypeError, "agree"
    yield "keep dtype", lambda: gather_rms_norm(x, weight, 1e-6, keep.long()), TypeError, "int64"
    yield "dtype", lambda: gather_rms_norm(x.double(), weight.double(), 1e-6, keep), TypeError, "float64"
    yield (
        "device",
        lambda: gather_rms_norm(*(t.to("meta") for t in (x, weight)), 1e-6, keep.to("meta")),
        (NotImplementedError),
        "meta",
    )
    yield "range", lambda: gather_rms_norm(x, weight, 1e-6, keep + 5), ValueError, "^keep holds 5"
    yield "below", lambda: gather_rms_norm(x, weight, 1e-6, keep - 2), ValueError, "^keep holds -2"
    yield (
        "gradient",
        lambda: gather_rms_norm(x.clone().requires_grad_(), weight, 1e-6, keep),
        (NotImplementedError),
        "backward",
    )
    yield "cache", lambda: compact(x, keep), ValueError, "batch, heads"
    yield "lines", lambda: compact(cache, keep[None]), ValueError, "2 sequences"
    yield "cache range", lambda: compact(cache, keep.view(2, 1) + 7), ValueError, "^keep holds 7"


@pytest.mark.parametrize("case", list(bad_calls()), ids=lambda c: c[0])
def test_bad_inputs_name_what_is_wrong(case):
    _, call, error, text = case
    with pytest.raises(error, match=text):
        call()


def test_opcheck():
    x, weight = rows(9, 24, torch.float32)
    keep = positions(9, 5)
    torch.library.opcheck(torch.ops.avflow.gather_rms_norm.default, (x, weight, 1e-6, keep))
    cache = torch.randn(2, 9, 3, 8).transpose(1, 2)
    torch.library.opcheck(torch.ops.avflow.compact.default, (cache, positions(9, 8).view(2, 4)))


def boundary(x, weight, keep, cache, lines):
    kept, normed = gather_rms_norm(x, weight, 1e-6, keep)
    return kept + normed, compact(cache, lines) * 2


def test_compiles_whole():
    x, weight = rows(9, 24, torch.float32)
    cache = torch.randn(2, 9, 3, 8).transpose(1, 2)
    compiled = torch.compile(boundary, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for m in (5, 7):
            args = (x, weight, positions(9, m), cache, positions(9, 2 * m).view(2, m))
            assert all(torch.equal(a, b) for a, b in zip(compiled(*args), boundary(*args), strict=True))


def test_compiles_whole_with_fake_cuda_tensors():
    with torch._subclasses.FakeTensorMode(), torch.no_grad():
        x, weight = (torch.empty(s, dtype=torch.bfloat16, device="cuda:0") for s in ((9, 64), (64,)))
        keep = torch.empty(5, dtype=torch.int32, device="cuda:0")
        cache = torch.empty(3, 2, 9, 64, dtype=torch.bfloat16, device="cuda:0")
        lines = torch.empty(3, 4, dtype=torch.int32, device="cuda:0")
        a, b = torch.compile(boundary, fullgraph=True, backend="aot_eager")(x, weight, keep, cache, lines)
    assert a.shape == (5, 64) and b.shape == (3, 2, 4, 64) and a.device.type == b.device.type == "cuda"


def test_each_op_names_its_path():
    from avflow.cli.doctor import examine
    from avflow_ext import capabilities

    ops = capabilities()["ops"]
    passes = {"rms_norm", "add_rms_norm", "rotary", "silu_mul"}
    assert set(ops) == {"attention", "gather_rms_norm", "compact"} | passes
    said = examine()["kernels"]
    assert all(said[op][0] == f"cpu {paths['cpu']}" for op, paths in ops.items())
