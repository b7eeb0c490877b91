"""The tall kernel, emulated: where its loops differ, its barriers, and when it is taken. What it shares with the others
is in test_cuda_emulated."""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, FP16, check, noticed, runs
from cuda_emulator import SCHEDULES, Alone
from op_cases import qkv

from avflow_ext import AttentionProblem, Cut, attention_reference, device, mask_of

TOTAL = SCHEDULES + 3  # the last three draw warps at random
RANDOM_CUT = Cut(mask_of([1]), mask_of(range(4)), random_share=0.3, seed=1)
SHORT, LONG = runs(400, run=70), runs(2300, run=2300)


def last_rows(keys, rows: int, **more) -> AttentionProblem:
    return AttentionProblem(keys.select(torch.arange(len(keys) - rows, len(keys))), keys, **more)


PROBLEMS = {
    "no cuts": lambda: AttentionProblem(SHORT),
    "whole tiles between masks": lambda: AttentionProblem(SHORT, cuts=[Cut(2, 4), RANDOM_CUT]),
    "masks everywhere": lambda: AttentionProblem(runs(250, run=3), cuts=[Cut(2, 4)]),
    "by head": lambda: AttentionProblem(SHORT, cuts=[Cut(2, 15, heads=0b101)]),
    "a window": lambda: AttentionProblem(SHORT, window=150, cuts=[RANDOM_CUT]),
    "scattered keys": lambda: AttentionProblem(SHORT, cuts=[RANDOM_CUT], keep_keys=range(1, 400, 2)),
    "more whole tiles than are taken together": lambda: last_rows(LONG, 40),
}


@pytest.fixture(scope="module", params=["cuda", "tall"])
def of_sm80(request, emulated):
    """Both kernels for all devices."""
    return emulated(request.param)


@pytest.fixture(scope="module")
def tall(emulated):
    return emulated("tall")


def errors(library, problem, d, dtype, semantics="renormalize", schedule=0, scale=None):
    """The largest error of outputs without mass, for which whole tiles take a loop of their own, and that with mass."""
    q, k, v = qkv(problem, 4, 1, d, dtype=dtype)
    options = dict(semantics=semantics, scale=scale, return_lse=True)
    ours, _ = cuda_emulator.attention(library, q, k, v, problem, schedule=schedule, **options)
    with_mass, _ = cuda_emulator.attention(library, q, k, v, problem, return_group_mass=True, **options)
    exact = attention_reference(q.float(), k.float(), v.float(), problem, **options)
    assert torch.equal(ours.lse.isneginf(), exact.lse.isneginf())
    assert (ours.lse - exact.lse).nan_to_num(0.0).abs().max() < 1e-4
    return [float((found.out.float() - exact.out).abs().max()) for found in (ours, with_mass)]


@pytest.mark.parametrize("dtype, d", [(BF16, 64), (FP16, 128)])
@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_without_mass(of_sm80, name, semantics, dtype, d):
    error, with_mass = errors(of_sm80, PROBLEMS[name](), d, dtype, semantics)
    assert error <= 2 * with_mass + 1e-5 < 0.03  # `check` says how near those with mass are, in the other tests


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1.7])
def test_any_scale(of_sm80, scale):
    error, with_mass = errors(of_sm80, PROBLEMS["whole tiles between masks"](), 64, FP16, scale=scale)
    assert error <= 2 * with_mass + 1e-5 < 0.03


@pytest.mark.parametrize("bad", [None, float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["whole tiles between masks", "by head", "a window"])
def test_no_schedule_changes_a_bit(tall, name, bad):
    problem = PROBLEMS[name]()
    q, k, v = qkv(problem, 4, 1, 64, dtype=BF16)
    if bad is not None:  # in both halves of a tile, one half alone, none
        v[[3, 40, 70, 190], :, 5] = bad
    first, *others = [
        cuda_emulator.attention(tall, q, k, v, problem, schedule=schedule, return_lse=True)[0]
        for schedule in range(TOTAL)
    ]
    check(tall, problem, 4, 1, 64, BF16, tensors=(q, k, v), schedule=TOTAL)
    for other in others:
        for a, b in zip(first[:2], other[:2], strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


# ---------------------------------------------------------------- when it is taken


@pytest.mark.parametrize("hopper, least", [(True, device.HOPPER_ROWS), (False, device.TALL_ROWS)])
def test_many_rows_get_large_tiles(monkeypatch, hopper, least):
    monkeypatch.setattr(device, "runs_hopper", lambda index: hopper)
    assert device.cuda_kernel(0, least // 8, 8) == "hopper"  # the name of the plan; both kernels take it
    assert device.cuda_kernel(0, least // 8 - 1, 8) == "cuda"


def test_one_kernel_for_all_calls(monkeypatch):
    monkeypatch.setattr(device, "runs_hopper", lambda index: False)
    before = device.HOPPER_ROWS, device.TALL_ROWS
    with device.taking("tall"):
        assert device.cuda_kernel(0, 1, 1) == "hopper"
    with pytest.raises(KeyError), device.taking("cuda"):
        assert device.cuda_kernel(0, 10**6, 8) == "cuda"
        raise KeyError
    assert (device.HOPPER_ROWS, device.TALL_ROWS) == before


# ---------------------------------------------------------------- that a missing barrier shows

LOOK = "        if (threadIdx.x == 0) shared.stretch[turn] = take_stretch(c, shared);\n"
TAKE = "        take(block, now, shared.stretch[turn], rows);\n"
BREAKS = {  # name: (what stands there, what stands there instead)
    "values read too early": (
        "        block.meet();\n        block.fetch_keys(key_tile + 1",
        "        block.fetch_keys(key_tile + 1",
    ),
    "the next keys read too early": ("rows);\n        block.meet();\n    }\n}", "rows);\n    }\n}"),
    "values of a mask read too early": ("        block.meet();\n        if (first) ", "        if (first) "),
    "what was noted read too early": ("shared.nonfinite);\n                sync_block();\n", "shared.nonfinite);\n"),
    "words lost": ("            if (has_nonfinite) {  //", "            if (false) {  //"),
    "the next tiles looked for too late": (LOOK + TAKE, TAKE + LOOK),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BREAKS, None])
def test_a_broken_tall_kernel_is_noticed(tmp_path, compiler, name):
    """None: as it is, it passes."""
    old, new = BREAKS[name] if name else (LOOK, LOOK)
    library = cuda_emulator.broken(compiler, tmp_path, Alone("tall"), "tall_kernel.cuh", old, new)
    with noticed(name is not None):
        for bad in (None, float("nan")):
            test_no_schedule_changes_a_bit(library, "whole tiles between masks", bad)
