"""The CUDA kernels' own source, run on the host in a small emulator, against the plain-torch reference.

What this cannot show: races that no schedule meets (test_cuda_ordering.py finds those in shared memory), memory the
device would refuse, and speed.
"""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, FP16, check, noticed, runs
from cuda_emulator import SCHEDULES, Alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import problems, qkv

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, mask_of

# ---------------------------------------------------------------- against the reference

SHAPES = [(8, 1, 64), (7, 1, 128), (2, 2, 128), (4, 1, 64), (16, 2, 64), (3, 1, 64)]


@given(
    problem=problems(longest=70, most_streams=2),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([BF16, FP16]),
    semantics=st.sampled_from(["renormalize", "zero"]),
    schedule=st.integers(0, SCHEDULES - 1),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_equals_reference(library, problem, shape, dtype, semantics, schedule):
    check(library, problem, *shape, dtype, semantics, schedule=schedule)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 1), (7, 1), (8, 1), (14, 2), (64, 1)])
def test_group_sizes(library, heads, kv_heads, d, dtype):
    rows = 130 if heads < 64 else 70
    cuts = [Cut(mask_of([1]), mask_of([2, 3])), Cut(mask_of([0]), mask_of([3]), heads=5, random_share=0.4, seed=3)]
    check(library, AttentionProblem(runs(rows), cuts=cuts), heads, kv_heads, d, dtype)


def test_most_groups(library):
    """The most shared memory a block can ask for."""
    tokens = runs(140, run=2, groups=64)
    problem = AttentionProblem(tokens, cuts=[Cut(mask_of([7, 63]), mask_of(range(20)))], groups=64)
    check(library, problem, 4, 1, 128, BF16)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 64, 65, 128, 129, 193])
def test_lengths_around_the_tile(library, n):
    check(library, AttentionProblem(runs(n)), 8, 1, 64, BF16)


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
def test_full_tiles_between_partial_ones(library, semantics):
    tokens = Tokens(torch.arange(400), torch.arange(400) // 70 % 4)
    problem = AttentionProblem(tokens, cuts=[Cut(mask_of([1]), mask_of([3]))])
    check(library, problem, 4, 1, 64, BF16, semantics)


def test_streams_over_a_parent_with_keep_lists(library):
    n, tail = 120, 30
    at = torch.cat([torch.arange(n), *[torch.arange(n - tail, n)] * 3])
    stream = torch.cat([torch.full((n,), 0), *[torch.full((tail,), s) for s in (1, 2, 3)]])
    tokens = Tokens(at, at // 9 % 4, None, stream)
    cuts = [Cut(mask_of([s]), mask_of([0, 1, 2, 3]), streams=(s,), cut_self=s == 2) for s in (1, 2, 3)]
    streams = Streams([-1, 0, 0, 0], [0] + [n - tail] * 3)
    odd, third = torch.arange(len(at))[1::2], torch.arange(len(at))[::3]
    for keep_rows, keep_keys in [(None, None), (odd, None), (None, odd), (third, odd), ([], None), (third, [])]:
        check(library, AttentionProblem(tokens, None, streams, cuts, keep_rows, keep_keys), 8, 1, 128, BF16)


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1.7])
def test_any_scale(library, scale):
    check(library, AttentionProblem(runs(100), cuts=[Cut(2, 4)]), 4, 1, 64, FP16, scale=scale)


def test_strides(library):
    problem = AttentionProblem(runs(90))
    joined = torch.randn(90, 8 + 2 + 2, 64, generator=torch.Generator().manual_seed(0)).to(BF16)
    check(library, problem, 8, 2, 64, BF16, tensors=(joined[:, :8], joined[:, 8:10], joined[:, 10:]))
    heads_first = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in qkv(problem, 8, 2, 64, dtype=BF16)]
    check(library, problem, 8, 2, 64, BF16, tensors=heads_first)


