"""A decoder layer's passes between its matrix products, each in one pass over memory, rounded as transformers rounds.

Each op stands beside its plain-torch reference of the same signature. Forward only. On CUDA bfloat16 and float16, on
the CPU also float32; any strides.
"""

from __future__ import annotations

import torch

from . import _load  # noqa: F401  registers the operators
from .calls import check_gradient, run
from .device import CUDA_DTYPES, DTYPES
from .gather import _check_device


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm as transformers' Qwen2RMSNorm computes and rounds it.

    Args:
        x: [n, width] float32, bfloat16 or float16 (on CUDA: bfloat16 or float16); any strides.
        weight: [width], dtype of x.
        eps: added to the mean square.

    Returns:
        [n, width]: x, normalised in float32, rounded to the dtype, then multiplied by weight.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; the message names them.
        NotImplementedError: tensors on a device without a kernel, or inputs that require a gradient.
    """
    _check_norm(x, weight)
    _check_runs("rms_norm", x, weight)
    return run(torch.ops.avflow.rms_norm, x, weight, eps)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Same signature and result as `rms_norm`."""
    _check_norm(x, weight)
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer's part adds to the residual stream, and the RMS norm of the sum.

    Args:
        x, residual: [n, width] of one dtype, as of `rms_norm`.
        weight, eps: as of `rms_norm`.

    Returns:
        sum [n, width]: residual + x, rounded to the dtype; normed [n, width]: `rms_norm` of it.

    Raises:
        ValueError, TypeError, NotImplementedError: as `rms_norm`.
    """
    _check_add(x, residual, weight)
    _check_runs("add_rms_norm", x, residual, weight)
    return run(torch.ops.avflow.add_rms_norm, x, residual, weight, eps)


def add_rms_norm_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same signature and result as `add_rms_norm`."""
    _check_add(x, residual, weight)
    total = residual + x
    return total, rms_norm_reference(total, weight, eps)


def rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary embedding of queries and keys, of all d numbers of a head, as transformers' apply_rotary_pos_emb.

    With float32 tables as its apply_rotary_pos_emb_vision: in float32, and rounded once.

    Not in place: writing beside costs the same traffic, and what else holds the projections' outputs keeps them.

    Args:
        q: [rows, heads, d] float32, bfloat16 or float16 (on CUDA: bfloat16 or float16), d even; any strides.
        k: [rows, kv_heads, d], dtype of q.
        cos, sin: [rows, d], dtype of q, or float32. Of several axes (mRoPE) those of each number, selected already.

    Returns:
        q [rows, heads, d] and k [rows, kv_heads, d], contiguous: x * cos + rotate_half(x) * sin, where rotate_half is
        (-second half, first half). With tables of q's dtype both products and their sum are rounded to it; with float32
        tables all is float32 until the sum is rounded.

    Raises:
        ValueError, TypeError, NotImplementedError: as `rms_norm`. A table narrower than d (partial rotary) is a
            ValueError.
    """
    _check_rotary(q, k, cos, sin)
    _check_runs("rotary", q, k, cos, sin)
    return run(torch.ops.avflow.rotary, q, k, cos, sin)


def rotary_reference(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same signature and result as `rotary`."""
    _check_rotary(q, k, cos, sin)
    half = q.shape[2] // 2
    cos, sin = cos[:, None], sin[:, None]  # [rows, 1, d]

    def turned(x: torch.Tensor) -> torch.Tensor:
        total = x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
        return total.to(x.dtype)  # of float32 tables: halves times float32 are float32

    return turned(q), turned(k)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SiLU(gate) * up, the middle of a gated MLP.

    Args:
        gate, up: [rows, width] float32, bfloat16 or float16 (on CUDA: bfloat16 or float16), one dtype; any strides, as
            of halves of one product.

    Returns:
        [rows, width], contiguous. SiLU in float32, rounded to the dtype, then the product.

    Raises:
        ValueError, TypeError, NotImplementedError: as `rms_norm`.
    """
    _check_silu(gate, up)
    _check_runs("silu_mul", gate, up)
    return run(torch.ops.avflow.silu_mul, gate, up)


def silu_mul_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Same signature and result as `silu_mul`."""
    _check_silu(gate, up)
    return torch.nn.functional.silu(gate) * up


def _check_alike(name: str, first: torch.Tensor, **others: torch.Tensor) -> None:
    """One dtype that the kernels take, on one device."""
    if first.dtype not in DTYPES:
        raise TypeError(f"{name} is {first.dtype}: pass float32, bfloat16 or float16")
    dtype, device = first.dtype, first.device
    for other, tensor in others.items():
        if tensor.dtype != dtype or tensor.device != device:
            raise TypeError(
                f"{name} is {dtype} on {device}, {other} {tensor.dtype} on {tensor.device}: they must agree"
            )


def _check_norm(x: torch.Tensor, weight: torch.Tensor) -> None:
    shape = x.shape
    if len(shape) != 2 or weight.shape != shape[1:] or shape[1] == 0:
        raise ValueError(f"x is {tuple(x.shape)}, weight {tuple(weight.shape)}: pass x [n, width], weight [width]")
    _check_alike("x", x, weight=weight)


def _check_add(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> None:
    _check_norm(x, weight)
    if residual.shape != x.shape:
        raise ValueError(f"x is {tuple(x.shape)}, residual {tuple(residual.shape)}: pass two of one shape")
    _check_alike("x", x, residual=residual)


def _check_rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    q_shape, k_shape = q.shape, k.shape  # asked for once: torch makes a tuple each time
    if len(q_shape) != 3 or len(k_shape) != 3 or k_shape[0] != q_shape[0] or k_shape[2] != q_shape[2]:
        raise ValueError(f"q is {tuple(q_shape)}, k {tuple(k_shape)}: pass q [rows, heads, d], k [rows, kv_heads, d]")
    rows, _, d = q_shape
    if d == 0 or d % 2:
        raise ValueError(f"heads of {d} numbers have no two halves: pass an even d")
    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape != (rows, d):
            raise ValueError(f"{name} is {tuple(table.shape)}: pass [rows, d], here {(rows, d)}")
    _check_alike("q", q, k=k)
    if cos.dtype != torch.float32:  # else one rounding, whatever q is
        _check_alike("q", q, cos=cos)
    elif cos.device != q.device:
        raise TypeError(f"q lies on {q.device}, cos on {cos.device}: they must agree")
    _check_alike("cos", cos, sin=sin)


def _check_silu(gate: torch.Tensor, up: torch.Tensor) -> None:
    if gate.dim() != 2 or up.shape != gate.shape:
        raise ValueError(f"gate is {tuple(gate.shape)}, up {tuple(up.shape)}: pass two of one shape [rows, width]")
    _check_alike("gate", gate, up=up)


def _check_runs(op: str, *tensors: torch.Tensor) -> None:
    _check_device(op, tensors[0], CUDA_DTYPES)
    check_gradient(op, *tensors)
