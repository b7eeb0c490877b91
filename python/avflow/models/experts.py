"""Mixtures of experts: which of a layer's weights work for one token."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

# How many experts run a token, as the configs of transformers call it.
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "moe_top_k")
_EXPERT = re.compile(r"^(.*\bexperts)\.(\d+)\.")  # of experts that are modules of their own


def experts_per_token(config: Any) -> int | None:
    """Of a decoder's config; None where it names none."""
    found = (getattr(config, name, None) for name in _PER_TOKEN)
    return next((count for count in found if isinstance(count, int) and count > 0), None)


def working_weights(layer: nn.Module, per_token: int | None) -> int:
    """Numbers in the matrices of a decoder layer that one token is multiplied with.

    Args:
        per_token: how many experts run a token; None: all of them. Experts are one tensor [experts, .., ..], or a list
            of modules called `experts`; those that run every token (shared ones) have other names.
    """
    named = {name: p for name, p in layer.named_parameters() if p.dim() in (2, 3) and not name.endswith("bias")}
    experts: dict[str, set[str]] = {}
    for name in named:
        if found := _EXPERT.match(name):
            experts.setdefault(found[1], set()).add(found[2])
    total = 0
    for name, p in named.items():
        found = _EXPERT.match(name)
        if found or (p.dim() == 3 and re.search(r"\bexperts\.", name)):
            count = len(experts[found[1]]) if found else p.shape[0]
            total += p.numel() * min(per_token or count, count) // count
        elif p.dim() == 2:
            total += p.numel()
    return total
