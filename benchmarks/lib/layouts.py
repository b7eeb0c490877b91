"""Layouts of tokens that the attention benchmarks run on, and the attention problems made of them."""

from __future__ import annotations

import torch

from avflow_ext import AttentionProblem, Cut, Streams, Tokens
from avflow_ext.reference import cut_mask, visible

SYSTEM, VIDEO, AUDIO, QUESTION, LAST = range(5)  # groups
VIDEO_TO_QUESTION = Cut(1 << VIDEO, 1 << QUESTION)
OTHER_FRAMES = Cut(1 << VIDEO, 1 << VIDEO, scope="other_items")


def av_tokens(n: int, question: int = 48) -> Tokens:
    """An interleaved clip: 2-second chunks of 144 video and 50 audio tokens, then the question; item = chunk."""
    media = n - question - 1 - 16
    chunk = torch.arange(media) // 194
    is_video = torch.arange(media) % 194 < 144
    group = torch.cat(
        [
            torch.full((16,), SYSTEM),
            torch.where(is_video, VIDEO, AUDIO),
            torch.full((question,), QUESTION),
            torch.tensor([LAST]),
        ]
    )  # [n]
    item = torch.cat([torch.full((16,), -1), chunk, torch.full((question + 1,), -1)])  # [n]
    return Tokens(torch.arange(n), group, item)


def frames(n: int, length: int = 256) -> Tokens:
    """A video alone, `length` tokens to a frame; item = frame."""
    return Tokens(torch.arange(n), torch.full((n,), VIDEO), torch.arange(n) // length)


def packed_streams(tokens: Tokens, count: int, length: int = 49) -> AttentionProblem:
    """What a sweep packs: the tokens and `count` streams of their last `length` rows, every other one with a cut."""
    n = len(tokens)
    start = n - length
    order = torch.cat([torch.arange(n), torch.arange(start, n).repeat(count)])  # [n + count * length]
    stream = torch.cat([torch.zeros(n), 1 + torch.arange(count).repeat_interleave(length)]).int()
    return AttentionProblem(
        Tokens(order, tokens.group[order], None, stream),
        streams=Streams([-1] + [0] * count, [0] + [start] * count),
        cuts=[Cut(1 << AUDIO, 1 << QUESTION, tuple(range(1, count + 1, 2)))],
    )


def prompts_together(lengths: list[int]) -> AttentionProblem:
    """Prompts of these lengths in one call, each blind to the others."""
    order = torch.cat([torch.arange(n) for n in lengths])
    stream = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    tokens = Tokens(order, torch.zeros_like(order), None, stream)
    return AttentionProblem(tokens, streams=Streams.roots(len(lengths)))


def one_row(keys: int) -> AttentionProblem:
    """One decoded token over `keys` keys of a video."""
    video = Tokens(torch.arange(keys), torch.full((keys,), VIDEO))
    return AttentionProblem(Tokens([keys - 1], [LAST]), video, groups=LAST + 1)


def open_edges(problem: AttentionProblem) -> torch.Tensor:
    """bool [rows, keys]: what the first head may see."""
    return visible(problem) & ~cut_mask(problem, 1)[0]


def dense_mask(tokens: Tokens, source: int, target: int, device: str = "cpu") -> torch.Tensor:
    """bool [1, 1, n, n], made on the device: causal, without the edges source -> target."""
    group, n = tokens.group.to(device), len(tokens)
    open_ = torch.ones(n, n, dtype=torch.bool, device=device).tril_()
    return (open_ & ~((group == target)[:, None] & (group == source)[None, :]))[None, None]
