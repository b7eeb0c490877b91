"""What a schedule's boundaries cost in vLLM, which gives all of its KV cache groups equally many layers.

Arithmetic alone: `avflow plan --for vllm` chooses by it where no vLLM is installed; the plug-in warns by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

KEPT = 0.1  # share of a prompt's tokens that stays, where nothing better is known
LOST = 0.05  # of the plain KV memory: what padding may take before it is worth a word
NEAR, CLOSE = 3, 0.02  # how far boundaries are moved; how near to the ideal is good


def segments(layers: int, boundaries: Sequence[int]) -> list[int]:
    """How many layers each segment has; the first none where tokens leave before layer 0."""
    ends = [-1, *boundaries, layers - 1]
    return [end - start for start, end in zip(ends, ends[1:], strict=False)]


def group_size(parts: Sequence[int]) -> int:
    """Layers in every KV cache group, for segments of so many layers (vLLM 0.32, kv_cache_utils)."""
    small, large = min(part for part in parts if part), max(parts)
    return large if large < small * 1.5 else small


def count(layers: int, boundaries: Sequence[int]) -> int:
    """How many KV cache groups vLLM makes."""
    parts = segments(layers, boundaries)
    size = group_size(parts)
    return sum(-(-part // size) for part in parts)


def memory(layers: int, boundaries: Sequence[int], kept: float = KEPT) -> tuple[float, float]:
    """KV memory of a long prompt as a share of plain: as vLLM groups the layers, and were there no padding.

    Args:
        kept: share of the prompt's tokens that is there after the first boundary (after further ones it is taken for
            the same).
    """
    parts = segments(layers, boundaries)
    size = group_size(parts)
    shares = [1.0] + [kept] * (len(parts) - 1)
    padded = sum(-(-part // size) * size * share for part, share in zip(parts, shares, strict=True))
    return padded / layers, sum(part * share for part, share in zip(parts, shares, strict=True)) / layers


def nearest(layers: int, boundaries: Sequence[int], kept: float = KEPT) -> list[tuple[int, ...]]:
    """Boundaries near these that save what they should, the nearest first; at most three."""
    good = [b for b in _near(layers, boundaries) if memory(layers, b, kept)[0] - memory(layers, b, kept)[1] <= CLOSE]
    far = {b: sum(abs(x - y) for x, y in zip(b, boundaries, strict=True)) for b in good}
    return sorted(good, key=lambda b: (far[b], b))[:3]


def _near(layers: int, boundaries: Sequence[int]) -> Iterator[tuple[int, ...]]:
    moves = range(-NEAR, NEAR + 1) if len(boundaries) <= 3 else range(-1, 2)
    for shift in product(moves, repeat=len(boundaries)):
        moved = tuple(b + s for b, s in zip(boundaries, shift, strict=True))
        if 0 <= moved[0] and moved[-1] <= layers - 2 and list(moved) == sorted(set(moved)):
            yield moved


def saves(layers: int, boundaries: Sequence[int]) -> bool:
    """Whether the boundaries save about as much KV memory as without padding."""
    if not boundaries:
        return True
    real, ideal = memory(layers, boundaries)
    return real - ideal <= LOST


def warning(layers: int, boundaries: Sequence[int]) -> str | None:
    """A sentence where the boundaries save clearly less than they could; else None."""
    if saves(layers, boundaries):
        return None
    real, ideal = memory(layers, boundaries)
    others = "; ".join(f"{', '.join(map(str, b))} ({memory(layers, b)[0]:.0%})" for b in nearest(layers, boundaries))
    return (
        "vLLM gives all KV cache groups equally many layers: with tokens leaving after "
        f"{', '.join(map(str, boundaries))} of {layers} layers, a long prompt of which {KEPT:.0%} stay takes "
        f"{real:.0%} of the plain KV memory, where it should take {ideal:.0%}. Rows are saved all the same. Boundaries "
        f"near these that do better: {others or 'none'}"
    )
