"""How the wrappers call their operators, whose tensors they have checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import forward_ad

# The operators' kernel for gradients, in Python, refuses inputs that require one; a wrapper has, before it calls. To go
# there and back takes longer than a norm of one row. Torch's own Python kernels go on by this guard.
_below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)


def carries_tangent(tensors: Iterable[object]) -> bool:
    """Whether a derivative in forward mode is taken of one of them, which `requires_grad` does not tell."""
    if forward_ad._current_level < 0:  # outside of torch.func.jvp and forward_ad.dual_level, as almost always
        return False
    # A batched one cannot be asked: torch.vmap calls the operator with what is in it, whose kernel asks again.
    asked = [t for t in tensors if isinstance(t, torch.Tensor) and not torch._C._functorch.is_batchedtensor(t)]
    return any(forward_ad.unpack_dual(t).tangent is not None for t in asked)


def check_gradient(op: str, *tensors: torch.Tensor) -> None:
    """NotImplementedError where a derivative is asked for, backward or forward: it would be lost without a word."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise NotImplementedError(f"avflow's {op} has no backward: call it under torch.no_grad()")
    if carries_tangent(tensors):
        raise NotImplementedError(
            f"avflow's {op} has no derivative, and an input carries a tangent (of torch.func.jvp, jacfwd or "
            "forward_ad.make_dual): call it with the primal, forward_ad.unpack_dual(x).primal"
        )


def run(operator: Callable[..., Any], *given: object) -> Any:
    """What `operator` returns. `check_gradient` has looked at the tensors given."""
    if torch.compiler.is_compiling():  # a trace does not know the guard, and its graph goes to the kernel itself
        return operator(*given)
    with _below_autograd():
        return operator(*given)
