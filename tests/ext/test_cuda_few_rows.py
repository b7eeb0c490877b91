"""The emulated CUDA kernel of few rows, whose warps share out the keys: one row, or one sequence of a batch a tile."""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, FP16, check, noticed, runs
from cuda_emulator import SCHEDULES, Alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import GROUPS, cache_qkv, cuts, keep_list, qkv

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, mask_of
from avflow_ext._load import _C

FEW = 16  # packed rows of a tile, at most
slow_cases = [HealthCheck.too_slow, HealthCheck.data_too_large]


def packed_rows(problem, heads_per_kv_head: int) -> int:
    """Of a tile, at most."""
    size = _C.plan_size(problem.packed(heads_per_kv_head, device_type="cuda").numpy())
    return min(size["tile_rows"], len(problem.rows)) * heads_per_kv_head


@st.composite
def ragged(draw, heads: int):
    """Sequences behind one another, most of a few key tiles, with a row or two each at the end."""
    count = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.sampled_from([70, 128, 200, 331]), min_size=count, max_size=count))
    rows, run = draw(st.integers(1, max(1, FEW // heads))), draw(st.sampled_from([1, 7, 20, 200]))
    at = torch.cat([torch.arange(n) for n in lengths])
    stream = torch.repeat_interleave(torch.arange(count), torch.tensor(lengths))
    keys = Tokens(at, (at // run + stream) % GROUPS, at // 10 % 5 - 1, stream)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    last = torch.cat([torch.arange(end - rows, end) for end in ends])
    return AttentionProblem(
        keys.select(last),
        keys,
        Streams.roots(count),
        draw(st.lists(cuts(count, heads), max_size=3)),
        keep_keys=keep_list(draw, len(keys)),
        window=draw(st.sampled_from([None, None, 90])),
        groups=GROUPS,
    )


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=slow_cases)
def test_equals_reference(sm80_library, data):
    heads, kv_heads, d = data.draw(st.sampled_from([(8, 1, 64), (7, 1, 128), (4, 2, 64), (16, 1, 64), (3, 3, 128)]))
    problem = data.draw(ragged(heads))
    dtype, schedule = data.draw(st.sampled_from([BF16, FP16])), data.draw(st.integers(0, SCHEDULES - 1))
    semantics = data.draw(st.sampled_from(["renormalize", "zero"]))
    check(sm80_library, problem, heads, kv_heads, d, dtype, semantics, schedule=schedule)


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_a_batch_of_ragged_lengths(sm80_library, count):
    lengths = [64 + 97 * i % 400 for i in range(count)]
    lengths[-1] = 1500  # cut into parts, where the others are whole
    at = torch.cat([torch.arange(n) for n in lengths])
    stream = torch.repeat_interleave(torch.arange(count), torch.tensor(lengths))
    keys = Tokens(at, at // 50 % 4, None, stream)
    rows = keys.select(torch.tensor(lengths).cumsum(0) - 1)
    problem = AttentionProblem(rows, keys, Streams.roots(count), [Cut(2, 15, heads=0b101), Cut(4, 15)])
    assert packed_rows(problem, 4) == 4
    assert check(sm80_library, problem, 4, 1, 64, BF16)[1] > 1


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_the_tail_of_a_batch_in_a_cache_does_not_leak(sm80_library, garbage, semantics):
    """Capacities that are no multiple of the tile, slots that are not held, orders that each call says, windows."""
    batch, capacity = 5, 150
    at, stream = torch.arange(capacity).repeat(batch), torch.arange(batch).repeat_interleave(capacity)
    keys = Tokens(at, torch.where(at < 60, 1, 0), None, stream)
    rows = Tokens([100] * batch, [0] * batch, None, list(range(batch)))
    for window in (None, 70):
        problem = AttentionProblem(
            rows, keys, Streams.roots(batch), [Cut(2, 1, heads=1)], latest_order=capacity - 1, window=window
        )
        assert packed_rows(problem, 8) == 8
        for slots in (120, 150):
            q, k, v = cache_qkv(problem, batch, slots, (8, 1, 128), dtype=BF16)
            order = torch.tensor([100, 119, 110, 101, 118], dtype=torch.int32)
            clean, _ = check(sm80_library, problem, 8, 1, 128, BF16, semantics, tensors=(q, k, v), row_order=order)
            for t in (k, v):
                for b in range(batch):
                    t[b, int(order[b]) + 1 :] = garbage
                    if window:
                        t[b, : int(order[b]) - window + 1] = garbage
            again, _ = cuda_emulator.attention(
                sm80_library, q, k, v, problem, semantics=semantics, row_order=order, **EVERYTHING
            )
            assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype, d", [(BF16, 64), (FP16, 128)])
def test_broken_values_show_where_seen_only(sm80_library, bad, dtype, d):
    keys = runs(500, run=45)
    rows = keys.select(torch.tensor([498, 499]))  # of one group
    rows = Tokens(rows.order, [2, 3])
    problem = AttentionProblem(rows, keys, cuts=[Cut(mask_of([1]), mask_of([2])), Cut(1, mask_of([3]), heads=1)])
    q, k, v = qkv(problem, 4, 1, d, dtype=dtype)
    for columns in (slice(None), slice(3, 4)):
        broken = v.clone()
        broken[keys.group == 1, :, columns] = bad
        for semantics in ("renormalize", "zero"):
            ours, _ = check(sm80_library, problem, 4, 1, d, dtype, semantics, tensors=(q, k, broken))
            assert ours.out[0].isfinite().all() and not ours.out[1].isfinite().all()
            assert (ours.out[1] == bad).any() or bad != bad


def test_most_groups_and_a_negative_scale(sm80_library):
    """The most shared memory a block can ask for; runs of keys that go on from one warp's 16 into the next's."""
    keys = runs(300, run=3, groups=64)
    problem = AttentionProblem(
        keys.select(torch.tensor([299])), keys, cuts=[Cut(mask_of([7, 63]), mask_of(range(64)))], groups=64
    )
    for scale in (None, -0.3, 0.0):
        check(sm80_library, problem, 16, 1, 128, BF16, scale=scale)


def test_rows_that_see_nothing(sm80_library):
    keys = Tokens(torch.arange(900), [0] * 640 + [1] * 260)
    for heads in (None, 0b100):
        everything = Cut(mask_of([0, 1]), mask_of([1]), heads=heads, cut_self=True)
        problem = AttentionProblem(keys.select(torch.tensor([898, 899])), keys, cuts=[everything])
        for semantics in ("renormalize", "zero"):
            ours, _ = check(sm80_library, problem, 4, 1, 64, BF16, semantics)
            assert (ours.out[:, 2] == 0).all()


def test_results_do_not_depend_on_the_schedule_or_on_the_batch(sm80_library):
    """A sequence of a batch rounds as it does alone, as long as both are whole."""
    lengths = [250, 200, 190]
    at = torch.cat([torch.arange(n) for n in lengths])
    stream = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    keys = Tokens(at, at // 30 % 4, None, stream)
    problem = AttentionProblem(keys.select(torch.tensor([249, 449, 639])), keys, Streams.roots(3), [Cut(2, 15)])
    q, k, v = qkv(problem, 8, 1, 64, dtype=BF16)
    first, *others = [
        cuda_emulator.attention(sm80_library, q, k, v, problem, schedule=s, **EVERYTHING) for s in range(SCHEDULES)
    ]
    assert first[1] == 1
    for other, _ in others:
        assert all(torch.equal(a, b) for a, b in zip(first[0], other, strict=True))
    alone = AttentionProblem(keys.select(torch.tensor([249])), keys.select(torch.arange(250)), cuts=[Cut(2, 15)])
    single, parts = cuda_emulator.attention(sm80_library, q[:1], k[:250], v[:250], alone, **EVERYTHING)
    assert parts == 1 and torch.equal(single.out[0], first[0].out[0]) and torch.equal(single.lse[0], first[0].lse[0])


@pytest.mark.parametrize(
    "blocks, longest, total, parts",
    [
        (128, 256, 128 * 256, 2),  # 32 sequences of 16k tokens, 4 kv heads: 256 blocks for 264 places
        (4, 256, 4 * 256, 64),  # one
        (264, 256, 264 * 256, 1),
        (1000, 20, 1000 * 20, 1),
        (128, 1024, 124 * 64 + 4 * 1024, 22),  # one of 32 is 16 times as long as the others
        (4000, 9000, 9000, 1),  # no more parts than workspace for them
        (1, 3, 3, 1),
        (1, 1, 0, 1),
    ],
)
def test_how_keys_are_split(sm80_library, blocks, longest, total, parts):
    tiles = sm80_library.emulated_few_split_tiles(blocks, longest, total)
    assert -(-longest // tiles) == parts


BREAKS = {  # name: (what stands there, what stands there instead)
    "keys not waited for": ("        copy_wait<1>();\n        sync_warp();\n", "        sync_warp();\n"),
    "outputs read before they are there": ("own), shared);\n    sync_block();\n", "own), shared);\n"),
    "warps of one maximum": ("exp2_fast(shared.top[w][m] - row.top)", "1.0f"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BREAKS, None])
def test_a_broken_kernel_is_noticed(tmp_path, compiler, name):
    """None: as it is, it passes."""
    old, new = BREAKS[name] if name else (BREAKS["warps of one maximum"][0],) * 2
    library = cuda_emulator.broken(compiler, tmp_path, Alone("few"), "few_rows_kernel.cuh", old, new)
    keys = runs(400, run=21)
    problem = AttentionProblem(keys.select(torch.tensor([398, 399])), keys, cuts=[Cut(2, 15, random_share=0.5)])
    with noticed(name is not None):
        for schedule in range(SCHEDULES + 2):
            check(library, problem, 8, 1, 64, BF16, schedule=schedule)
