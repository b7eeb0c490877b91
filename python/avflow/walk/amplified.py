"""Attention in which some edges weigh more than the others, exactly, from two runs of the op that knows only cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from avflow_ext import AttentionOutput, AttentionProblem

from ..knockouts.amplification import Amplification
from ..knockouts.knockout import Knockout, Semantics
from ..uploads import upload


@dataclass(frozen=True, eq=False)
class Loud:
    """What a layer's amplification needs beside its problem.

    Attributes:
        problem: the same without the cuts of amplified edges. factors: float32 [rows, 1, 1], 0 where a row has none.
    """

    problem: AttentionProblem
    factors: torch.Tensor


def factors_of(
    active: Mapping[int, tuple[int, ...]], knockouts: Sequence[Knockout], stream: np.ndarray, device: torch.device
) -> torch.Tensor | None:
    """The factor of every row, float32 [rows, 1, 1], from the streams in which knockouts are in force; None: all 0.

    stream: int32 [rows].
    """
    by_stream = np.zeros(int(stream.max()) + 1, np.float32)
    for number, streams in active.items():
        one = knockouts[number]
        if isinstance(one, Amplification):
            by_stream[[s for s in streams if s < len(by_stream)]] = one.factor
    return upload(torch.from_numpy(by_stream[stream])[:, None, None], device) if by_stream.any() else None


def combined(
    kept: AttentionOutput, whole: AttentionOutput, factors: torch.Tensor, semantics: Semantics
) -> torch.Tensor:
    """[rows, heads, d] with the cut edges' exp(score) times the factor; rows of factor 0 as `kept` has them.

    With Z the sum of exp(score) and r = Z(kept) / Z(whole), the cut edges' part of the sums is whole - r kept, in units
    of Z(whole): so out = ((1 - f) r kept + f whole) / ((1 - f) r + f), whose denominator is 1 at least for f of 1 and
    more. In "zero" semantics nothing is renormalised, and r and the denominator are 1.

    Args:
        kept: of the op with these edges cut; whole: without. Both with lse, but for "zero".
    """
    f = factors
    share: torch.Tensor | float = 1.0
    if semantics == "renormalize":
        assert kept.lse is not None and whole.lse is not None
        share = (kept.lse - whole.lse).exp()[..., None]  # [rows, heads, 1]; 0 where every edge is cut
    mixed = (1 - f) * share * kept.out.float() + f * whole.out.float()
    if semantics == "renormalize":
        mixed = mixed / torch.where(f > 0, (1 - f) * share + f, 1.0)
    return torch.where(f > 0, mixed, kept.out.float()).to(kept.out.dtype)
