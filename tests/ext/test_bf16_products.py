"""bfloat16 on the CPU, on each instruction set: products of bfloat16 where the processor has them, else of floats."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import EVERYTHING, HEAD_SHAPES, assert_same, causal, cpu_isas, problems, qkv, rich_problem

from avflow_ext import AttentionProblem, Cut, Tokens, attention, attention_reference, capabilities
from avflow_ext._load import _C

BF16 = torch.bfloat16
PATHS = [path for path in ("amx", "avx512_bf16", "neon_bf16") if path in capabilities()["cpu_built"]]


@pytest.fixture(params=PATHS)
def path(request):
    """Each path that multiplies bfloat16 and that this processor runs."""
    before = _C.cpu_isa()
    try:
        _C.set_cpu_isa(request.param)
    except ValueError:
        pytest.skip(f"this processor does not run {request.param}")
    yield request.param
    _C.set_cpu_isa(before)


def check(q, k, v, problem, **options):
    """Scores, maximum and sums are fp32's. A weight is off by 2**-8 of itself, the output once more by as much."""
    ours = attention(q, k, v, problem, **options, **EVERYTHING)
    expected = attention_reference(q.float(), k.float(), v.float(), problem, **options, **EVERYTHING)
    largest = v.float().abs().max().item() if v.numel() else 0.0
    assert_same(ours, expected, out=2**-7 * largest + 1e-6)


@given(
    problem=problems(),
    shape=st.sampled_from(HEAD_SHAPES),
    semantics=st.sampled_from(["renormalize", "zero"]),
    scale=st.sampled_from([None, 0.1, -0.05, 0.0]),
    isa=st.sampled_from(cpu_isas()),
)
@settings(max_examples=40, deadline=None)
def test_equals_reference(problem, shape, semantics, scale, isa):
    before = _C.cpu_isa()
    _C.set_cpu_isa(isa)
    try:
        check(*qkv(problem, *shape, dtype=BF16), problem, semantics=semantics, scale=scale)
    finally:
        _C.set_cpu_isa(before)


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("shape", HEAD_SHAPES)
def test_many_tiles(path, shape, semantics):
    """Row tiles that share panels, and last ones that are not whole."""
    problem = rich_problem()
    check(*qkv(problem, *shape, dtype=BF16), problem, semantics=semantics)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 33, 63, 64, 65, 129, 257, 321])
def test_edges_of_tiles(path, n):
    """Of matrix tiles of 16, blocks of 32 rows, key tiles of 64 and batches of four."""
    for heads in (1, 7):
        problem = AttentionProblem(causal(n))
        check(*qkv(problem, heads, 1, 48, dtype=BF16), problem)


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("kept", [False, True])
def test_few_rows(path, rows, kept):
    """Keys are split, and read where they lie or gathered."""
    n, group = 800, torch.arange(800) // 160
    keep = torch.arange(n)[torch.arange(n) % 7 != 3] if kept else None
    problem = AttentionProblem(
        Tokens(torch.arange(n - rows, n), group[-rows:]),
        Tokens(torch.arange(n), group),
        cuts=[Cut(0b10, 0b111111)],
        keep_keys=keep,
    )
    for shape in ((16, 2, 128), (3, 1, 40), (32, 1, 64)):
        q, k, v = qkv(problem, *shape, dtype=BF16)
        check(q, k, v, problem)
        apart = torch.stack([k, v], 1)  # rows of k and v in turn: strides of their own
        check(q, apart[:, 0], apart[:, 1], problem)


def test_weights_are_rounded_to_nearest(path):
    """Values of one: what rounding takes from one weight it gives another. Cut off, they would sum to some 0.997."""
    problem = AttentionProblem(causal(600))
    q, k, v = qkv(problem, 4, 1, 64, dtype=BF16)
    out = attention(q * 0.3, k, torch.ones_like(v), problem).out
    assert (out[100:] == 1).all()


def test_exact_weights_are_not_rounded(path):
    """Scores of whole powers of two: nothing is rounded but the output."""
    n, d = 200, 32
    problem = AttentionProblem(causal(n))
    q, k, v = qkv(problem, 8, 2, d, dtype=BF16)
    q, k = torch.zeros_like(q), torch.zeros_like(k)
    q[..., 0], k[..., 0] = 1, torch.arange(n)[:, None] % 4
    expected = attention_reference(q.float(), k.float(), v.float(), problem, scale=math.log(2)).out
    ours = attention(q, k, v, problem, scale=math.log(2)).out.float()
    assert ((ours - expected).abs() <= (2**-8 + 1e-5) * expected.abs() + 1e-6).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_only_what_is_seen_spoils(path, poison):
    n = 300
    group = torch.zeros(n, dtype=torch.int32)
    group[10:14] = group[70:210] = 1  # in a partial tile, and whole tiles
    problem = AttentionProblem(causal(n, group=group), cuts=[Cut(0b10, 0b01)])
    q, k, v = qkv(problem, 8, 2, 64, dtype=BF16)
    free = group == 0
    expected = attention(q, k, v, problem, **EVERYTHING)
    spoiled_k, spoiled_v = k.clone(), v.clone()
    spoiled_k[~free], spoiled_v[~free] = poison, poison
    ours = attention(q, spoiled_k, spoiled_v, problem, **EVERYTHING)
    assert (ours.out[free].float() - expected.out[free].float()).abs().max() <= 0.02  # weights in fp32 there
    assert torch.equal(ours.lse[free], expected.lse[free])
    assert torch.equal(ours.group_mass[free], expected.group_mass[free])
    assert not torch.isfinite(ours.out[~free]).any()
    v[50] = poison
    seen = attention(q, k, v, problem).out
    assert torch.isfinite(seen[:50]).all() and not torch.isfinite(seen[50:]).any()


def test_threads_change_nothing(path):
    """Matrix tiles are a thread's own."""
    problem = rich_problem()
    q, k, v = qkv(problem, 8, 2, 64, dtype=BF16)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(attention(q, k, v, problem).out)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_are_avx512s(path, dtype):
    problem = rich_problem()
    inputs = qkv(problem, 8, 2, 64, dtype=dtype)
    here = attention(*inputs, problem, **EVERYTHING)
    _C.set_cpu_isa("avx512")
    for a, b in zip(here, attention(*inputs, problem, **EVERYTHING), strict=True):
        assert torch.equal(a, b)


def test_the_choice_is_the_fastest():
    """Matrix tiles wherever they are; pairs only where the processor has as many units for them as for floats."""
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or "avx512" not in capabilities()["cpu_built"]:
        pytest.skip("needs Linux on x86-64")
    facts = dict(
        line.split("\t:", 1)[0:2] for line in cpu.read_text().replace("\t\t:", "\t:").splitlines() if "\t:" in line
    )
    flags, amd = facts["flags"].split(), "AuthenticAMD" in facts["vendor_id"]
    chosen = _C.cpu_isa()  # tests that set another one put it back
    if "amx_bf16" in flags and "amx" in cpu_isas():
        assert chosen == "amx"
    elif "avx512_bf16" in flags:
        assert chosen == ("avx512_bf16" if amd else "avx512")
    else:
        assert chosen not in PATHS
