"""rms_norm, add_rms_norm, rotary and silu_mul against their references and transformers' own modules."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import guarded
from test_gather import assert_norms, rows

from avflow_ext import (
    add_rms_norm,
    add_rms_norm_reference,
    rms_norm,
    rotary,
    rotary_reference,
    silu_mul,
    silu_mul_reference,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def heads_and_tables(n, heads, kv_heads, d, dtype, seed=0, tables=None):
    """q [n, heads, d], k [n, kv_heads, d], cos and sin [n, d], whose halves differ: nothing may take one for both.

    tables: dtype of cos and sin; None: that of q.
    """
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(n, count, d, generator=g).to(dtype) for count in (heads, kv_heads))
    angles = torch.randn(n, d, generator=g) * 3
    return q, k, angles.cos().to(tables or dtype), angles.sin().to(tables or dtype)


def gates(n, width, dtype, seed=0):
    """gate and up [n, width]; gates far from 0 among them."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, width, generator=g) * 6).to(dtype), torch.randn(n, width, generator=g).to(dtype)


def assert_silus(ours, expected, dtype):
    """The exponential may round otherwise: in fp32 by a few ulps, in halves then by a step, rarely."""
    eps = torch.finfo(dtype).eps
    error = (ours.float() - expected.float()).abs()
    # fp16 has a last place of 6e-8 below 6e-5; below 1e-36 an exponential of fp32 may be flushed.
    small = 1.3e-7 if dtype == torch.float16 else 1e-35
    assert (error <= (2.1 if dtype != torch.float32 else 8) * eps * expected.float().abs() + small).all()
    if dtype != torch.float32 and error.numel() > 1000:
        assert (error > 0).float().mean() < 0.02


def anywhere(x):
    """The same numbers with other strides: rows that begin anywhere, and an innermost stride that is not 1."""
    wide = torch.zeros(*x.shape[:-1], x.shape[-1] + 3, dtype=x.dtype)[..., 3:].copy_(x)
    return wide, x.transpose(0, -1).contiguous().transpose(0, -1)


# ---------------------------------------------------------------- the norms


