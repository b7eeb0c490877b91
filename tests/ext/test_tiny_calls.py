"""What a call of one row does beside its arithmetic: every layer of every decoding step pays it."""

import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import avflow_ext
from avflow_ext import AttentionProblem, Streams, Tokens

KEEP = torch.zeros(1, dtype=torch.int32)


def arguments_of(op):
    x, weight = torch.randn(1, 8), torch.randn(8)
    q = torch.randn(1, 2, 8)
    if op == "attention":
        return (
            q,
            torch.randn(4, 1, 8),
            torch.randn(4, 1, 8),
            AttentionProblem(Tokens([3], [0]), Tokens(range(4), [0] * 4)),
        )
    return {
        "gather_rms_norm": (x, weight, 1e-6, KEEP),
        "compact": (q[None], KEEP[None]),
        "rms_norm": (x, weight, 1e-6),
        "add_rms_norm": (x, x, weight, 1e-6),
        "rotary": (q, q, x, x),
        "silu_mul": (x, x),
    }[op]


OPS = ("attention", "gather_rms_norm", "compact", "rms_norm", "add_rms_norm", "rotary", "silu_mul")


@pytest.mark.parametrize("op", OPS)
def test_a_call_asks_nothing_else_of_torchs_dispatcher(op):
    function, arguments = getattr(avflow_ext, op), arguments_of(op)
    function(*arguments)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function(*arguments)
    assert {event.key for event in seen.key_averages()} == {f"avflow::{op}"}


@pytest.mark.parametrize("op", OPS)
def test_a_function_does_not_go_through_the_operators_python(op):
    function, arguments, files = getattr(avflow_ext, op), arguments_of(op), set()
    function(*arguments)
    sys.setprofile(lambda frame, event, _: files.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    assert any(name.endswith("calls.py") for name in files)
    assert not [name for name in files if name.endswith("_load.py") or "_library" in name]


def test_a_problem_of_columns_asks_torch_for_no_result():
    """What is found out about its columns is found by numpy, and kept: a few numbers take torch ten times as long."""
    row, keys = Tokens([3], [0]), Tokens(range(4), [0] * 4)
    AttentionProblem(row, keys).packed(2)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        AttentionProblem(row, keys).packed(2)
    asked = {event.key.removeprefix("aten::") for event in seen.key_averages()}
    assert asked <= {
        "full",
        "fill_",
        "zeros",
        "zero_",
        "empty",
        "detach",
        "to",
        "resolve_conj",
        "resolve_neg",
        "lift_fresh",
    }


def test_root_streams_are_those_that_are_checked():
    roots, checked = Streams.roots(3), Streams([-1] * 3, [0] * 3)
    for name in ("parent", "start"):
        assert torch.equal(getattr(roots, name), getattr(checked, name))
        assert getattr(roots, name).dtype == getattr(checked, name).dtype == torch.int32
    assert len(Streams.roots(0)) == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16])
def test_columns_of_every_integer(dtype):
    tokens = Tokens(torch.arange(3).to(dtype), torch.tensor([0, 1, 1]).to(dtype))
    assert tokens.order.tolist() == [0, 1, 2] and tokens.order.dtype == tokens.group.dtype == torch.int32
