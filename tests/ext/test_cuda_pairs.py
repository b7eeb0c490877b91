"""The Hopper kernel's form with 128 keys a step, emulated: its rings under schedules drawn at random, and its edges."""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, FP16, check, noticed, runs
from cuda_emulator import SCHEDULES, Alone
from op_cases import qkv

from avflow_ext import AttentionProblem, Cut, Tokens, mask_of

TOTAL = SCHEDULES + 6  # the last six draw warps at random


@pytest.fixture(scope="module")
def pairs(emulated):
    return emulated("pairs")


def one_tile(n: int, **more) -> AttentionProblem:
    """The last 32 rows, of 4 heads each: the 128 of a tile; keys 0 .. n - 1."""
    keys = runs(n, run=70)
    return AttentionProblem(keys.select(torch.arange(max(n - 32, 0), n)), keys, **more)


RANDOM_CUT = Cut(mask_of([1]), mask_of(range(4)), random_share=0.3, seed=1)
PROBLEMS = {
    "no cuts": lambda: one_tile(900),  # 13 full tiles
    "masks between full tiles": lambda: one_tile(900, cuts=[Cut(mask_of([1]), mask_of([3])), RANDOM_CUT]),
    "masks everywhere": lambda: AttentionProblem(runs(500, run=3), cuts=[Cut(mask_of([1]), mask_of([2]))]),
    "by head": lambda: one_tile(700, cuts=[Cut(mask_of([1]), mask_of(range(4)), heads=0b101)]),
    "a window": lambda: one_tile(900, window=300, cuts=[RANDOM_CUT]),
}


@pytest.mark.parametrize("bad", [None, float("inf"), float("nan")])
@pytest.mark.parametrize("name", PROBLEMS)
def test_no_schedule_changes_a_bit(pairs, name, bad):
    problem = PROBLEMS[name]()
    q, k, v = qkv(problem, 4, 1, 64, dtype=BF16)
    if bad is not None:
        v[::61, :, 5] = bad
    first, *others = [
        cuda_emulator.attention(pairs, q, k, v, problem, schedule=schedule, return_lse=True)[0]
        for schedule in range(TOTAL)
    ]
    check(pairs, problem, 4, 1, 64, BF16, tensors=(q, k, v), schedule=TOTAL)
    for other in others:
        for a, b in zip(first[:2], other[:2], strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@pytest.mark.parametrize("dtype, d", [(BF16, 128), (FP16, 64)])
@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
def test_any_count_of_full_and_partial_tiles(pairs, semantics, dtype, d):
    """None, one or two of each behind whole steps; a step of one full and one partial tile; half a step."""
    for n in range(32, 32 + 64 * 7, 64):
        for more in (0, 32, 33):
            for cuts in ([], [Cut(mask_of([0]), mask_of(range(4)))]):
                check(pairs, one_tile(n + more, cuts=cuts), 4, 1, d, dtype, semantics, schedule=SCHEDULES + n)


def test_without_mass_a_full_tile_needs_no_words(pairs):
    """With it all steps take the loop with masks. Both ways give the same but for the order of sums."""
    problem = one_tile(900, cuts=[Cut(mask_of([1]), mask_of([3]))])
    q, k, v = qkv(problem, 4, 1, 128, dtype=BF16)
    with_mass, _ = cuda_emulator.attention(pairs, q, k, v, problem, **EVERYTHING)
    without, _ = cuda_emulator.attention(pairs, q, k, v, problem, return_lse=True)
    assert torch.equal(with_mass.out, without.out) and torch.equal(with_mass.lse, without.lse)


def test_a_tiny_weight_of_an_infinity_counts(pairs):
    """2^-30 is 0 in float16, and not before that."""
    keys = Tokens(torch.arange(128), [0] * 64 + [1] * 64)
    problem = AttentionProblem(keys.select(torch.arange(96, 128)), keys, cuts=[Cut(1, 2, heads=0b10)])
    q = torch.zeros(32, 4, 64, dtype=FP16)
    k, v = torch.zeros(128, 1, 64, dtype=FP16), torch.ones(128, 1, 64, dtype=FP16)
    q[..., 0], k[3, :, 0], v[3, :, 2] = 1.0, -20.8, torch.inf  # times ln 2: 30 powers of 2
    ours, _ = check(pairs, problem, 4, 1, 64, FP16, scale=1.0, tensors=(q, k, v))
    assert ours.out[:, 0, 2].isinf().all() and ours.out[:, 1].isfinite().all()


# ---------------------------------------------------------------- that a fault in the rings shows

BREAKS = {  # name: (file, what stands there, what stands there instead)
    "keys overwritten while they are read": (
        "produce",
        "            barrier_wait(&shared.k_free[n % kRing], n / kRing % 2 ^ 1);\n",
        "",
    ),
    "values overwritten while they are read": (
        "produce",
        "            barrier_wait(&shared.v_free[stage], of / kRing % 2 ^ 1);\n",
        "",
    ),
    "values looked at before they land": (
        "produce",
        "        barrier_wait(&shared.v_landed[stage], (plain + n) / kRing % 2);\n",
        "",
    ),
    "a phase off": ("produce", "        barrier_wait(&shared.asked[n % kRing], n / kRing % 2);\n", ""),
    "words read before they are written": (
        "consume",
        "        barrier_wait(&shared.ready[(of - plain) % kWordRing], (of - plain) / kWordRing % 2);\n",
        "",
    ),
    "values not checked": (
        "consume",
        "        barrier_wait(&shared.checked[(of - plain) % kRing], (of - plain) / kRing % 2);\n",
        "",
    ),
    "a turn left over": ("consume", "    if (group == 0) turn_wait(0);", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BREAKS, None])
def test_a_broken_ring_is_noticed(tmp_path, compiler, name):
    """None: as it is, it passes."""
    file, old, new = BREAKS[name] if name else ("consume", "turn_wait(0);", "turn_wait(0);")
    library = cuda_emulator.broken(compiler, tmp_path, Alone("pairs"), f"pairs_{file}.cuh", old, new)
    with noticed(name is not None):
        for problem in PROBLEMS:
            test_no_schedule_changes_a_bit(library, problem, float("nan"))
