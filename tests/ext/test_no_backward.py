"""The ops are forward only: an input that needs a gradient is refused at the call, not left with a gradient of None."""

import pytest
import torch
from op_cases import causal, qkv
from torch.autograd import forward_ad

import avflow_ext
from avflow_ext import AttentionProblem

KEEP = torch.tensor([1, 0], dtype=torch.int32)


def attention_arguments():
    problem = AttentionProblem(causal(3))
    return (*qkv(problem, 2, 1, 8), problem.packed(2), 0.25, 3, 0, False)


def arguments_of(op):
    if op == "attention":
        return attention_arguments()
    if op == "compact":
        return torch.randn(1, 2, 3, 4), KEEP[None]
    if op == "gather_rms_norm":
        return torch.randn(3, 8), torch.randn(8), 1e-6, KEEP
    if op == "rms_norm":
        return torch.randn(3, 8), torch.randn(8), 1e-6
    if op == "add_rms_norm":
        return torch.randn(3, 8), torch.randn(3, 8), torch.randn(8), 1e-6
    if op == "rotary":
        return torch.randn(3, 2, 8), torch.randn(3, 1, 8), torch.randn(3, 8), torch.randn(3, 8)
    assert op == "silu_mul"
    return torch.randn(3, 8), torch.randn(3, 8)


FLOATS = [("attention", 0), ("attention", 1), ("attention", 2), ("gather_rms_norm", 0), ("gather_rms_norm", 1)]
FLOATS += [("compact", 0), ("rms_norm", 0), ("rms_norm", 1), ("add_rms_norm", 0), ("add_rms_norm", 1)]
FLOATS += [("add_rms_norm", 2), ("rotary", 0), ("rotary", 1), ("rotary", 2), ("silu_mul", 0), ("silu_mul", 1)]


def first(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


@pytest.mark.parametrize("op, which", FLOATS)
def test_the_operator_refuses(op, which):
    function, arguments = getattr(torch.ops.avflow, op), list(arguments_of(op))
    expected = first(function(*arguments))
    leaf = arguments[which].clone().requires_grad_()
    for needs in (leaf, leaf * 1.0):  # a parameter, and what was computed from one
        arguments[which] = needs
        with pytest.raises(NotImplementedError, match=rf"avflow.{op} has no backward.*torch.no_grad\(\)"):
            function(*arguments)
        with torch.no_grad():
            out = first(function(*arguments))
        assert torch.equal(out, expected) and not out.requires_grad
    arguments[which] = leaf.detach()
    assert torch.equal(first(function(*arguments)), expected)


@pytest.mark.parametrize("op, which", FLOATS)
def test_a_compiled_call_refuses(op, which):
    torch._dynamo.reset()  # a lambda of this place is compiled for each case, and only so many times
    function, arguments = getattr(torch.ops.avflow, op), list(arguments_of(op))
    compiled = torch.compile(lambda *given: first(function(*given)) * 2, fullgraph=True, backend="aot_eager")
    expected = compiled(*arguments)
    arguments[which] = arguments[which].clone().requires_grad_()
    with pytest.raises(Exception, match="has no backward"):
        compiled(*arguments)
    with torch.no_grad():
        assert torch.equal(compiled(*arguments), expected)


def test_the_functions_refuse_as_the_operators_do():
    x, weight, eps, keep = arguments_of("gather_rms_norm")
    with pytest.raises(NotImplementedError, match="no backward"):
        avflow_ext.gather_rms_norm(x.requires_grad_(), weight, eps, keep)
    with pytest.raises(NotImplementedError, match="no backward"):
        avflow_ext.compact(torch.randn(1, 2, 3, 4, requires_grad=True), KEEP[None])
    for op in ("rms_norm", "add_rms_norm", "rotary", "silu_mul"):
        first_one, *others = arguments_of(op)
        with pytest.raises(NotImplementedError, match=f"{op} has no backward"):
            getattr(avflow_ext, op)(first_one.requires_grad_(), *others)


@pytest.mark.parametrize("op, which", FLOATS)
def test_a_derivative_in_forward_mode_is_refused(op, which):
    """Torch would take it for 0: of an input with a tangent `requires_grad` is False."""
    function, arguments = getattr(torch.ops.avflow, op), list(arguments_of(op))
    x = arguments[which]

    def given(one):
        return [*arguments[:which], one, *arguments[which + 1 :]]

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for outer in (torch.no_grad, torch.enable_grad):  # of backward alone
            with outer(), pytest.raises(NotImplementedError, match=rf"avflow.{op} has no derivative.*primal"):
                function(*given(dual))
        function(*given(x))  # others may be differentiated beside it
    with pytest.raises(NotImplementedError, match="no derivative"):
        torch.func.jacfwd(lambda one: first(function(*given(one))))(x)
    if op == "attention":
        arguments[3:] = [AttentionProblem(causal(3))]
    with pytest.raises(NotImplementedError, match="no derivative"):
        torch.func.jvp(lambda one: getattr(avflow_ext, op)(*given(one)), (x,), (x,))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_derivative_of_a_batch_is_refused():
    x, weight = torch.randn(2, 3, 8), torch.randn(8)
    norms = torch.vmap(lambda one: avflow_ext.rms_norm(one, weight, 1e-6))
    with pytest.raises(NotImplementedError, match="no backward"):
        torch.func.grad(lambda one: norms(one).sum())(x)
    with pytest.raises(NotImplementedError, match="no derivative"):
        torch.func.jvp(norms, (x,), (x,))
    out, tangent = torch.func.jvp(lambda one: one.sum() + norms(x), (x[0],), (x[0],))
    assert torch.equal(out, x[0].sum() + norms(x)) and torch.equal(tangent, x[0].sum().expand(2, 3, 8))


def test_tensors_of_inference_mode_pass():
    with torch.inference_mode():
        arguments = attention_arguments()
        assert torch.ops.avflow.attention(*arguments)[0].shape == (3, 2, 8)