# ---------------------------------------------------------------- few rows: keys split and merged


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("heads, kv_heads, d, rows", [(8, 1, 64, 1), (14, 2, 128, 3), (2, 2, 64, 70)])
def test_keys_split(sm80_library, heads, kv_heads, d, rows, semantics):
    keys = runs(900, run=45)
    last = keys.select(torch.arange(900 - rows, 900))
    cuts = [
        Cut(mask_of([2]), mask_of(range(4)), cut_self=True),
        Cut(mask_of([1]), mask_of(range(4)), heads=1),
        Cut(mask_of([0]), mask_of(range(4)), random_share=0.5, seed=9),
    ]
    problem = AttentionProblem(last, keys, cuts=cuts)
    parts = {check(sm80_library, problem, heads, kv_heads, d, BF16, semantics, schedule=s)[1] for s in range(SCHEDULES)}
    assert len(parts) == 1 and parts.pop() > 1


def test_split_parts_that_see_nothing(sm80_library):
    keys = Tokens(torch.arange(900), [0] * 640 + [1] * 260)
    one_head = Cut(mask_of([0]), mask_of([1]), heads=0b1)  # the tiles stay: another head sees them
    everything = Cut(mask_of([0, 1]), mask_of([1]), heads=0b100, cut_self=True)
    problem = AttentionProblem(keys.select(torch.tensor([898, 899])), keys, cuts=[one_head, everything])
    ours, splits = check(sm80_library, problem, 4, 1, 64, BF16)
    assert splits > 1 and ours.lse[:, 2].isneginf().all()


# ---------------------------------------------------------------- what must hold exactly


def test_rows_cut_entirely(library):
    for heads in (None, 0b10):  # a row tile without tiles; a row of words without bits
        cut = Cut(mask_of(range(4)), mask_of([1, 2]), cut_self=True, heads=heads)
        for semantics in ("renormalize", "zero"):
            check(library, AttentionProblem(runs(140, run=40), cuts=[cut]), 4, 1, 64, BF16, semantics)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype, d", [(BF16, 64), (FP16, 128)])
def test_broken_values_show_where_seen_only(library, bad, dtype, d):
    n = 150
    tokens = runs(n)
    problem = AttentionProblem(tokens, cuts=[Cut(mask_of([1]), mask_of([2, 3]))])
    q, k, v = qkv(problem, 4, 1, d, dtype=dtype)
    hidden = tokens.group == 1
    for columns in (slice(None), slice(3, 4)):
        broken = v.clone()
        broken[hidden, :, columns] = bad
        for semantics in ("renormalize", "zero"):
            ours, _ = check(library, problem, 4, 1, d, dtype, semantics, tensors=(q, k, broken))
            assert 0 < int((~ours.out.isfinite()).sum()) < ours.out.numel()  # rows of groups 0, 1 do see them
            assert (ours.out == bad).any() or bad != bad
    # Nobody sees the last keys: broken keys and values there change no bit.
    keys = Tokens(torch.arange(n + 60), [0] * (n + 60), None, [0] * n + [-1] * 60)
    rows = keys.select(torch.arange(n))
    problem = AttentionProblem(rows, keys)
    q, k, v = qkv(problem, 4, 1, d, dtype=dtype)
    clean, _ = check(library, problem, 4, 1, d, dtype, tensors=(q, k, v))
    k[n:], v[n:] = bad, bad
    again, _ = cuda_emulator.attention(library, q, k, v, problem, **EVERYTHING)
    assert torch.equal(clean.out, again.out) and torch.equal(clean.lse, again.lse)


