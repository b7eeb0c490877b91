"""Effective pathways as dense masks, edge by edge, from the words of `avflow.pathways`' docstring."""

from __future__ import annotations

import functools

import torch


def _names(side, group):
    alias = {"question": ("question_text", "option_correct", "option_incorrect")}
    alias["options"] = alias["question"][1:]
    return any(group in alias.get(part, (part,)) for part in side.split("+"))


def _reads(keep, layer: int, target: tuple[str, int], source: tuple[str, int]) -> bool:
    """Whether a row (group, item) reads another token (group, item) before it."""
    if source[0] == target[0]:
        crossed = [path for path in keep if path.startswith("cross:") and path[6:] == source[0]]
        if not crossed or target[1] == source[1] or target[1] < 0 or source[1] < 0:
            return True
        return any(keep[path] is None or layer in keep[path] for path in crossed)
    if source[0] in ("system", "template"):
        return True
    if {source[0], target[0]} <= {"last", "answer"}:
        return True
    for path, layers in keep.items():
        if path.startswith("cross:") or (layers is not None and layer not in layers):
            continue
        a, b = path.split("->")
        reached = _names(b, target[0]) or (target[0] == "answer" and b == "last")
        if _names(a, source[0]) and reached:
            return True
    return False


def masks(prompt, keep, layers: int, heads: int) -> tuple[dict[int, torch.Tensor], float]:
    """layer -> bool [1, heads, N, N], what is cut; and the share of the causal edges that is left."""
    extra = len(prompt.answer_ids) - 1
    tokens = list(zip([*prompt.groups, *["answer"] * extra], [*prompt.items, *[-1] * extra], strict=True))
    n, out, kept = len(tokens), {}, 0
    for layer in range(layers):
        reads = functools.cache(functools.partial(_reads, keep, layer))
        rows = [[j < i and not reads(tokens[i], tokens[j]) for j in range(n)] for i in range(n)]
        cut = torch.tensor(rows)
        kept += n * (n + 1) // 2 - int(cut.sum())
        out[layer] = cut.expand(1, heads, n, n)
    return out, kept / (layers * n * (n + 1) / 2)
