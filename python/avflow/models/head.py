"""From the last hidden states to logits as the model itself makes them: the output matrix, and what may follow it.

Some models divide their logits, cap them, or hide tokens. Their own forward is asked, with the decoder left out.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from .compat import attributes, kept_state


class Headed(Protocol):
    """A model, as far as its head is concerned; `avflow.Model` has it."""

    hf: Any
    text_model: Any

    @property
    def config(self) -> Any: ...
    @property
    def lm_head(self) -> nn.Module: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@torch.no_grad()
def own_logits(model: Headed, normed: torch.Tensor) -> torch.Tensor:
    """What the model's own forward makes of the decoder's output [1, rows, D]: logits [1, rows, vocab]."""
    from transformers.modeling_outputs import MoeModelOutputWithPast  # has what every decoder's output has

    def decoder(*args: Any, **kwargs: Any) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=normed)

    shape = (1, normed.shape[1])
    ids = torch.zeros(shape, dtype=torch.long, device=model.device)
    with kept_state(model.hf), attributes([(model.text_model, "forward", decoder)]):
        out = model.hf.forward(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return out.logits


@torch.no_grad()
def is_plain(model: Headed) -> bool:
    """Whether the model's logits are those of its output matrix and nothing else; tried on two rows, without layers.

    Where its forward cannot be asked in this way it counts as plain: the walk's clean row is compared with it anyway.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 2, model.config.hidden_size, generator=generator).to(model.device, model.dtype)
    try:
        # Large enough that a cap bends them: caps in use are 30 and 50.
        rows = rows * (100 / model.lm_head(rows).abs().max().clamp(min=1e-3))
        plain, own = model.lm_head(rows), own_logits(model, rows)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return True
    return own.shape != plain.shape or torch.equal(own.to(plain.dtype), plain)