@given(
    n=st.integers(0, 40),
    width=st.sampled_from([1, 7, 8, 63, 64, 65, 511, 512, 513, 1152]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
@quick
def test_norms_equal_references(n, width, dtype, seed):
    x, weight = rows(n, width, dtype, seed)
    residual, _ = rows(n, width, dtype, seed + 1)
    ours = add_rms_norm(x, residual, weight, 1e-6)
    assert_norms(ours, add_rms_norm_reference(x, residual, weight, 1e-6), dtype)
    assert torch.equal(rms_norm(ours[0], weight, 1e-6), ours[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_on_every_instruction_set(isa, dtype):
    for width in (1, 15, 17, 64, 520, 3584):
        x, weight = rows(20, width, dtype)
        residual, _ = rows(20, width, dtype, 5)
        expected = add_rms_norm_reference(x, residual, weight, 1e-6)
        for a, b in ((x, residual), *zip(anywhere(x), reversed(anywhere(residual)), strict=True)):
            assert_norms(add_rms_norm(a, b, weight, 1e-6), expected, dtype)
        for a in anywhere(expected[0]):
            assert_norms((expected[0], rms_norm(a, weight, 1e-6)), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_are_those_of_transformers(dtype):
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    for kind in (Qwen2RMSNorm, Qwen3RMSNorm):
        x, weight = rows(30, 256, dtype)
        residual, _ = rows(30, 256, dtype, 1)
        norm = kind(256, eps=1e-5).to(dtype)
        norm.weight.data.copy_(weight)
        with torch.no_grad():
            total = residual + x
            expected = total, norm(total)
        reference = add_rms_norm_reference(x, residual, weight, 1e-5)
        assert all(torch.equal(a, b) for a, b in zip(reference, expected, strict=True))
        assert_norms(add_rms_norm(x, residual, weight, 1e-5), expected, dtype)


def test_norms_read_nothing_beyond(isa):
    x, residual = (guarded((3, 100), 300, torch.bfloat16) for _ in range(2))
    total, normed = add_rms_norm(x, residual, x[0], 1e-6)
    assert torch.equal(total, x + residual) and normed.isfinite().all()
    assert rms_norm(x, x[0], 1e-6).isfinite().all()


# ---------------------------------------------------------------- rotary


@given(
    n=st.integers(0, 40),
    heads=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    d=st.sampled_from([2, 6, 8, 16, 30, 64, 80, 128, 1100]),
    dtype=st.sampled_from(DTYPES),
    tables=st.sampled_from([None, torch.float32]),
    seed=st.integers(0, 100),
)
@quick
def test_rotary_equals_reference(n, heads, d, dtype, tables, seed):
    given_ = heads_and_tables(n, *heads, d, dtype, seed, tables)
    ours, expected = rotary(*given_), rotary_reference(*given_)
    assert all(a.is_contiguous() and torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("tables", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_on_every_instruction_set(isa, dtype, tables):
    for d in (2, 34, 128):
        q, k, cos, sin = heads_and_tables(33, 3, 2, d, dtype, tables=tables)
        expected = rotary_reference(q, k, cos, sin)
        for at in range(2):
            moved = tuple(anywhere(x)[at] for x in (q, k, cos, sin))
            assert all(torch.equal(a, b) for a, b in zip(rotary(*moved), expected, strict=True))
        turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k)]  # heads before rows in memory
        assert all(torch.equal(a, b) for a, b in zip(rotary(*turned, cos, sin), expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["qwen2", "qwen2_5_vl", "qwen3_vl", "llama"])
def test_rotary_is_that_of_transformers(family, dtype):
    import importlib

    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    q, k, cos, sin = heads_and_tables(30, 4, 2, 64, dtype)
    laid_out = (q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])  # [1, heads, rows, d]
    expected = [x[0].transpose(0, 1) for x in module.apply_rotary_pos_emb(*laid_out)]
    assert all(torch.equal(a, b) for a, b in zip(rotary(q, k, cos, sin), expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen2_5_vl", "qwen3_vl"])
def test_rotary_by_float32_tables_is_that_of_the_vision_towers(family, dtype):
    """In float32, and rounded once: in halves other numbers than by tables of their own dtype."""
    import importlib

    theirs = importlib.import_module(f"transformers.models.{family}.modeling_{family}").apply_rotary_pos_emb_vision
    q, k, cos, sin = heads_and_tables(300, 4, 2, 80, dtype, tables=torch.float32)
    ours, expected = rotary(q, k, cos, sin), theirs(q, k, cos, sin)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    other = rotary(q, k, cos.to(dtype), sin.to(dtype))
    assert torch.equal(ours[0], other[0]) == (dtype == torch.float32)


def test_rotary_of_any_number(isa):
    """By float32 tables, every bfloat16 there is: tiny and huge ones, infinities, NaN."""
    q = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(-1, 1, 64)
    _, _, cos, sin = heads_and_tables(len(q), 1, 1, 64, torch.float32)
    for ours, expected in zip(rotary(q, q, cos, sin), rotary_reference(q, q, cos, sin), strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())
        assert torch.equal(ours.nan_to_num(0.0, 9.0, -9.0), expected.nan_to_num(0.0, 9.0, -9.0))


def test_rotary_reads_nothing_beyond(isa):
    q, k = guarded((3, 2, 20), 120, torch.float16), guarded((3, 1, 20), 60, torch.float16)
    for dtype in (torch.float16, torch.float32):
        cos, sin = guarded((3, 20), 60, dtype), guarded((3, 20), 60, dtype)
        assert all(x.isfinite().all() for x in rotary(q, k, cos, sin))


# ---------------------------------------------------------------- SiLU times a product


@given(
    n=st.integers(0, 40),
    width=st.sampled_from([1, 7, 8, 63, 64, 65, 511, 512, 513, 1152]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
@quick
def test_silu_equals_reference(n, width, dtype, seed):
    gate, up = gates(n, width, dtype, seed)
    assert_silus(silu_mul(gate, up), silu_mul_reference(gate, up), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silu_on_every_instruction_set(isa, dtype):
    for width in (1, 17, 520):
        gate, up = gates(20, width, dtype)
        expected = silu_mul_reference(gate, up)
        for a, b in ((gate, up), *zip(anywhere(gate), reversed(anywhere(up)), strict=True)):
            assert_silus(silu_mul(a, b), expected, dtype)
    both = torch.cat(gates(9, 64, dtype), 1)  # halves of one product
    assert_silus(silu_mul(both[:, :64], both[:, 64:]), silu_mul_reference(both[:, :64], both[:, 64:]), dtype)


def test_silu_of_any_number(isa):
    """Every bfloat16 there is: tiny and huge ones, infinities, NaN, both zeros."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)[None]
    for dtype in (torch.float32, torch.bfloat16):
        gate = every.to(dtype)
        ours, expected = silu_mul(gate, torch.ones_like(gate)), silu_mul_reference(gate, torch.ones_like(gate))
        assert torch.equal(ours.isnan(), expected.isnan())
        finite = expected.isfinite()
        assert torch.equal(ours[~finite & ~expected.isnan()], expected[~finite & ~expected.isnan()])
        assert_silus(ours[finite], expected[finite], dtype)


def test_silu_reads_nothing_beyond(isa):
    gate, up = (guarded((3, 100), 300, torch.bfloat16) for _ in range(2))
    assert silu_mul(gate, up).isfinite().all()


# ---------------------------------------------------------------- all


def test_threads_change_nothing():
    x, weight = rows(300, 96, torch.float32)
    tables = heads_and_tables(300, 2, 1, 16, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append([*add_rms_norm(x, x, weight, 1e-6), *rotary(*tables), silu_mul(x, x)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def bad_calls():
    x, weight = torch.randn(5, 8), torch.ones(8)
    q, k, cos, sin = heads_and_tables(5, 2, 1, 8, torch.float32)
    yield "x", lambda: rms_norm(x[0], weight, 1e-6), ValueError, r"\(8,\)"
    yield "weight", lambda: add_rms_norm(x, x, weight[:4], 1e-6), ValueError, r"weight \(4,\)"
    yield "weight dtype", lambda: rms_norm(x, weight.bfloat16(), 1e-6), TypeError, "weight torch.bfloat16"
    yield "dtype", lambda: rms_norm(x.double(), weight.double(), 1e-6), TypeError, "float64"
    yield "residual", lambda: add_rms_norm(x, x[:4], weight, 1e-6), ValueError, r"residual \(4, 8\)"
    yield "residual dtype", lambda: add_rms_norm(x, x.half(), weight, 1e-6), TypeError, "residual torch.float16"
    yield "device", lambda: rms_norm(x.to("meta"), weight.to("meta"), 1e-6), NotImplementedError, "meta"
    yield "q", lambda: rotary(q[0], k, cos, sin), ValueError, r"q is \(2, 8\)"
    yield "k", lambda: rotary(q, k[:, :, :4], cos, sin), ValueError, r"k \(5, 1, 4\)"
    yield "partial", lambda: rotary(q, k, cos[:, :4], sin[:, :4]), ValueError, r"cos is \(5, 4\): pass \[rows, d\]"
    yield "sin", lambda: rotary(q, k, cos, sin[:4]), ValueError, r"sin is \(4, 8\)"
    yield "odd", lambda: rotary(q[..., :7], k[..., :7], cos[:, :7], sin[:, :7]), ValueError, "an even d"
    yield "tables", lambda: rotary(q, k, cos.half(), sin), TypeError, "cos torch.float16"
    yield "one table", lambda: rotary(q.half(), k.half(), cos, sin.half()), TypeError, "sin torch.float16"
    yield "other tables", lambda: rotary(q.half(), k.half(), cos.bfloat16(), sin.bfloat16()), TypeError, "cos torch.bf"
    yield "tables elsewhere", lambda: rotary(q, k, cos.to("meta"), sin.to("meta")), TypeError, "cos on meta"
    yield "up", lambda: silu_mul(x, x[:, :4]), ValueError, r"up \(5, 4\)"
    yield "up dtype", lambda: silu_mul(x, x.half()), TypeError, "up torch.float16"


@pytest.mark.parametrize("case", list(bad_calls()), ids=lambda c: c[0])
def test_bad_inputs_name_what_is_wrong(case):
    _, call, error, text = case
    with pytest.raises(error, match=text):
        call()


def test_the_operators_refuse_shapes_too():
    """Called without the Python functions' checks: nothing outside the tensors is read."""
    x, weight = torch.randn(5, 8), torch.ones(8)
    q, k, cos, sin = heads_and_tables(5, 2, 1, 8, torch.float32)
    ops = torch.ops.avflow
    for call in (
        lambda: ops.rms_norm(x, weight[:4], 1e-6),
        lambda: ops.add_rms_norm(x, x[:4], weight, 1e-6),
        lambda: ops.add_rms_norm(x, x.half(), weight, 1e-6),
        lambda: ops.rotary(q, k[:4], cos, sin),
        lambda: ops.rotary(q, k, cos[:, :4], sin),
        lambda: ops.rotary(q, k, cos, sin.half()),
        lambda: ops.rotary(q, k, cos.half(), sin.half()),
        lambda: ops.rotary(q.half(), k.half(), cos.bfloat16(), sin.bfloat16()),
        lambda: ops.rotary(q[..., :7], k[..., :7], cos[:, :7], sin[:, :7]),
        lambda: ops.silu_mul(x, x[:4]),
        lambda: ops.silu_mul(x, x.half()),
    ):
        with pytest.raises(RuntimeError, match="must"):
            call()


def test_opcheck():
    x, weight = rows(9, 24, torch.float32)
    ops = torch.ops.avflow
    torch.library.opcheck(ops.rms_norm.default, (x, weight, 1e-6))
    torch.library.opcheck(ops.add_rms_norm.default, (x, x.flip(0), weight, 1e-6))
    torch.library.opcheck(ops.rotary.default, heads_and_tables(9, 2, 1, 8, torch.float32))
    torch.library.opcheck(ops.rotary.default, heads_and_tables(9, 2, 1, 8, torch.bfloat16, tables=torch.float32))
    torch.library.opcheck(ops.silu_mul.default, (x, x.flip(0)))


def layer(x, weight, q, k, cos, sin):
    total, normed = add_rms_norm(x, x, weight, 1e-6)
    turned = rotary(q, k, cos, sin)
    return silu_mul(total, normed) + rms_norm(x, weight, 1e-6), turned[0].sum() + turned[1].sum()


def test_compiles_whole():
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for n in (5, 7):
            x, weight = rows(n, 24, torch.float32)
            args = (x, weight, *heads_and_tables(n, 2, 1, 8, torch.float32))
            assert all(torch.equal(a, b) for a, b in zip(compiled(*args), layer(*args), strict=True))
