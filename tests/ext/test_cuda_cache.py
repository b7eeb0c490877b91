"""The emulated CUDA kernel on keys of a batch by slot, and on rows whose order each call says."""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, FP16, check
from cuda_emulator import SCHEDULES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import cache_problems, cache_qkv, guarded

from avflow_ext import AttentionProblem, Cut, Streams, Tokens

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(
    case=cache_problems(most=90),
    shape=st.sampled_from([(8, 1, 64), (7, 1, 128), (4, 2, 64), (3, 1, 64)]),
    dtype=st.sampled_from([BF16, FP16]),
    semantics=st.sampled_from(["renormalize", "zero"]),
    schedule=st.integers(0, SCHEDULES - 1),
)
@quick
def test_equals_reference(library, case, shape, dtype, semantics, schedule):
    problem, batch, slots, order = case
    tensors = cache_qkv(problem, batch, slots, shape, dtype=dtype)
    check(library, problem, *shape, dtype, semantics, schedule=schedule, tensors=tensors, row_order=order)


def generation(batch: int, length: int, first: int, d: int = 64):
    """A static cache that is written as far as each call says; the problem is made once, from order `first` on."""
    at = torch.arange(length).repeat(batch)
    stream = torch.arange(batch).repeat_interleave(length)
    keys = Tokens(at, torch.where(at < 60, 1, 0), None, stream)
    rows = Tokens([first] * batch, [0] * batch, None, list(range(batch)))
    problem = AttentionProblem(rows, keys, Streams.roots(batch), [Cut(2, 1, heads=1)], latest_order=length - 1)
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(batch, 2, length, d, generator=g).to(BF16).transpose(1, 2) for _ in range(2))
    return problem, torch.randn(batch, 8, d, generator=g).to(BF16), k, v


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_tail_of_a_static_cache_does_not_leak(library, batch, garbage):
    """Bit for bit; in the tile that is half written, in those after it, and in parts of the keys that see nothing."""
    problem, q, k, v = generation(batch, 700, 200)
    for last in (200, 255, 256, 699):
        order = torch.tensor([last - (b if last > 210 else 0) for b in range(batch)], dtype=torch.int32)
        clean, splits = check(library, problem, 8, 2, 64, BF16, tensors=(q, k, v), row_order=order)
        assert (splits > 1) == (library.kernel == "cuda" or batch == 3)
        ruined = [t.clone() for t in (k, v)]
        for t in ruined:
            for b in range(batch):
                t[b, int(order[b]) + 1 :] = garbage
        for schedule in range(SCHEDULES):
            ours, _ = cuda_emulator.attention(
                library, q, *ruined, problem, row_order=order, schedule=schedule, **EVERYTHING
            )
            assert all(torch.equal(a, b) for a, b in zip(ours, clean, strict=True))


def test_a_growing_cache_reads_no_further(library):
    """Slots grow under one problem; what lies behind them in memory is NaN, and the rows say they may see it."""
    problem, q, k, v = generation(2, 400, 100)
    order = torch.tensor([399, 390], dtype=torch.int32)
    for slots in (0, 1, 63, 64, 65, 200, 400):
        held = []
        for t in (k, v):
            behind = torch.full((2, slots + 70, 2, 64), torch.nan, dtype=BF16)
            behind[:, :slots] = t[:, :slots]
            held.append(behind[:, :slots])
        ours, _ = check(library, problem, 8, 2, 64, BF16, tensors=(q, *held), row_order=order)
        assert (ours.out == 0).all() == (slots == 0)


@pytest.mark.parametrize("held, capacity, last", [(130, 130, 129), (130, 700, 699), (700, 700, 127), (700, 700, 0)])
def test_no_byte_beyond_is_read(library, held, capacity, last):
    """Neither behind the last slot, nor in tiles that the order closes: those pages may not be touched."""
    keys = Tokens(torch.arange(capacity), [0] * capacity)
    problem = AttentionProblem(Tokens([0], [0]), keys, latest_order=capacity - 1)
    readable = min(held, (last // 64 + 1) * 64) * 2 * 64
    k, v = (guarded((1, held, 2, 64), readable, BF16) for _ in range(2))
    order = torch.tensor([last], dtype=torch.int32)
    ours, _ = cuda_emulator.attention(library, torch.randn(1, 8, 64).to(BF16), k, v, problem, row_order=order)
    assert ours.out.isfinite().all()


def test_full_tiles_with_absent_slots(library):
    """The plan calls tiles full, the tensors hold a part of them, and a batch's capacity is no multiple of the tile."""
    capacity, batch = 150, 3
    at = torch.arange(capacity).repeat(batch)
    stream = torch.arange(batch).repeat_interleave(capacity)
    keys = Tokens(at, at // 40, None, stream)
    rows = Tokens([200 + i for i in range(5)] * 1, [0] * 5, None, [1] * 5)  # see all of the second sequence
    problem = AttentionProblem(rows, keys, Streams.roots(batch))
    for slots in (0, 10, 64, 70, 149, 150):
        for semantics in ("renormalize", "zero"):
            tensors = cache_qkv(problem, batch, slots, (8, 2, 128), dtype=BF16)
            check(library, problem, 8, 2, 128, BF16, semantics, tensors=tensors)


def test_a_capacity_smaller_than_a_tile(library):
    """Dozens of sequences of a few keys: a tile of 64 keys spans many of them."""
    capacity, batch = 5, 40
    at = torch.arange(capacity).repeat(batch)
    stream = torch.arange(batch).repeat_interleave(capacity)
    keys = Tokens(at, at % 3, None, stream)
    problem = AttentionProblem(keys, None, Streams.roots(batch), [Cut(1, 2)])
    for slots in (5, 3):
        tensors = cache_qkv(problem, batch, slots, (4, 1, 64), dtype=FP16)
        check(library, problem, 4, 1, 64, FP16, tensors=tensors)
