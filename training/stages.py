"""The stages of training: when each begins, its learning rates, its optimizer."""

from __future__ import annotations

import torch

STAGES = ("towers", "shallow", "whole", "interleaved")


def starts(config: dict) -> dict[str, int]:
    """Step at which each stage begins, and under "end" the number of all steps."""
    out, at = {}, 0
    for name in STAGES:
        out[name] = at
        at += config["stages"][name]
    return out | {"end": at}


def stage_of(config: dict, step: int) -> str:
    begins = starts(config)
    return [name for name in STAGES if step >= begins[name]][-1]


def rates(config: dict, step: int) -> tuple[float, float]:
    """Learning rates of towers and decoder at this step."""
    stages, o, stage = config["stages"], config["optimizer"], stage_of(config, step)
    at = step - starts(config)[stage]
    warm = min(1.0, (at + 1) / o["warmup"])
    if stage == "towers":
        return o["towers_rate"] * warm, 0.0
    if stage == "shallow":
        left = min(1.0, (stages["shallow"] - at) / stages["shallow_fall"])
        rate = warm * (o["whole_rate"] + left * (o["shallow_rate"] - o["whole_rate"]))
    else:
        fall = stages["fall" if stage == "whole" else "interleaved_fall"]
        rate = warm * o["whole_rate"] * min(1.0, (stages[stage] - at) / fall)
    return rate, rate


def make_optimizer(packed, config: dict) -> torch.optim.Optimizer:
    groups: dict[tuple[bool, bool], list] = {}
    for name, p in packed.named_parameters():
        if not p.requires_grad:
            continue
        tower = any(part in name for part in (*packed.family.towers, "eyes", "ears", "windows"))
        groups.setdefault((tower, p.ndim >= 2 and "embed" not in name), []).append(p)
    o = config["optimizer"]
    sets = [
        {"params": ps, "tower": tower, "weight_decay": o["weight_decay"] if decay else 0.0}
        for (tower, decay), ps in groups.items()
    ]
    return torch.optim.AdamW(sets, lr=0.0, betas=tuple(o["betas"]), fused=True)
