"""Rotary positions of the vision towers by one kernel, where transformers makes 14 passes; equal to the last bit.

transformers' function makes float32 copies of q and k, rotates copies of these, and rounds at the end. The kernel reads
and writes each once: 4 bytes an element instead of 52 in half precision. Where it does not run, plain torch multiplies
the halves as they are, in float32 too, and rounds the sums as they are written: 12 passes over halves, 22 bytes. The
attention modules call their file's function by its name; they get ours for one forward, in a copy of their own forward
whose names are the file's but for this one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch

from avflow_ext import rotary
from avflow_ext.device import CUDA_DTYPES, why_not_cuda

NAME = "apply_rotary_pos_emb_vision"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Rotate = Callable[..., tuple[torch.Tensor, torch.Tensor]]  # q, k [rows, heads, d], cos, sin [rows, d] -> q, k


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [rows, heads, d]; cos, sin float32 [rows, 1, d] -> as x."""
    half = x.shape[-1] // 2
    (x1, x2), out = (x[..., :half], x[..., half:]), torch.empty_like(x)
    # A product with float32 is made in float32; the sum is rounded to what it is written to.
    torch.sub(x1 * cos[..., :half], x2 * sin[..., :half], out=out[..., :half])
    torch.add(x2 * cos[..., half:], x1 * sin[..., half:], out=out[..., half:])
    return out


def runs_here(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether the kernel takes these."""
    rows, _, d = q.shape if q.dim() == 3 else (0, 0, 1)
    if d % 2 or k.dim() != 3 or k.shape[0] != rows or k.shape[2] != d or not cos.shape == sin.shape == (rows, d):
        return False
    if k.dtype != q.dtype or not q.device == k.device == cos.device == sin.device:
        return False
    if q.device.type == "cuda":
        return q.dtype in CUDA_DTYPES and why_not_cuda(q.device.index) is None
    return q.device.type == "cpu"


def plain(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the kernel; cos, sin float32 [rows, d]."""
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return rotated(q, cos, sin), rotated(k, cos, sin)


def quick(theirs: Rotate) -> Rotate:
    """The same as transformers' function; itself where gradients are wanted, or the dtype is none that is known."""

    def rotate(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not {q.dtype, k.dtype} <= set(DTYPES):
            return theirs(q, k, cos, sin)
        cos, sin = cos.float(), sin.float()
        return rotary(q, k, cos, sin) if runs_here(q, k, cos, sin) else plain(q, k, cos, sin)

    return rotate


@lru_cache
def agrees(theirs: Rotate) -> bool:
    """Whether a version of transformers' function still gives what ours does, tried on a few numbers."""
    generator = torch.Generator().manual_seed(0)
    q, k, tables = (torch.randn(*shape, generator=generator) for shape in ((5, 2, 8), (5, 2, 8), (2, 5, 8)))
    with torch.no_grad():
        try:
            wanted = theirs(q.bfloat16(), k.bfloat16(), *tables)
        except Exception:
            return False
        found = plain(q.bfloat16(), k.bfloat16(), *tables), quick(theirs)(q.bfloat16(), k.bfloat16(), *tables)
    return all(torch.equal(a, b) for ours in found for a, b in zip(ours, wanted, strict=True))


def with_quick_rotary(forward: Callable[..., Any], source: ModuleType | None) -> Callable[..., Any]:
    """A module's forward with our rotation; the forward itself where it is not the plain method of `source`."""
    method, names = getattr(forward, "__func__", None), vars(source) if source else {}
    theirs = names.get(NAME)
    if getattr(method, "__globals__", {}).get("__name__") == "transformers.utils.deprecation":
        # Before 5.20: it renames an old argument, which avflow does not pass.
        method = getattr(method, "__wrapped__", None)
    if not isinstance(method, FunctionType) or method.__globals__ is not names or method.__closure__:
        return forward
    if NAME not in method.__code__.co_names or getattr(theirs, "__module__", None) != names["__name__"]:
        return forward
    if theirs is None or not agrees(theirs):
        return forward
    made = FunctionType(method.__code__, {**names, NAME: quick(theirs)}, method.__name__, method.__defaults__)
    made.__kwdefaults__ = method.__kwdefaults__
    return MethodType(made, getattr(forward, "__self__", None))
