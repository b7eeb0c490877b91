"""Attention maps of whole prompts, pooled over stretches of tokens as they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from avflow_ext import AttentionProblem

from ..checks import integer, members, shown
from ..data.prepare import PromptSource, as_prompt
from ..errors import InputError
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..results.results import Results
from ..walk.capture import Captured, capture
from .observe import group_mass, observe, tokens_of

if TYPE_CHECKING:
    import pandas as pd

BINS_A_PASS = 63  # the op tells 64 groups apart; one of them stands for all keys of other passes


@dataclass(frozen=True)
class AttentionMap:
    """Pooled attention of one prompt.

    layers: the layers, 0-based. starts: int [bins + 1], where each stretch of tokens begins, and the end.
    groups: the group that most tokens of each stretch belong to. weight: float32 [layers, bins, bins]: the attention
    that a row of stretch i pays to all keys of stretch j together, mean over rows and heads; every line adds up to 1.
    """

    prompt: str
    layers: list[int]
    starts: np.ndarray
    groups: list[str]
    weight: np.ndarray
    check: dict[str, Any] | None = None

    def results(self) -> Results:
        """As rows: one per layer, stretch of rows and stretch of keys; columns as results.schemas.ATTENTION_MAP."""
        begins, count = self.starts.tolist(), len(self.groups)
        rows = [
            (self.prompt, layer, begins[i], self.groups[i], begins[j], self.groups[j], self.weight[at, i, j].item())
            for at, layer in enumerate(self.layers)
            for i in range(count)
            for j in range(count)
        ]
        return Results.from_tuples("attention_map", rows, layers=self.layers, starts=begins, check=self.check)

    @property
    def table(self) -> pa.Table:
        """`results()` as a pyarrow.Table."""
        return self.results().table

    def to_pandas(self) -> pd.DataFrame:
        """`results()` as a pandas.DataFrame. Raises ImportError where pandas is not installed."""
        return self.results().to_pandas()

    def save(self, folder: str | Path) -> Path:
        """Write `folder`/rows.parquet, which avflow.read(folder) reads as Results; returns its path."""
        return self.results().save(folder)


def attention_map(
    model: Model,
    prompt: PromptSource,
    layers: int | Sequence[int] | None = None,
    bins: int = 128,
    boundaries: Sequence[int] | None = None,
    check: str | int | None = None,
    labels: Any = None,
) -> AttentionMap:
    """The attention matrix of chosen layers, pooled to bins x bins; memory O(tokens), never tokens x tokens.

    Pooling is exact: weights are summed over a stretch's keys inside the op (its group masses), and averaged over its
    rows. One more pass of the op for every 63 bins.

    Args:
        prompt: a Prompt, a Sample, or what holds exactly one: a list, an iterator, a samples file.
        layers: 0-based; None for all.
        bins: stretches of about equal length; fewer where there are fewer tokens.
        boundaries: where stretches begin instead, increasing token numbers (the first is 0), such as frame starts.
        check, labels: as of `avflow.sweep`.

    Raises:
        InputError: no prompt or several, layers that the model does not have, boundaries that do not increase or
            leave the prompt.
    """
    check_model(model)
    chosen = layer_list(layers, model.n_layers)
    with checking(model, check):
        captured = capture(model, as_prompt(model, prompt, labels=labels))
        return _pooled(model, captured, chosen, _starts(len(captured), bins, boundaries))


def _pooled(model: Model, captured: Captured, chosen: list[int], starts: np.ndarray) -> AttentionMap:
    count = len(starts) - 1
    bin_of = np.repeat(np.arange(count), np.diff(starts))  # [n]
    problems = []
    for first in range(0, count, BINS_A_PASS):
        here = bin_of - first
        group = np.where((here >= 0) & (here < BINS_A_PASS), here, BINS_A_PASS).astype(np.int32)
        problems.append(AttentionProblem(rows=tokens_of(captured, torch.from_numpy(group)), groups=BINS_A_PASS + 1))
    weight = np.zeros((len(chosen), count, count), np.float32)
    rows_of = torch.from_numpy(bin_of)

    def see(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> None:
        for part, problem in enumerate(problems):
            mass = group_mass(q, k, v, problem, scale)  # [n, heads, 64]
            pooled = torch.zeros(count, BINS_A_PASS + 1, device=mass.device)
            pooled.index_add_(0, rows_of.to(mass.device), mass.mean(1))
            first = part * BINS_A_PASS
            stop = min(first + BINS_A_PASS, count)
            weight[chosen.index(layer), :, first:stop] = pooled[:, : stop - first].cpu().numpy()

    observe(model, captured, on_attention=see, layers=chosen)
    weight /= np.diff(starts)[None, :, None]
    names = model.groups.names
    groups = [
        names[np.bincount(captured.columns.group[a:b]).argmax()] for a, b in zip(starts, starts[1:], strict=False)
    ]
    return AttentionMap(captured.prompt.id, chosen, starts, groups, weight, figures(model))


def _starts(n: int, bins: int, boundaries: Sequence[int] | None) -> np.ndarray:
    if boundaries is not None:
        mend = f"pass increasing token numbers from 0 to below {n}"
        given = members(boundaries, n)  # no more can increase
        if given is None:
            raise InputError(f"boundaries = {shown(boundaries)}: {mend}")
        starts = np.array([*(integer("a boundary", one, mend=mend) for one in given), n])
        if starts[0] != 0 or (np.diff(starts) <= 0).any():
            raise InputError(f"boundaries = {shown(given)}: {mend}")
        return starts
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"bins = {bins!r}: pass a number of stretches, 1 or more")
    return np.linspace(0, n, min(bins, n) + 1).round().astype(int)
