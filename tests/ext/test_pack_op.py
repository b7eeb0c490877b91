"""Packing as an operator: the words of AttentionProblem, and graphs that tokens go into."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import problems, qkv_of

from avflow_ext import AttentionProblem, Cut, Streams, Tokens, attention, cut_columns, mask_of

pack = torch.ops.avflow.pack


def columns(tokens: Tokens) -> torch.Tensor:
    return torch.from_numpy(tokens.matrix)


@given(problem=problems(longest=120), kernel=st.sampled_from(["cpu", "cuda", "hopper"]), zero=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_words_are_those_of_the_problem(problem, kernel, zero):
    """Of random layouts whose keep lists are already applied."""
    problem = AttentionProblem(problem.rows, problem.keys, problem.streams, problem.cuts)
    words = pack(
        columns(problem.rows),
        *cut_columns(problem.cuts),
        6,
        2,
        keys=columns(problem.keys),
        streams=torch.from_numpy(problem.streams.matrix),
        zero=zero,
        device_type=kernel,
    )
    assert torch.equal(words, problem.packed(3, "zero" if zero else "renormalize", kernel))


def test_keep_lists_groups_and_latest_order():
    rows, keys = Tokens([4, 5, 6], [1, 2, 1]), Tokens(range(9), [3] * 9)
    given = {"groups": 9, "latest_order": 30}
    keep = {"keep_rows": [0, 2], "keep_keys": [1, 3, 8]}
    problem = AttentionProblem(rows, keys, **keep, **given)
    lists = {name: torch.tensor(kept, dtype=torch.int32) for name, kept in keep.items()}
    words = pack(columns(rows), *cut_columns([]), 4, 4, keys=columns(keys), **lists, **given)
    assert torch.equal(words, problem.packed(1))
    nothing = torch.empty(0, dtype=torch.int32)
    words = pack(columns(rows), *cut_columns([]), 4, 4, keys=columns(keys), keep_rows=nothing, keep_keys=nothing)
    assert torch.equal(words, AttentionProblem(rows, keys, keep_rows=[], keep_keys=[]).packed(1))


def test_cuts_of_some_streams_and_of_none():
    rows = Tokens([0, 1, 0, 1], [0, 1, 0, 1], None, [0, 0, 1, 1])
    cuts = [Cut(1, 2, streams=(1,)), Cut(1, 2, streams=()), Cut(2**63, 2**64 - 1, heads=2**63, cut_self=True)]
    problem = AttentionProblem(rows, streams=Streams.roots(2), cuts=cuts)
    words = pack(columns(rows), *cut_columns(cuts), 4, 4, streams=torch.from_numpy(problem.streams.matrix))
    assert torch.equal(words, problem.packed(1))


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"heads": 5}, ValueError, "5 query heads over 2 kv heads"),
        ({"heads": 128}, ValueError, "64 at most"),
        ({"device_type": "sm90"}, ValueError, "no kernel named sm90: cpu, cuda and hopper are known"),
        ({"rows": torch.zeros(3, 4, dtype=torch.int32)}, ValueError, "order must strictly increase"),
        ({"rows": torch.zeros(3, 4)}, RuntimeError, r"rows must be int32 \[n, 4\]"),
        ({"rows": torch.zeros(3, 3, dtype=torch.int32)}, RuntimeError, r"rows must be int32 \[n, 4\]"),
        ({"cuts": torch.zeros(1, 7, dtype=torch.int64)}, RuntimeError, "cut_columns"),
        ({"cut_streams": torch.tensor([[4, 0]], dtype=torch.int32)}, ValueError, "names cut 4: there are 0"),
        ({"keep_rows": torch.tensor([7], dtype=torch.int32)}, ValueError, r"keep_rows\[0\] = 7: there are 3 tokens"),
        ({"streams": torch.zeros(0, 2, dtype=torch.int32)}, ValueError, "n_streams = -1"),
        ({"groups": 65}, ValueError, "groups = 65"),
        ({"latest_order": 2**31}, ValueError, "must fit in int32"),
        ({"latest_order": 1}, ValueError, "latest_order = 1: a row begins at 2"),
    ],
)
def test_what_does_not_fit(change, error, text):
    cuts, cut_streams = cut_columns([])
    given = {"rows": columns(Tokens([0, 1, 2], [0] * 3)), "cuts": cuts, "cut_streams": cut_streams}
    with pytest.raises(error, match=text):
        pack(**({**given, "heads": 4, "kv_heads": 2} | change))


# ---------------------------------------------------------------- inside graphs


class Layer(torch.nn.Module):
    """Tokens [n, 4] go in; group 1 is cut from groups 4 and 5."""

    def __init__(self):
        super().__init__()
        for name, value in zip(("cuts", "cut_streams"), cut_columns([Cut(mask_of([1]), mask_of([4, 5]))]), strict=True):
            self.register_buffer(name, value)

    def forward(self, q, k, v, tokens):
        problem = pack(tokens, self.cuts, self.cut_streams, q.shape[1], k.shape[1])
        return torch.ops.avflow.attention(q, k, v, problem, 0.125, q.shape[0], 0, False)[0] * 2


def inputs(n: int):
    tokens = Tokens(range(n), [min(i // 40, 7) for i in range(n)])
    return *qkv_of(n, n, 8, 2, 64), columns(tokens)


LENGTHS = (256, 100, 333, 77, 64, 300)


def test_the_layer_is_that_of_the_object_form():
    *qkv, tokens = inputs(300)
    problem = AttentionProblem(
        Tokens(range(300), [min(i // 40, 7) for i in range(300)]), cuts=[Cut(mask_of([1]), mask_of([4, 5]))]
    )
    assert torch.equal(Layer()(*qkv, tokens), attention(*qkv, problem).out * 2)


def test_one_graph_for_any_length():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(Layer(), fullgraph=True, dynamic=True, backend=counter)
    for n in LENGTHS:
        args = inputs(n)
        assert torch.equal(compiled(*args), Layer()(*args))
    assert counter.frame_count == 1


def test_an_exported_program_makes_its_problems():
    n = torch.export.Dim("n", min=2, max=4096)
    exported = torch.export.export(Layer(), inputs(256), dynamic_shapes=({0: n},) * 4).module()
    for length in LENGTHS:
        args = inputs(length)
        assert torch.equal(exported(*args), Layer()(*args))


def test_opcheck():
    *_, tokens = inputs(100)
    torch.library.opcheck(pack.default, (tokens, *cut_columns([Cut(1, 2)]), 8, 2))


def test_the_object_form_with_a_fresh_problem_says_what_to_do():
    problem = AttentionProblem(Tokens(range(50), [0] * 50))
    torch._dynamo.reset()
    compiled = torch.compile(lambda *qkv: attention(*qkv, problem).out, fullgraph=True, backend="aot_eager")
    tensors = qkv_of(50, 50, 4, 2, 16)
    with pytest.raises(Exception, match=r"not packed yet.*problem\.packed\(2\).*torch\.ops\.avflow\.pack"):
        compiled(*tensors)
    problem.packed(2)
    torch._dynamo.reset()
    assert torch.equal(compiled(*tensors), attention(*tensors, problem).out)


@pytest.mark.parametrize("fresh", [True, False])
def test_where_graphs_may_break_the_object_form_runs(fresh):
    """As it is, outside of the graphs: with a problem made within, and with one not packed yet."""
    problem = AttentionProblem(Tokens(range(50), [0] * 50))
    tensors = qkv_of(50, 50, 4, 2, 16)

    def attend(q, k, v):
        return attention(q, k, v, problem if fresh else AttentionProblem(Tokens(range(50), [0] * 50))).out * 2

    torch._dynamo.reset()
    out = torch.compile(attend, backend="aot_eager")(*tensors)
    assert torch.equal(out, attention(*tensors, AttentionProblem(Tokens(range(50), [0] * 50))).out * 2)
