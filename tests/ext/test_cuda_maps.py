"""What the host tells the copy engine of keys and values: the emulated kernel reads through those very numbers."""

import cuda_emulator
import pytest
import torch
from cuda_cases import BF16, check, runs
from op_cases import qkv

from avflow_ext import AttentionProblem, Cut


@pytest.fixture(scope="module", params=["hopper", "pairs"])
def wide(request, emulated):
    return emulated(request.param)


def layouts(n: int, d: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """k, v [n, 2, d], by how they lie in memory."""
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(2, n, 2, d, generator=g).to(BF16)
    joined = torch.randn(n, 5, d + 16, generator=g).to(BF16)
    return {
        "rows": (rows[0], rows[1]),
        "heads first": tuple(t.transpose(0, 1).contiguous().transpose(0, 1) for t in rows),
        "parts of wider rows": (joined[:, :2, 8 : d + 8], joined[:, 3:, :d]),
        "every second row": (rows.reshape(n, 2, 2, d)[:, 0], rows.reshape(n, 2, 2, d)[:, 1]),
        "heads backwards in a cache": (torch.cat([rows[0], rows[1]])[:n], torch.cat([rows[1], rows[0]])[n:]),
    }


@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", layouts(1, 64))
def test_any_layout(wide, name, d):
    problem = AttentionProblem(runs(150), cuts=[Cut(2, 4)])
    q, _, _ = qkv(problem, 8, 2, d, dtype=BF16)
    check(wide, problem, 8, 2, d, BF16, tensors=(q, *layouts(150, d)[name]))
    assert wide.emulated_mapped()


def test_one_head_and_one_key(wide):
    """Of a dimension of one element the stride may be anything, 0 as well."""
    problem = AttentionProblem(runs(70))
    q, k, v = qkv(problem, 4, 1, 64, dtype=BF16)
    check(wide, problem, 4, 1, 64, BF16, tensors=(q, *(t.as_strided((70, 1, 64), (64, 0, 1)) for t in (k, v))))
    assert wide.emulated_mapped()
    keys = runs(1)
    problem = AttentionProblem(runs(40), keys)
    q, k, v = qkv(problem, 8, 2, 128, dtype=BF16)
    check(wide, problem, 8, 2, 128, BF16, tensors=(q, *(t.as_strided((1, 2, 128), (0, 128, 1)) for t in (k, v))))
    assert wide.emulated_mapped()


@pytest.mark.parametrize("which", [0, 1])
def test_expanded_tensors_come_by_ordinary_copies(wide, which):
    """The engine refuses strides of 0: all heads, or all keys, the same memory; for keys or for values alone, too."""
    problem = AttentionProblem(runs(90))
    q, k, v = qkv(problem, 8, 2, 64, dtype=BF16)
    for expanded in (
        (k if which == 0 else v)[:, :1].expand(-1, 2, -1),
        (k if which == 0 else v)[:1].expand(90, -1, -1),
    ):
        tensors = (q, expanded, v) if which == 0 else (q, k, expanded)
        check(wide, problem, 8, 2, 64, BF16, tensors=tensors)
        assert not wide.emulated_mapped()


def test_no_keys(wide):
    problem = AttentionProblem(runs(40), runs(0))
    q, k, v = qkv(problem, 8, 2, 64, dtype=BF16)
    ours, _ = cuda_emulator.attention(wide, q, k, v, problem, return_lse=True)
    assert (ours.out == 0).all() and ours.lse.isneginf().all() and not wide.emulated_mapped()
