"""A row or a few against many keys, which each path reads where they lie, in every dtype."""

import math

import pytest
import torch
from op_cases import EVERYTHING, assert_same, qkv

from avflow_ext import AttentionProblem, Cut, Tokens, attention, attention_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rows x query heads of a kv head from 1 to 17, of which 16 are few; depths that are whole vectors, and that are not.
SHAPES = [
    (1, 1, 128),
    (2, 1, 64),
    (6, 2, 96),
    (14, 2, 80),
    (16, 2, 128),
    (16, 1, 256),
    (17, 1, 64),
    (5, 5, 72),
    (1, 1, 16),
]


def last(rows: int, n: int, keep=None, **rules) -> AttentionProblem:
    """The last rows of n tokens in five groups."""
    group = torch.arange(n) * 5 // n
    return AttentionProblem(
        Tokens(torch.arange(n - rows, n), group[-rows:]), Tokens(torch.arange(n), group), keep_keys=keep, **rules
    )


def first_of_a_tile() -> AttentionProblem:
    """One row, which sees the first of 64 keys."""
    keys = torch.arange(64)
    return AttentionProblem(Tokens(keys[:1], keys[:1] * 0), Tokens(keys, keys * 0))


def check(q, k, v, problem, **options):
    """As far from the reference as the dtype's rounding of the output, and of weights where bfloat16 is multiplied."""
    ours = attention(q, k, v, problem, **options, **EVERYTHING)
    expected = attention_reference(q.float(), k.float(), v.float(), problem, **options, **EVERYTHING)
    assert_same(
        ours,
        expected,
        out={torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}[q.dtype] * v.float().abs().max().item()
        + 2e-5,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_equal_to_the_reference(isa, rows, shape, dtype):
    for n in (64, 321):  # a tile; five, and a key more
        problem = last(rows, n, cuts=[Cut(0b100, 0b10000)])
        q, k, v = qkv(problem, *shape, dtype=dtype)
        for semantics in ("renormalize", "zero"):
            check(q, k, v, problem, semantics=semantics)
        apart = torch.stack([k, v], 1)  # rows of keys and values in turn: strides of their own
        check(q, apart[:, 0], apart[:, 1], problem)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_keys(isa, dtype):
    """Whole tiles of keys that lie apart, and a last one that is not whole."""
    kept = torch.arange(400)[torch.arange(400) % 5 != 3]
    problem = last(2, 400, kept)
    for shape in ((8, 2, 128), (3, 1, 40)):
        check(*qkv(problem, *shape, dtype=dtype), problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_only_what_is_seen_spoils(isa, dtype, poison):
    """Keys and values that are cut hold NaN or infinities: in place, in a tile that is not whole, and gathered."""
    n, cut = 330, [Cut(0b100, 0b10000)]  # 132 keys: whole tiles, and parts of two
    for keep in (None, torch.arange(n)[torch.arange(n) % 3 != 1]):
        problem = last(2, n, keep, cuts=cut)
        q, k, v = qkv(problem, 8, 2, 64, dtype=dtype)
        want = attention(q, k, v, problem, **EVERYTHING)
        spoiled_k, spoiled_v = k.clone(), v.clone()
        spoiled_k[132:198], spoiled_v[132:198] = poison, poison
        ours = attention(q, spoiled_k, spoiled_v, problem, **EVERYTHING)
        assert (ours.out.float() - want.out.float()).abs().max() <= 0.02  # of bfloat16 the weights are floats here
        assert torch.equal(ours.lse, want.lse) and torch.equal(ours.group_mass, want.group_mass)
        v[0, 1, 5] = poison  # key 0 is kept, and seen
        out = attention(q, k, v, problem).out
        assert not torch.isfinite(out[:, 4:, 5]).any()
        out[:, 4:, 5] = 0
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_every_number_of_16_bits(isa, dtype):
    """Of 64 keys a row sees the first, whose value comes out as it is: all 65,536 bit patterns but NaN."""
    problem = first_of_a_tile()
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).clone()
    numbers[numbers.isnan()] = 0
    q, k = torch.zeros(1, 64, 256, dtype=dtype), torch.zeros(64, 64, 256, dtype=dtype)
    v = torch.full((64, 64, 256), 3.0, dtype=dtype)
    for part in numbers.view(4, 64, 256):
        finite = part.isfinite()
        if dtype == torch.bfloat16:  # below the least normal float they may be 0 where pairs of them are multiplied
            tiny = part.float().abs() < 2.0**-126
            v[0], finite = torch.where(tiny, part, 0), finite & ~tiny
            assert (attention(q, k, v, problem).out.float().abs() < 2.0**-126).all()
        v[0] = torch.where(finite, part, 0)
        assert torch.equal(attention(q, k, v, problem).out[0], v[0])
        v[0], infinite = part, part.isinf()
        assert infinite.sum() == (part.abs().max() == math.inf)
        assert torch.equal(attention(q, k, v, problem).out[0][infinite], part[infinite])


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_keys_of_every_size(isa, dtype):
    """The only score is the first number of a key, from the dtype's least to thousands."""
    least = {torch.bfloat16: 2.0**-120, torch.float16: 2.0**-24}[dtype]
    numbers = torch.logspace(math.log10(least), 4, 64, dtype=torch.float64).to(dtype)
    q, k, v = (torch.zeros(n, 64, 64, dtype=dtype) for n in (1, 64, 64))
    q[..., 0], k[0, :, 0] = 1, numbers
    lse = attention(q, k, v, first_of_a_tile(), scale=1.0, return_lse=True).lse[0]
    assert torch.allclose(lse, numbers.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_any_number_of_threads(isa, dtype):
    problem = last(1, 3000)
    q, k, v = qkv(problem, 8, 2, 128, dtype=dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(attention(q, k, v, problem, **EVERYTHING))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
