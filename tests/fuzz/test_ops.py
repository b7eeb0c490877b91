"""The ops on any problem, any strides and any numbers: equal to a plain float64 computation, and never a crash."""

from __future__ import annotations

import torch
from cpu_paths import running
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from op_cases import EVERYTHING, cache_problems, cache_qkv, problems
from rule_cases import ruled_problems

from avflow_ext import (
    AttentionProblem,
    Cut,
    Streams,
    Tokens,
    attention,
    compact,
    gather_rms_norm,
)
from avflow_ext._load import _C
from avflow_ext.gather import compact_reference, gather_rms_norm_reference
from avflow_ext.reference import by_key, cut_mask, visible

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RUNNING = running()
INTS = st.one_of(
    st.integers(-3, 70), st.sampled_from([2**31 - 1, -(2**31), -(2**31) + 1, 2**31, 2**40, 2**63, -(2**70)])
)
LISTS = st.lists(INTS, max_size=6)
ORDERS = st.lists(st.integers(-3, 70) | st.sampled_from([2**31 - 1, -(2**31)]), max_size=6)


@st.composite
def shapes(draw):
    """heads, kv_heads, d"""
    kv_heads = draw(st.integers(1, 4))
    return kv_heads * draw(st.integers(1, 8)), kv_heads, 8 * draw(st.integers(1, 32))


def strided(draw, x: torch.Tensor) -> torch.Tensor:
    """The same numbers, laid out otherwise, with NaN between them."""
    for dim in range(x.dim()):
        how = draw(st.sampled_from(["as it is", "as it is", "apart", "outermost"]))
        if how == "apart":
            wider = x.new_full((*x.shape[:dim], 2 * x.shape[dim] + 1, *x.shape[dim + 1 :]), torch.nan)
            view = wider.narrow(dim, 1, 2 * x.shape[dim]).unflatten(dim, (x.shape[dim], 2)).select(dim + 1, 0)
            x = view.copy_(x)
        elif how == "outermost":
            x = x.movedim(dim, 0).contiguous().movedim(0, dim)
    return x


def exact(q, k, v, problem, scale, semantics, row_order):
    """out, lse and group mass in float64, and the largest |score|."""
    present = torch.ones(problem.n_keys, dtype=torch.bool)
    if k.dim() == 4:
        k, present = by_key(k, problem)
        v, _ = by_key(v, problem)
    if problem.keep_rows is not None:
        q = q[problem.keep_rows.long()]
    if problem.keep_keys is not None:
        kept = problem.keep_keys.long()
        k, v, present = k[kept], v[kept], present[kept]
    ratio = q.shape[1] // k.shape[1]
    q, k, v = (t.double().transpose(0, 1) for t in (q, k, v))  # [heads, rows or keys, d]
    seen = (visible(problem, row_order) & present)[None]
    cut = cut_mask(problem, len(q), row_order)
    scored = seen & ~cut if semantics == "renormalize" else seen.expand_as(cut)
    score = q @ k.repeat_interleave(ratio, 0).transpose(1, 2) * scale
    largest = float(score.masked_fill(~scored, 0).abs().max()) if score.numel() else 0.0
    score = score.masked_fill(~scored, -torch.inf)
    lse = torch.logsumexp(score, -1)
    weight = torch.where(scored, torch.exp(score - lse[..., None]), 0.0)
    if semantics == "zero":
        weight = weight.masked_fill(cut, 0.0)
    out = weight @ v.repeat_interleave(ratio, 0)
    mass = weight @ (problem.keys.group[:, None] == torch.arange(problem.groups)).double()
    return (out.transpose(0, 1), lse.T, mass.transpose(0, 1)), largest


def check(data, q, k, v, problem, row_order=None) -> None:
    """The op within what fp32 arithmetic can give at these sizes of numbers."""
    semantics = data.draw(st.sampled_from(["renormalize", "zero"]))
    scale = data.draw(st.sampled_from([None, None, 1.0, 0.01, -0.5, 0.0]))
    size = data.draw(st.sampled_from([1.0, 1.0, 30.0, 1e-3]))
    q, v = q * size, v * size
    expected, largest = exact(q, k, v, problem, q.shape[-1] ** -0.5 if scale is None else scale, semantics, row_order)
    old = _C.cpu_isa(), torch.get_num_threads()
    isa, threads = data.draw(st.sampled_from(RUNNING)), data.draw(st.integers(1, 2))
    try:
        _C.set_cpu_isa(isa)
        torch.set_num_threads(threads)
        ours = attention(q, k, v, problem, scale, semantics, row_order=row_order, **EVERYTHING)
    finally:
        _C.set_cpu_isa(old[0])
        torch.set_num_threads(old[1])
    # A score of size s is known to s * d * 2**-24 in fp32, and moves the weights by as much.
    slack = 4e-5 * (1 + largest * q.shape[-1] ** 0.5 / 16)
    values = float(v.double().nan_to_num().abs().max()) if v.numel() else 0.0
    rounding = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-11}[q.dtype]
    bounds = (slack * max(values, 1e-3) + rounding * values, slack * max(1, largest) ** 0.5, slack)
    for name, a, b, bound in zip(("out", "lse", "mass"), ours, expected, bounds, strict=True):
        assert a.shape == b.shape, name
        if a.numel() == 0:
            continue
        assert torch.equal(torch.isneginf(a), torch.isneginf(b)), f"{name}: -inf elsewhere"
        worst = float((a.double() - b).masked_fill(torch.isneginf(b), 0).abs().max())
        assert worst <= bound, f"{name}: {worst:.2e} > {bound:.2e}"


