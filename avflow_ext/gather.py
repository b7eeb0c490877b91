"""The gathers of the eviction boundary: kept rows with their RMS norm, and the cache of the tokens that stay.

Each op stands beside its plain-torch reference of the same signature. Forward only. Positions are tensors on the
device, so a captured CUDA graph serves whatever they hold.
"""

from __future__ import annotations

import torch

from . import _load  # noqa: F401  registers the operators
from .calls import check_gradient, run
from .device import CUDA_DTYPES, DTYPES, why_not_cuda


def gather_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that stay after an eviction and their RMS norm, in one pass over memory.

    Args:
        x: [n, width] float32, bfloat16 or float16 (on CUDA: bfloat16 or float16); any strides.
        weight: [width], dtype of x.
        eps: added to the mean square.
        keep: int32 [m], rows of x in the order wanted; -1 is padding. On the CPU other positions are an error; on CUDA
            nobody looks, and they count as padding: nothing outside x is read.

    Returns:
        kept [m, width]: x[keep]; normed [m, width]: kept, normalised in float32, rounded to the dtype, then multiplied
        by weight, as transformers' Qwen2RMSNorm does. Padding rows are 0 in both.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; the message names them.
        NotImplementedError: tensors on a device without a kernel, or inputs that require a gradient.
    """
    _check_norm(x, weight, keep)
    _check_device("gather_rms_norm", x, CUDA_DTYPES)
    check_gradient("gather_rms_norm", x, weight)
    return run(torch.ops.avflow.gather_rms_norm, x, weight, eps, keep)


def gather_rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same signature and result as `gather_rms_norm`."""
    _check_norm(x, weight, keep)
    kept = torch.where((keep >= 0)[:, None], x[keep.clamp(min=0).long()], 0.0)  # [m, width]
    x32 = kept.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return kept, torch.where((keep >= 0)[:, None], weight * normed.to(x.dtype), 0.0)


def compact(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Keys or values of the tokens that stay.

    Args:
        x: [batch, heads, n, d] float32, bfloat16 or float16; any strides.
        keep: int32 [batch, m], positions in each sequence in the order wanted; -1 is padding. Other positions: see
            `gather_rms_norm`.

    Returns:
        [batch, heads, m, d], contiguous: x[b, h, keep[b, i]], and 0 for padding.

    Raises:
        ValueError, TypeError, NotImplementedError: as `gather_rms_norm`.
    """
    _check_compact(x, keep)
    _check_device("compact", x, DTYPES)
    check_gradient("compact", x)
    return run(torch.ops.avflow.compact, x, keep)


def compact_reference(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Same signature and result as `compact`."""
    _check_compact(x, keep)
    at = keep.clamp(min=0).long()[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])  # [batch, heads, m, d]
    return torch.where((keep >= 0)[:, None, :, None], x.gather(2, at), 0.0)


def _check_norm(x: torch.Tensor, weight: torch.Tensor, keep: torch.Tensor) -> None:
    shape = x.shape
    if len(shape) != 2 or weight.shape != shape[1:] or shape[1] == 0:
        raise ValueError(f"x is {tuple(shape)}, weight {tuple(weight.shape)}: pass x [n, width], weight [width]")
    if weight.dtype != x.dtype or weight.device != x.device:
        raise TypeError(f"x is {x.dtype} on {x.device}, weight {weight.dtype} on {weight.device}: they must agree")
    _check_keep(x, keep, 1, "[m]")


def _check_compact(x: torch.Tensor, keep: torch.Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"x is {tuple(x.shape)}: pass [batch, heads, n, d]")
    _check_keep(x, keep, 2, "[batch, m]")
    if keep.shape[0] != x.shape[0]:
        raise ValueError(f"keep is {tuple(keep.shape)}: pass one line for each of {x.shape[0]} sequences")


def _check_keep(x: torch.Tensor, keep: torch.Tensor, dim: int, shape: str) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"x is {x.dtype}: pass float32, bfloat16 or float16")
    if keep.dtype != torch.int32 or keep.dim() != dim:
        raise TypeError(f"keep is {keep.dtype} {tuple(keep.shape)}: pass int32 {shape}")
    if keep.device != x.device:
        raise ValueError(f"keep lies on {keep.device}, x on {x.device}: pass them on one device")


def _check_device(op: str, x: torch.Tensor, cuda_dtypes: tuple[torch.dtype, ...]) -> None:
    if torch.compiler.is_compiling() or x.is_cpu:
        return
    if not x.is_cuda:
        raise NotImplementedError(f"no {op} kernel for device {x.device}: move the tensors to the CPU or to CUDA")
    if why := why_not_cuda(x.device.index):
        raise NotImplementedError(f"no {op} kernel for {x.device}: {why}; or move the tensors to the CPU")
    if x.dtype not in cuda_dtypes:
        raise TypeError(f"x is {x.dtype} on {x.device}: the CUDA kernel of {op} takes bfloat16 and float16")
