"""Windows, and blocks that see both ways, put upon a problem: small ones, large ones, ends at the edges of tiles."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from op_cases import cache_problems, problems

from avflow_ext import AttentionProblem, Tokens

WINDOWS = [1, 2, 5, 63, 64, 65, 100, 5000]


def block_column(draw, order: torch.Tensor) -> torch.Tensor | None:
    """A block for tokens of these orders: stretches that end anywhere or with a tile, one of many stretches, a prefix.

    Tokens of one order in several streams are of one block, as a stream's are that leaves its parent within one.
    """
    length = draw(st.sampled_from([0, 1, 9, 63, 64, 65, 128, 200]))
    if length == 0:
        return None
    stretch = (order + draw(st.integers(0, 70))) // length
    inside = (stretch % 3 != draw(st.integers(0, 2))) & (order >= 0)
    one = draw(st.booleans())  # all stretches are one block
    return torch.where(inside, torch.zeros_like(stretch) if one else stretch, -1)


def with_block(tokens: Tokens, block: torch.Tensor | None) -> Tokens:
    return Tokens(tokens.order, tokens.group, tokens.item, tokens.stream, block)


def ruled(draw, problem: AttentionProblem) -> AttentionProblem:
    """The problem, its keep lists applied, with a window, or blocks, or both."""
    offset = draw(st.integers(0, 2**16))
    rows, keys = problem.rows, problem.keys
    both = torch.cat([rows.order, keys.order])
    block = block_column(draw, both + offset % 7)
    row_block, key_block = (None, None) if block is None else (block[: len(rows)], block[len(rows) :])
    return AttentionProblem(
        with_block(rows, row_block),
        with_block(keys, key_block),
        problem.streams,
        problem.cuts,
        groups=problem.groups,
        latest_order=problem.latest_order,
        window=draw(st.none() | st.sampled_from(WINDOWS)),
        blocks=draw(st.sampled_from(["whole", "windowed", "off"])),
    )


@st.composite
def ruled_problems(draw, **size):
    """`op_cases.problems`, their keep lists applied, under a window and blocks."""
    return ruled(draw, draw(problems(**size)))


@st.composite
def ruled_caches(draw, **size):
    """(problem, row_order) of `op_cases.cache_problems`: its keys one after the other, under a window and blocks."""
    problem, _, _, order = draw(cache_problems(**size))
    return ruled(draw, problem), order
