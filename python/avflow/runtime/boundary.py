"""Where rows leave: the next layer's first norm gathers those that stay, in the same pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from avflow_ext import gather_rms_norm
from avflow_ext.gather import gather_rms_norm_reference

from ..models.fused import first_norm
from ..uploads import upload


def take(x: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    """Gathers along `dim` by index int64 [batch, m]; the batch is the dimension before it (its size may be 1)."""
    batch, index = len(index), upload(index, x.device)
    x = x.movedim((dim - 1, dim), (0, 1))  # [batch or 1, n, ...]
    row = torch.arange(batch, device=index.device)[:, None] if x.shape[0] > 1 else torch.zeros_like(index[:1, :1])
    return x[row, index].movedim((0, 1), (dim - 1, dim))


class BoundaryNorm:
    """Stands for an RMS norm's `forward` while a block is open; knows the result for rows that it gathered itself."""

    def __init__(self, norm: Any, plain: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """norm: some model's own class, with weight and variance_epsilon. plain: what computes it for other rows."""
        self.norm, self.plain = norm, plain
        self.ready: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return self.plain(hidden_states)
        ready, self.ready = self.ready, None
        return ready[1] if ready is not None and ready[0] is hidden_states else self.plain(hidden_states)

    def gather(self, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """hidden [batch, n, D], index int64 [batch, m], -1 is padding -> the rows, [batch, m, D]; 0 where padding."""
        batch, n, width = hidden.shape
        flat = torch.where(index >= 0, index + n * torch.arange(batch)[:, None], -1).to(torch.int32)  # [batch, m]
        kept, normed = gather_rms_norm(
            hidden.reshape(batch * n, width),
            self.norm.weight,
            self.norm.variance_epsilon,
            upload(flat.view(-1), hidden.device),
        )
        kept, normed = (t.view(*index.shape, width) for t in (kept, normed))
        self.ready = (kept, normed)
        return kept


def boundary_norm(layer: nn.Module) -> BoundaryNorm | None:
    """For a layer that begins with an RMS norm as the op computes it; None for others, whose rows torch gathers."""
    norm: Any = getattr(layer, "input_layernorm", None)
    if not type(norm).__name__.endswith("RMSNorm") or not hasattr(norm, "variance_epsilon"):
        return None
    weight: Any = getattr(norm, "weight", None)
    if weight is None or weight.dim() != 1 or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    # Some norms of that name multiply by 1 + weight: what it computes decides.
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1).to(weight.dtype)
    keep = torch.arange(2, dtype=torch.int32, device=weight.device)
    with torch.no_grad():
        ours, theirs = gather_rms_norm_reference(x, weight, norm.variance_epsilon, keep)[1], norm.forward(x)
    same = theirs.dtype == weight.dtype and torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-3)
    return BoundaryNorm(norm, first_norm(layer)) if same else None


def gather_hidden(norm: BoundaryNorm | None, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The rows [batch, m, D] that go on, by index int64 [batch, m] on the CPU; 0 where it is -1."""
    if norm is not None and hidden.dtype == norm.norm.weight.dtype:
        return norm.gather(hidden, index)
    kept = take(hidden, index.clamp(min=0), 1)
    blank = index < 0
    return kept.masked_fill(upload(blank, kept.device)[..., None], 0) if bool(blank.any()) else kept
