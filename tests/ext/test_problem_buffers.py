"""A problem is made of copies: what becomes of the caller's buffers afterwards changes no result."""

import numpy as np
import pytest
import torch
from op_cases import causal

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, attention_reference


def running_mean(problem: AttentionProblem) -> list[float]:
    """What each row sees, told by a mean: query 0, value j at key j."""
    q = torch.zeros(problem.n_rows, 1, 8)
    v = torch.arange(float(problem.n_keys))[:, None, None].expand(-1, 1, 8).contiguous()
    out = attention(q, torch.zeros_like(v), v, problem).out
    assert torch.allclose(out, attention_reference(q, torch.zeros_like(v), v, problem).out)
    return out[:, 0, 0].tolist()


@pytest.mark.parametrize("make", [torch.tensor, np.array])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_keep_lists_are_copied(make, dtype):
    kind = getattr(torch if make is torch.tensor else np, dtype)
    keys, rows = make([0, 1], dtype=kind), make([1, 2], dtype=kind)
    problem = AttentionProblem(causal(8), keep_rows=rows, keep_keys=keys)
    keys[:], rows[:] = 2**30, 2**30  # read as positions, these lie outside of any tensor
    assert running_mean(problem) == [0.5, 0.5]
    assert problem.keep_rows.tolist() == [1, 2] and problem.keep_keys.tolist() == [0, 1]


def test_a_strided_keep_list_is_read_as_it_looks():
    wide = torch.tensor([0, 9, 2, 9, 4, 9], dtype=torch.int32)
    assert running_mean(AttentionProblem(causal(6), keep_rows=wide[::2])) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_token_columns_are_copied(make):
    kind = torch.int32 if make is torch.tensor else np.int32
    columns = {name: make([0, 1, 2, 3] if name == "order" else [0] * 4, dtype=kind) for name in ("order", "group")}
    stream, item = make([0, 0, 1, 1], dtype=kind), make([0] * 4, dtype=kind)
    tokens = Tokens(**columns, item=item, stream=stream)
    for column in (*columns.values(), item, stream):
        column[:] = 7
    assert tokens.order.tolist() == [0, 1, 2, 3] and tokens.group.tolist() == tokens.item.tolist() == [0] * 4
    assert running_mean(AttentionProblem(tokens)) == [0.0, 0.5, 2.0, 2.5]


def test_streams_are_copied():
    parent, start = torch.tensor([-1, 0], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    streams = Streams(parent, start)
    parent[:], start[:] = -1, 5
    problem = AttentionProblem(Tokens([0, 1, 1], [0] * 3, None, [0, 0, 1]), streams=streams)
    assert running_mean(problem) == [0.0, 0.5, 1.0]  # the last row: key 0 of its parent, and its own, key 2


def test_the_streams_of_a_cut_are_copied():
    chosen = [0]
    cut = Cut(1, 1, streams=chosen)
    chosen[0] = 1
    problem = AttentionProblem(Tokens([0, 1, 0, 1], [0] * 4, None, [0, 0, 1, 1]), cuts=[cut])
    assert running_mean(problem) == [0.0, 1.0, 2.0, 2.5]
