"""How fast this machine multiplies and attends at a model's sizes: what `--dry-run` turns operations into time by."""

from __future__ import annotations

import time

import torch

from avflow_ext import AttentionProblem, Tokens, attention

from ..models.base import Model

MOST_ROWS = {"cpu": 1024, "cuda": 16384}  # of the trial: some seconds on the CPU with the largest model
TURNS = 3  # the best counts


@torch.no_grad()
def measured_rate(model: Model, tokens: int) -> float:
    """Operations a second of one decoder layer: its matrices (no experts) and causal attention, on random rows.

    No layer is run. What stands between the products (norms, activations, packing, reading media) is left out, so time
    by this rate is a lower end.

    Args:
        tokens: of a prompt; the trial takes as many rows, within MOST_ROWS.
    """
    rows = max(64, min(tokens, MOST_ROWS.get(model.device.type, 1024)))
    device, dtype = model.device, model.dtype
    weights = [p for p in model.layers[0].parameters() if p.dim() == 2 and p.is_floating_point()]
    inputs = {width: torch.randn(rows, width, device=device, dtype=dtype) for width in {w.shape[1] for w in weights}}
    q, k, v = (
        torch.randn(rows, heads, model.head_dim, device=device, dtype=dtype)
        for heads in (model.n_heads, model.n_kv_heads, model.n_kv_heads)
    )
    problem = AttentionProblem(Tokens(torch.arange(rows), torch.zeros(rows, dtype=torch.int32)))

    def trial() -> float:
        begun = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight.to(dtype))
        attention(q, k, v, problem)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    trial()  # plans, allocations
    seconds = min(trial() for _ in range(TURNS))
    products = 2 * rows * sum(weight.numel() for weight in weights)
    return (products + 2 * model.n_heads * model.head_dim * rows * (rows + 1)) / seconds
