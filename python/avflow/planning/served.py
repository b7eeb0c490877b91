"""Schedules for vLLM: boundaries that would save little there move to the nearest later ones that do not."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from ..eviction.vllm_groups import saves

RUNTIMES = ("avflow", "vllm")


def settle(chosen: dict[str, int], candidates: Sequence[int], layers: int) -> dict[str, int]:
    """The schedule, or the nearest later one whose boundaries save in vLLM what they should.

    Layers before a group's own were found to do harm, so groups move later alone; past the last candidate they stay.

    Args:
        chosen: {group: layer after which it leaves}, of the candidates. candidates: ascending. layers: of the model.
    """
    places = {layer: at for at, layer in enumerate(candidates)}
    end = len(candidates)  # where a group stands that stays
    first = tuple(sorted({places[layer] for layer in chosen.values()}))  # groups that leave together move together
    queue, seen = [(0, first)], {first}
    while True:  # ends: that all stay saves what it should, which is nothing
        moved, at = heapq.heappop(queue)
        if saves(layers, sorted({candidates[place] for place in at if place < end})):
            moves = dict(zip(first, at, strict=True))
            now = {name: moves[places[layer]] for name, layer in chosen.items()}
            return {name: candidates[place] for name, place in now.items() if place < end}
        for i, place in enumerate(at):
            later = (*at[:i], place + 1, *at[i + 1 :])
            if place < end and later not in seen:
                seen.add(later)
                heapq.heappush(queue, (moved + 1, later))


def settled(rungs: Iterable[dict[str, int]], candidates: Sequence[int], layers: int) -> list[dict[str, int]]:
    """`settle` of every one, in their order; those that come out alike once."""
    out: list[dict[str, int]] = []
    for rung in rungs:
        found = settle(rung, candidates, layers)
        if found not in out:
            out.append(found)
    return out
