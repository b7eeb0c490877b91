"""The number of rows as a symbol: one graph for all lengths, exported programs that take any."""

import pytest
import torch
from op_cases import causal, qkv

from avflow_ext import AttentionProblem, Cut, mask_of

ROWS = (100, 101, 128, 130, 257, 64)


class Layer(torch.nn.Module):
    """Heads 8 over 2, head_dim 64; the problem as a tensor."""

    def forward(self, q, k, v, problem):
        return torch.ops.avflow.attention(q, k, v, problem, 0.125, q.shape[0], 0, False)[0] * 2


def inputs(rows: int):
    """q, k, v and a packed problem of this many rows; groups 0 and 1 alternate every five."""
    problem = AttentionProblem(causal(rows, group=torch.arange(rows) // 5 % 2), cuts=[Cut(mask_of([0]), mask_of([1]))])
    return *qkv(problem, 8, 2, 64), problem.packed(4)


def lse_too(q, k, v, problem):
    out, lse, mass = torch.ops.avflow.attention(q, k, v, problem, 0.125, q.shape[0], 2, True)
    return out, lse * 2, mass


@pytest.mark.parametrize("function", [Layer(), lse_too], ids=["out", "everything"])
def test_one_graph_for_any_number_of_rows(function):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for rows in ROWS:
        args = inputs(rows)
        torch.testing.assert_close(compiled(*args), function(*args), rtol=0, atol=0)
    assert counter.frame_count == 1


def test_by_default_a_second_length_makes_the_graph_dynamic():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(Layer(), fullgraph=True, backend=counter)
    for rows in ROWS:
        compiled(*inputs(rows))
    assert counter.frame_count == 2


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_takes_any_number_of_rows(strict):
    rows, words = torch.export.Dim("rows", min=2, max=4096), torch.export.Dim("words", min=2, max=2**24)
    shapes = ({0: rows}, {0: rows}, {0: rows}, {0: words})
    exported = torch.export.export(Layer(), inputs(256), dynamic_shapes=shapes, strict=strict).module()
    for n in ROWS:
        args = inputs(n)
        assert torch.equal(exported(*args), Layer()(*args))


def test_rows_of_another_number_than_the_problem_are_an_error_inside_a_graph_too():
    compiled = torch.compile(Layer(), fullgraph=True, dynamic=True, backend="aot_eager")
    q, k, v, problem = inputs(100)
    with pytest.raises(RuntimeError, match="the problem is for 100 rows, q has 99"):
        compiled(q[:99], k, v, problem)
