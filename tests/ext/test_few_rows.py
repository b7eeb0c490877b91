"""A row or a few against many keys on the CPU: keys and values are read where they lie, as they are stored."""

import math

import pytest
import torch
from op_cases import EVERYTHING, assert_same, cache_qkv, qkv

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference

N = 330  # five key tiles and a bit: keys are split, and the last tile is not whole
# Of the largest value: what rounding takes from the output, and in bfloat16 from weights where it is multiplied.
WITHIN = {torch.float32: 5e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
HALVES = [torch.bfloat16, torch.float16]


def last_rows(rows: int, keep: torch.Tensor | None = None) -> AttentionProblem:
    at, group = torch.arange(N), torch.arange(N) // 60
    return AttentionProblem(
        Tokens(at[N - rows :], group[N - rows :]),
        Tokens(at, group),
        cuts=[Cut(0b10, 0b111111), Cut(0b100, 0b111111, heads=0b1)],
        keep_keys=keep,
    )


def first_of_a_tile() -> AttentionProblem:
    """One row, which sees the first of 64 keys."""
    keys = torch.arange(64)
    return AttentionProblem(Tokens(keys[:1], keys[:1] * 0), Tokens(keys, keys * 0))


def check(q, k, v, problem, **options):
    ours = attention(q, k, v, problem, **options, **EVERYTHING)
    expected = attention_reference(q.float(), k.float(), v.float(), problem, **options, **EVERYTHING)
    assert_same(ours, expected, out=WITHIN[q.dtype] * v.float().abs().max().item())


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("kept", [False, True])
def test_every_number_of_rows(isa, dtype, kept):
    """Blocks of rows that are whole and not, up to where keys are transposed instead, and heads of any depth."""
    keep = torch.arange(N)[torch.arange(N) % 7 != 3] if kept else None
    for count in range(1, 19):
        problem = last_rows(1, keep)
        check(*qkv(problem, count, 1, 32, seed=count, dtype=dtype), problem)
    for depth in (8, 24, 40, 48, 64, 128, 256):
        for rows in (1, 3):
            problem = last_rows(rows, keep)
            q, k, v = qkv(problem, 4, 2, depth, seed=depth, dtype=dtype)
            check(q, k, v, problem, semantics="zero")
            apart = torch.stack([k, v], 1)  # rows of keys and values in turn: strides of their own
            check(q, apart[:, 0], apart[:, 1], problem)


@pytest.mark.parametrize("dtype", WITHIN)
def test_a_batch_that_decodes(isa, dtype):
    """Key tiles that lie in two sequences, in a cache of which some slots are filled."""
    capacity = 200
    at, stream = torch.arange(capacity).repeat(2), torch.arange(2).repeat_interleave(capacity)
    keys = Tokens(at, at // 50, None, stream)
    problem = AttentionProblem(keys.select(torch.tensor([150, capacity + 150])), keys, Streams.roots(2))
    for slots in (capacity, 170, 151, 64):
        check(*cache_qkv(problem, 2, slots, (8, 1, 64), dtype=dtype), problem)


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_only_what_is_seen_spoils(isa, dtype, poison):
    """Keys and values that are cut hold NaN or infinities: in tiles that are in place, in part of one, and gathered."""
    for keep in (None, torch.arange(N)[torch.arange(N) % 7 != 3]):
        problem = last_rows(2, keep)
        q, k, v = qkv(problem, 8, 2, 64, dtype=dtype)
        want = attention(q, k, v, problem, **EVERYTHING)
        spoiled_k, spoiled_v = k.clone(), v.clone()
        spoiled_k[60:120] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(20)[:, None, None]
        spoiled_v[60:120] = poison
        ours = attention(q, spoiled_k, spoiled_v, problem, **EVERYTHING)
        assert_same(ours, want, out=0.02 if dtype == torch.bfloat16 else 2e-3)  # their weights are floats
        v[200, 1, 5] = poison  # which the rows see
        out = attention(q, k, v, problem).out
        assert not torch.isfinite(out[:, 4:, 5]).any()
        out[:, 4:, 5] = 0
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("dtype", HALVES)
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


@pytest.mark.parametrize("dtype", HALVES)
def test_keys_of_every_size(isa, dtype):
    """The only score is the first number of a key, from the dtype's least to thousands."""
    least = {torch.bfloat16: 2.0**-120, torch.float16: 2.0**-24}[dtype]
    numbers = torch.logspace(math.log10(least), 4, 64, dtype=torch.float64).to(dtype)
    q, k, v = (torch.zeros(n, 64, 64, dtype=dtype) for n in (1, 64, 64))
    q[..., 0], k[0, :, 0] = 1, numbers
    lse = attention(q, k, v, first_of_a_tile(), scale=1.0, return_lse=True).lse[0]
    assert torch.allclose(lse, numbers.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", WITHIN)
def test_the_same_bits_on_any_number_of_threads(isa, dtype):
    problem = last_rows(1)
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