def test_results_do_not_depend_on_the_schedule(library):
    for rows in (2, 200):
        keys = runs(600, run=5)
        problem = AttentionProblem(keys.select(torch.arange(600 - rows, 600)), keys, cuts=[Cut(2, 4)])
        q, k, v = qkv(problem, 4, 1, 64, dtype=BF16)
        first, *others = [
            cuda_emulator.attention(library, q, k, v, problem, schedule=s, **EVERYTHING)[0] for s in range(SCHEDULES)
        ]
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_optional_outputs_change_nothing(library):
    problem = AttentionProblem(runs(100), cuts=[Cut(2, 4)])
    q, k, v = qkv(problem, 4, 1, 64, dtype=BF16)
    plain, _ = cuda_emulator.attention(library, q, k, v, problem)
    full, _ = cuda_emulator.attention(library, q, k, v, problem, **EVERYTHING)
    assert plain.lse is None and plain.group_mass is None and torch.equal(plain.out, full.out)


def test_calls_it_does_not_take(library):
    problem = AttentionProblem(runs(20))
    for shape, dtype in [((4, 1, 32), BF16), ((4, 1, 64), torch.float32)]:
        with pytest.raises(ValueError):
            cuda_emulator.attention(library, *qkv(problem, *shape, dtype=dtype), problem)
    q, k, v = qkv(problem, 4, 1, 72, dtype=BF16)
    with pytest.raises(ValueError):  # rows that begin at odd multiples of 2 bytes
        cuda_emulator.attention(library, q[..., 1:65], k[..., 1:65], v[..., 1:65], problem)


# ---------------------------------------------------------------- the emulator itself

BREAKS = {  # name: (kernel, what stands there, what stands there instead)
    "copies not waited for": ("attend", "        copy_wait<0>();\n        sync_block();", "        sync_block();"),
    "no barrier before the next tile": (
        "attend",
        "        copy_wait<0>();\n        sync_block();",
        "        copy_wait<0>();",
    ),
    "queries read too early": ("attend", "    copy_wait<0>();\n    sync_block();\n    uint32_t q", "    uint32_t q"),
    "one warp skips a barrier": ("attend", "sync_block();  // other", "if (warp) sync_block();  // other"),
    "tiles read before they land": (
        "hopper",
        "        if (c.mapped) barrier_wait(&shared.landed[stage], parity);\n",
        "",
    ),
    "tiles shown before they are copied": ("hopper", "                copy_wait<kAhead - 1>();\n", ""),
    "a tile overwritten while it is read": (
        "hopper",
        "            barrier_wait(&shared.free[stage], step / kStages % 2 ^ 1);\n",
        "",
    ),
    "tiles fetched before their place is free": (
        "hopper",
        "        barrier_wait(&shared.free[stage], n / kStages % 2 ^ 1);\n",
        "",
    ),
    "tiles looked at before they land": (
        "hopper",
        "                barrier_wait(&shared.landed[stage], (step - kAhead) / kStages % 2);\n",
        "",
    ),
    "scores read too early": ("hopper", "        products_wait<1>();\n", ""),
    "outputs scaled too early": ("hopper", "        products_wait<0>();\n        sums_ready(rows.o);\n", ""),
    "values in wrong blocks": ("hopper", "describe(values, kKeyTile * 128)", "describe(values, 128)"),
}
UNBROKEN = {
    "attend as it is": ("attend", "copy_wait<0>();\n        sync_block();", "copy_wait<0>();\n        sync_block();"),
    "hopper as it is": ("hopper", "products_wait<1>();\n", "products_wait<1>();\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BREAKS, *UNBROKEN])
def test_a_broken_kernel_is_noticed(tmp_path, compiler, name):
    kernel, old, new = BREAKS[name] if name in BREAKS else UNBROKEN[name]
    n, d = (700, 128) if kernel == "hopper" else (200, 64)
    file = "hopper_kernel.cuh" if kernel == "hopper" else "attention_kernel.cuh"
    library = cuda_emulator.broken(compiler, tmp_path, Alone(kernel, d), file, old, new)
    with noticed(name in BREAKS):
        for schedule in range(SCHEDULES):
            for keep_keys in (None, range(n)):  # the second by cp.async also in the Hopper kernel
                problem = AttentionProblem(runs(n), keep_keys=keep_keys)
                check(library, problem, 4, 1, d, BF16, schedule=schedule)
