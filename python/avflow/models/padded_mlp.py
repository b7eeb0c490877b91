"""A vision tower's MLP in whole 16 bytes: its weights zero-padded, so that products run on the fast matrix kernels.

Qwen2.5's towers are 3,420 wide inside: rows of 6,840 bytes in half precision, which is no multiple of 16. cuBLAS reads
such rows by kernels of an older generation, at a third of the others' rate: on an H200 115 of the 296 ms in which a
minute of video is encoded. A column of zeros in gate and up gives act(0) * 0 = 0, which down multiplies by 0: sums are
the same but for the order in which a kernel adds.

The padded weights live for one call of one layer's MLP (26 MB; the tower's would be 841 MB). Copying them takes some 20
us, so the model itself is never changed: nothing to put back, nothing that goes stale, nothing that threads share.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .bare import is_bare

BYTES = 16  # what rows must be a multiple of: the copy engine and vector loads take no less
ROWS = 1024  # with fewer, copying the weights takes longer than faster products save (by arithmetic: performance.md)
DEVICES: tuple[str, ...] = ("cuda",)  # torch's CPU products do not care
DTYPES: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)


def patches(blocks: nn.ModuleList, source: ModuleType) -> list[tuple[Any, str, Any]]:
    """For `compat.attributes`: the forward of every block's `mlp` whose width inside is no whole 16 bytes.

    source: transformers' file that defines them. An MLP of another class, or with a forward of its own, is left alone.
    """
    out: list[tuple[Any, str, Any]] = []
    for block in blocks:
        mlp: Any = getattr(block, "mlp", None)
        if not hasattr(mlp, "gate_proj") or "forward" in mlp.__dict__:
            continue
        if not type(mlp).__module__ == type(mlp).forward.__module__ == source.__name__:
            continue
        if any(mlp.intermediate_size * dtype.itemsize % BYTES for dtype in DTYPES):
            out.append((mlp, "forward", _padded_forward(mlp)))
    return out


def _padded_forward(mlp: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    slow = mlp.forward

    def forward(hidden_state: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> the same"""
        if not _serves(mlp, hidden_state):
            return slow(hidden_state)
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        width = gate.weight.shape[0]
        more = -width % (BYTES // hidden_state.element_size())
        if not more:  # its projections are no longer as wide as it was made
            return slow(hidden_state)
        zeros = gate.weight.new_zeros(more, gate.weight.shape[1])  # [more, hidden]
        opened = mlp.act_fn(functional.linear(hidden_state, *_taller(gate, zeros)))  # [..., width + more]
        opened = opened * functional.linear(hidden_state, *_taller(up, zeros))
        wider = torch.cat([down.weight, zeros.view(-1, more)], 1)  # [hidden, width + more]
        return functional.linear(opened, wider, down.bias)

    return forward


def _taller(linear: nn.Linear, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias with rows of zeros [more, in] behind them."""
    bias = None if linear.bias is None else torch.cat([linear.bias, zeros.view(-1)[: len(zeros)]])
    return torch.cat([linear.weight, zeros]), bias


def _serves(mlp: Any, hidden_state: torch.Tensor) -> bool:
    """Whether the call is one that gains, of plain weights that nobody watches: asked anew each time."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(hidden_state.device.type):
        return False
    if hidden_state.device.type not in DEVICES or hidden_state.dtype not in DTYPES:
        return False
    if hidden_state.numel() < ROWS * hidden_state.shape[-1] or not is_bare(mlp.act_fn):
        return False
    return all(_plain_linear(part, hidden_state) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))


def _plain_linear(module: nn.Module, x: torch.Tensor) -> bool:
    """torch's own Linear with plain weights like x: no adapter's, no quantised, sharded or parametrized one."""
    if type(module) is not nn.Linear or not is_bare(module):
        return False
    weights = [w for w in (module.weight, module.bias) if w is not None]
    return all(type(w) is nn.Parameter and w.dtype == x.dtype and w.device == x.device for w in weights)
