"""The emulated CUDA kernels under windows and blocks that see both ways."""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, EVERYTHING, FP16, check, runs
from cuda_emulator import SCHEDULES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import qkv
from rule_cases import ruled_caches, ruled_problems, with_block

from avflow_ext import AttentionProblem, Cut, Tokens

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
SHAPES = st.sampled_from([(8, 1, 64), (7, 1, 128), (4, 2, 64)])
SEMANTICS = st.sampled_from(["renormalize", "zero"])


@given(
    problem=ruled_problems(longest=150, most_streams=2),
    shape=SHAPES,
    dtype=st.sampled_from([BF16, FP16]),
    semantics=SEMANTICS,
    schedule=st.integers(0, SCHEDULES - 1),
)
@quick
def test_equals_reference(library, problem, shape, dtype, semantics, schedule):
    check(library, problem, *shape, dtype, semantics, schedule=schedule)


@given(case=ruled_caches(most=150), semantics=SEMANTICS, schedule=st.integers(0, SCHEDULES - 1))
@quick
def test_equals_reference_where_each_call_says_the_orders(library, case, semantics, schedule):
    problem, order = case
    check(library, problem, 8, 1, 64, BF16, semantics, schedule=schedule, row_order=order)


@pytest.mark.parametrize("window", [1, 64, 65, 200])
@pytest.mark.parametrize("blocks, shift", [("whole", 0), ("whole", 20), ("windowed", 0), ("windowed", 20)])
def test_full_tiles_between_partial_ones(library, window, blocks, shift):
    n = 450
    tokens = with_block(
        runs(n, run=70), torch.tensor([(i + shift) // 64 if (i + shift) // 64 in (1, 2, 5) else -1 for i in range(n)])
    )
    problem = AttentionProblem(tokens, cuts=[Cut(2, 8)], window=window, blocks=blocks)
    check(library, problem, 4, 1, 64, BF16)


@pytest.mark.parametrize("window", [30, 64, 300])
def test_a_generation_under_a_window(library, window):
    """One problem for all steps; what the window hides is not multiplied, and its tiles are passed by."""
    keys = Tokens(range(700), [0] * 700)
    problem = AttentionProblem(Tokens([200], [0]), keys, latest_order=699, window=window)
    q, k, v = qkv(problem, 8, 2, 64, dtype=BF16)
    for last in (200, 255, 256, window + 190, 400, 699):  # and where one key of a tile is left
        order = torch.tensor([last], dtype=torch.int32)
        clean, _ = check(library, problem, 8, 2, 64, BF16, tensors=(q, k, v), row_order=order)
        ruined = [t.clone() for t in (k, v)]
        for t in ruined:
            t[: max(last - window + 1, 0)], t[last + 1 :] = torch.nan, torch.nan
        ours, _ = cuda_emulator.attention(library, q, *ruined, problem, row_order=order, **EVERYTHING)
        assert all(torch.equal(a, b) for a, b in zip(ours, clean, strict=True))
