"""The Hopper kernel's keys cut into parts, where its row tiles are too few for a device: emulated, in both forms."""

import ctypes
import math

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, FP16, check, runs
from cuda_emulator import SCHEDULES, Alone
from op_cases import qkv

from avflow_ext import AttentionProblem, Cut, Tokens, device, mask_of


@pytest.fixture(scope="module", params=["hopper", "pairs"])
def wide(request, emulated):
    return emulated(request.param)


def last_rows(rows: int, keys: int, run: int = 70, **more) -> AttentionProblem:
    tokens = runs(keys, run=run)
    return AttentionProblem(tokens.select(torch.arange(keys - rows, keys)), tokens, **more)


RANDOM_CUT = Cut(mask_of([1]), mask_of(range(4)), random_share=0.3, seed=1)
PROBLEMS = {
    "no cuts": lambda: last_rows(16, 1400),
    "masks between full tiles": lambda: last_rows(20, 1400, cuts=[Cut(mask_of([1]), mask_of([3])), RANDOM_CUT]),
    "by head": lambda: last_rows(12, 1300, cuts=[Cut(mask_of([0, 1]), mask_of(range(4)), heads=0b101)]),
    "a window": lambda: last_rows(20, 1500, window=1100, cuts=[RANDOM_CUT]),
    "keys by ordinary copies": lambda: last_rows(16, 1400, keep_keys=torch.arange(1399)),
}


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_parts_equal_the_reference(wide, name, semantics):
    problem = PROBLEMS[name]()
    heads, d, dtype = (8, 128, BF16) if semantics == "zero" else (7, 64, FP16)
    q, k, v = qkv(problem, heads, 1, d, dtype=dtype)
    v[::97, :, 3] = torch.inf
    for schedule in (SCHEDULES, SCHEDULES + 1):
        _, parts = check(wide, problem, heads, 1, d, dtype, semantics, schedule=schedule, tensors=(q, k, v))
        assert parts > 1


def test_parts_without_mass(wide):
    """Steps without a mask then go first in a part."""
    problem = last_rows(16, 1410, cuts=[Cut(mask_of([1]), mask_of([3]))])
    q, k, v = qkv(problem, 8, 1, 64, dtype=BF16)
    whole, parts = check(wide, problem, 8, 1, 64, BF16, tensors=(q, k, v))
    for schedule in range(SCHEDULES):
        ours, _ = cuda_emulator.attention(wide, q, k, v, problem, return_lse=True, schedule=schedule)
        assert parts > 1 and torch.equal(ours.out, whole.out) and torch.equal(ours.lse, whole.lse)


def test_parts_that_see_nothing(wide):
    """Tiles that only another head sees, and row tiles with fewer tiles than a part."""
    keys = Tokens(torch.arange(1400), [0] * 1000 + [1] * 400)
    everything = Cut(mask_of([0, 1]), mask_of([0]), heads=0b100, cut_self=True)
    at = torch.cat([torch.arange(100, 132), torch.arange(1368, 1400)])
    problem = AttentionProblem(keys.select(at), keys, cuts=[everything])
    ours, parts = check(wide, problem, 4, 1, 64, BF16)
    assert parts > 1 and ours.lse[:32, 2].isneginf().all()


def test_orders_of_a_call_that_close_parts(wide):
    """The plan has tiles up to the latest order; a call that closes most of them leaves parts without a tile."""
    keys = Tokens(torch.arange(1500), torch.arange(1500) // 60 % 4)
    problem = AttentionProblem(Tokens(range(100, 116), [0] * 16), keys, cuts=[RANDOM_CUT], latest_order=1499)
    tensors = qkv(problem, 8, 1, 64, dtype=BF16)
    for last in (200, 900, 1499):
        order = torch.arange(last - 15, last + 1, dtype=torch.int32)
        _, parts = check(wide, problem, 8, 1, 64, BF16, tensors=tensors, row_order=order)
        assert parts > 1


@pytest.mark.slow
def test_the_form_to_compare_with(tmp_path, compiler):
    """As it was: nothing is split, and the warpgroup that fetches works out the words."""
    before = cuda_emulator.load(cuda_emulator.build(compiler, tmp_path, form=1, alone=Alone("hopper")), "hopper")
    for name in PROBLEMS:
        problem = PROBLEMS[name]()
        q, k, v = qkv(problem, 8, 1, 64, dtype=BF16)
        v[::97, :, 3] = torch.inf
        for schedule in (0, SCHEDULES):
            _, parts = check(before, problem, 8, 1, 64, BF16, schedule=schedule, tensors=(q, k, v))
            assert parts == 1


# ---------------------------------------------------------------- how many


@pytest.fixture(scope="module")
def split_tiles(emulated):
    function = emulated("hopper").emulated_wide_split_tiles
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64] * 3
    return function


@pytest.mark.parametrize("most", [0, 1, 7, 8, 64, 255, 256, 4096])
@pytest.mark.parametrize("blocks", [1, 2, 16, 33, 66, 100, 131, 132, 500])
def test_parts_keep_132_multiprocessors_busy(split_tiles, blocks, most):
    """All row tiles alike: as many blocks as run at once, or few more, unless there is little to gain."""
    tiles = split_tiles(blocks, most, blocks * most)
    parts = math.ceil(most / tiles) if most else 1
    assert 1 <= tiles <= max(most, 1) and parts <= 132
    if blocks >= 132:
        assert parts == 1
    elif most >= 256 and blocks <= 66:
        waves = math.ceil(blocks * parts / 132)
        assert waves * tiles <= max(1.15 * blocks * most / 132, 3) + 1  # of the busiest, against an even share
    elif most <= 7:
        assert parts == 1


def test_parts_of_uneven_rows(split_tiles):
    """Causal: half the tiles of 64 row tiles with 512 at most. The last part that begins is short."""
    tiles = split_tiles(64, 512, 64 * 256)
    assert 4 <= math.ceil(512 / tiles) <= 32


@pytest.mark.parametrize(
    "rows, heads, streams, kernel",
    [
        (127, 8, 1, "cuda"),
        (128, 8, 1, "hopper"),
        (1, 8, 1, "cuda"),
        (512, 2, 16, "hopper"),  # 64 rows x heads a stream
        (512, 2, 17, "cuda"),
        (128, 8, 128, "cuda"),  # a batch of 128 that decodes
        (1024, 8, 1024, "hopper"),
    ],
)
def test_which_kernel_a_call_takes(monkeypatch, rows, heads, streams, kernel):
    monkeypatch.setattr(device, "runs_hopper", lambda index: True)
    assert device.cuda_kernel(0, rows, heads, streams) == kernel
    monkeypatch.setattr(device, "runs_hopper", lambda index: False)
    assert device.cuda_kernel(0, rows, heads, streams) == "cuda"


def test_the_workspace_holds_the_parts(wide):
    """[row tiles, kv heads, parts, 128 rows x (maximum, sum, values, mass)] floats; none where nothing is split."""
    problem = last_rows(40, 1400)  # 3 row tiles of 16 rows x 8 heads
    q, k, v = qkv(problem, 16, 2, 64, dtype=BF16)
    for options, groups in (({}, 0), (EVERYTHING, problem.groups)):
        _, parts = cuda_emulator.attention(wide, q, k, v, problem, **options)
        assert parts > 1 and wide.workspace_bytes == 3 * 2 * parts * 128 * (2 + 64 + groups) * 4
    cuda_emulator.attention(wide, q, k, v, last_rows(40, 400, keep_keys=torch.arange(300)))
    assert wide.workspace_bytes == 0
