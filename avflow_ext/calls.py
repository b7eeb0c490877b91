"""How the wrappers call their operators, whose tensors they have checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

# The operators' kernel for gradients, in Python, refuses inputs that require one; a wrapper has, before it calls. To go
# there and back takes longer than a norm of one row. Torch's own Python kernels go on by this guard.
_below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)


def run(operator: Callable[..., Any], *given: object) -> Any:
    """What `operator` returns. No tensor given requires a gradient where gradients are on."""
    if torch.compiler.is_compiling():  # a trace does not know the guard, and its graph goes to the kernel itself
        return operator(*given)
    with _below_autograd():
        return operator(*given)