@fuzz(70)
@given(data=st.data())
def test_attention(data):
    shape, dtype = data.draw(shapes()), data.draw(st.sampled_from(DTYPES))
    size = {"heads": shape[0], "longest": 150}
    problem = data.draw(problems(**size) | ruled_problems(**size))
    heads, kv_heads, d = shape
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    q = torch.randn(problem.n_rows, heads, d, generator=g).to(dtype)
    k, v = (torch.randn(problem.n_keys, kv_heads, d, generator=g).to(dtype) for _ in range(2))
    for kept, tensors in ((problem.keep_rows, (q,)), (problem.keep_keys, (k, v))):
        if kept is not None:
            for t in tensors:  # what is not kept is not read
                t[~torch.isin(torch.arange(len(t)), kept)] = torch.nan
    check(data, *(strided(data.draw, t) for t in (q, k, v)), problem)


@fuzz(40)
@given(data=st.data())
def test_attention_over_a_cache(data):
    shape, dtype = data.draw(shapes()), data.draw(st.sampled_from(DTYPES))
    problem, batch, slots, order = data.draw(cache_problems(heads=shape[0], most=100))
    q, k, v = cache_qkv(problem, batch, slots, shape, data.draw(st.integers(0, 2**16)), dtype)
    check(data, strided(data.draw, q), k, v, problem, order)


@fuzz(150)
@given(data=st.data())
def test_columns_of_any_integers_are_served_or_refused(data):
    """ValueError, TypeError or IndexError, or a result equal to float64's."""
    some = data.draw(st.integers(0, 6))
    fits = st.lists(INTS, min_size=some, max_size=some)
    try:
        tokens = Tokens(
            data.draw(fits.map(sorted) | fits),
            data.draw(st.lists(st.integers(0, 70), min_size=some, max_size=some) | fits),
            data.draw(st.none() | fits),
            data.draw(st.none() | st.lists(st.integers(-1, 2), min_size=some, max_size=some) | fits),
        )
        streams = data.draw(st.none() | st.builds(Streams, LISTS | st.just([-1, 0, 0]), LISTS))
        cut = Cut(
            data.draw(INTS),
            data.draw(INTS),
            data.draw(st.none() | LISTS.map(tuple)),
            heads=data.draw(st.none() | INTS),
            random_share=data.draw(st.none() | st.floats()),
            seed=data.draw(INTS),
        )
        problem = AttentionProblem(
            tokens,
            streams=streams,
            cuts=data.draw(st.sampled_from([(), (cut,)])),
            keep_rows=data.draw(st.none() | LISTS),
            keep_keys=data.draw(st.none() | LISTS),
            groups=data.draw(st.none() | INTS),
            latest_order=data.draw(st.none() | INTS),
        )
        row_order = None if problem.latest_order is None else torch.tensor(data.draw(ORDERS), dtype=torch.int32)
        q, k, v = torch.randn(3, some, 2, 8, generator=torch.Generator().manual_seed(some))
        attention(q, k, v, problem, row_order=row_order)
    except (ValueError, TypeError, IndexError):
        return
    check(data, q, k, v, problem, row_order)


@fuzz(60)
@given(data=st.data())
def test_gathers(data):
    dtype, n, width = data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 150))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    size = data.draw(st.sampled_from([1.0, 1e3, 1e-6, 0.0]))
    keep = torch.tensor(data.draw(st.lists(st.integers(-2, n), max_size=50)), dtype=torch.int32)
    x = strided(data.draw, (torch.randn(n, width, generator=g) * size).to(dtype))
    weight = strided(data.draw, torch.randn(width, generator=g).to(dtype))
    eps = data.draw(st.sampled_from([1e-6, 1e-5, 1.0]))
    heads = strided(data.draw, torch.randn(2, 3, n, width, generator=g).to(dtype))
    if keep.numel() and not -1 <= int(keep.min()) <= int(keep.max()) < n:
        for call in (lambda: gather_rms_norm(x, weight, eps, keep), lambda: compact(heads, keep.expand(2, -1))):
            try:
                call()
                raise AssertionError("a position outside was taken")
            except (ValueError, IndexError):
                pass
        return
    for ours, theirs in zip(
        gather_rms_norm(x, weight, eps, keep), gather_rms_norm_reference(x, weight, eps, keep), strict=True
    ):
        bound = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)
    assert torch.equal(compact(heads, keep.expand(2, -1)), compact_reference(heads, keep.expand(2, -1)))
