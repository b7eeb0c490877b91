"""A row or a few against many keys on the CPU: scores by dot products with keys that lie as the caller has them."""

import pytest
import torch
from op_cases import EVERYTHING, assert_same, cache_qkv, qkv

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference

N = 330  # five key tiles and a bit: keys are split, and the last tile is not whole
WITHIN = {torch.float32: 2e-5, torch.float16: 5e-3}


def last_rows(rows: int, keep: torch.Tensor | None = None) -> AttentionProblem:
    at, group = torch.arange(N), torch.arange(N) // 60
    return AttentionProblem(
        Tokens(at[N - rows :], group[N - rows :]),
        Tokens(at, group),
        cuts=[Cut(0b10, 0b111111), Cut(0b100, 0b111111, heads=0b1)],
        keep_keys=keep,
    )


def check(q, k, v, problem, **options):
    ours = attention(q, k, v, problem, **options, **EVERYTHING)
    expected = attention_reference(q.float(), k.float(), v.float(), problem, **options, **EVERYTHING)
    assert_same(ours, expected, out=WITHIN[q.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
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
            check(*qkv(problem, 4, 2, depth, seed=depth, dtype=dtype), problem, semantics="zero")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_batch_that_decodes(isa, dtype):
    """Key tiles that lie in two sequences, in a cache of which some slots are filled."""
    capacity = 200
    at, stream = torch.arange(capacity).repeat(2), torch.arange(2).repeat_interleave(capacity)
    keys = Tokens(at, at // 50, None, stream)
    problem = AttentionProblem(keys.select(torch.tensor([150, capacity + 150])), keys, Streams.roots(2))
    for slots in (capacity, 170, 151, 64):
        check(*cache_qkv(problem, 2, slots, (8, 1, 64), dtype=dtype), problem)


def test_keys_that_are_cut_may_be_anything(isa):
    """Scores of NaN and infinity are never looked at where the row does not see the key."""
    problem = last_rows(2)
    q, k, v = qkv(problem, 8, 2, 64)
    expected = attention(q, k, v, problem, **EVERYTHING)
    k[60:120] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(20)[:, None, None]
    v[60:120] = torch.nan
    assert_same(attention(q, k, v, problem, **EVERYTHING), expected)
