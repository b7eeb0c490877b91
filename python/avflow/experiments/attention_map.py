"""Attention maps of whole prompts, pooled over stretches of tokens as they are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from avflow_ext import AttentionProblem, Cut, Tokens, mask_of

from ..checks import integer, shown
from ..checks import members as members_of
from ..data.prepare import PromptSource, as_prompt
from ..errors import InputError
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..models.windows import layer_windows
from ..results.results import Results
from ..walk.capture import Captured, capture
from ..walk.jobs import members
from .observe import group_mass, observe, tokens_of
from .under import Cutting, Knockouts, Layers

if TYPE_CHECKING:
    import pandas as pd

CLASSES = 64  # groups that the op tells apart; some of them stand for the keys of other passes


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
    knockouts: Knockouts = None,
    cut_layers: Layers = None,
    labels: Any = None,
) -> AttentionMap:
    """The attention matrix of chosen layers, pooled to bins x bins; memory O(tokens), never tokens x tokens.

    Pooling is exact: weights are summed over a stretch's keys inside the op (its group masses), and averaged over its
    rows. One more pass of the op for every 63 bins; under a knockout for every 15 or so.

    Args:
        prompt: a Prompt, a Sample, or what holds exactly one: a list, an iterator, a samples file.
        layers: 0-based; None for all.
        bins: stretches of about equal length; fewer where there are fewer tokens.
        boundaries: where stretches begin instead, increasing token numbers (the first is 0), such as frame starts.
        check, labels: as of `avflow.sweep`.
        knockouts, cut_layers: what is cut meanwhile, and in which layers (None for all): the maps are those of the
            knocked-out run. A line of a row that loses all its edges adds up to 0. Default: nothing.

    Raises:
        InputError: no prompt or several, layers that the model does not have, boundaries that do not increase or
            leave the prompt.
    """
    check_model(model)
    chosen = layer_list(layers, model.n_layers)
    cutting = Cutting(model, knockouts, cut_layers)
    with checking(model, check):
        captured = capture(model, as_prompt(model, prompt, labels=labels))
        return _pooled(model, captured, chosen, _starts(len(captured), bins, boundaries), cutting)


@dataclass(frozen=True)
class _Pass:
    """One more run of the op: the masses of some stretches' keys, and of all others together.

    bins: those of this pass. cuts: those of the knockout. bin_of_class: int [classes], which of the bins each of the
    tokens' groups belongs to, counted from the first; -1: to none.
    """

    bins: range
    tokens: Tokens
    cuts: tuple[Cut, ...]
    bin_of_class: list[int]
    problems: dict[Any, AttentionProblem] = field(default_factory=dict)

    def problem(self, cut: bool, window: int | None) -> AttentionProblem:
        """With the knockout or without, in layers of this window."""
        key = (cut and bool(self.cuts), window)
        if key not in self.problems:
            cuts = self.cuts if cut else ()
            self.problems[key] = AttentionProblem(
                rows=self.tokens, groups=len(self.bin_of_class), cuts=cuts, window=window
            )
        return self.problems[key]


def _passes(captured: Captured, bin_of: np.ndarray, cutting: Cutting) -> list[_Pass]:
    """Without a knockout a group of the op is a bin. With one it is a bin's tokens of one side: of those that a cut's
    source holds, its target, both, neither; for a cut is told to the op by groups."""
    words = [word for c in cutting.cuts for word in (c.source, c.target)]
    sides = sum((members(word, captured.columns.group).astype(np.int64) << n for n, word in enumerate(words)), start=0)
    _, side = np.unique(np.broadcast_to(sides, len(bin_of)), return_inverse=True)  # [n], from 0
    kinds = int(side.max()) + 1
    width = max(1, CLASSES // kinds - 1)
    passes = []
    for first in range(0, int(bin_of.max()) + 1, width):
        here = bin_of - first
        here = np.where((here >= 0) & (here < width), here, width)
        group = (here * kinds + side).astype(np.int32)
        rows = tokens_of(captured, torch.from_numpy(group))
        classes = [n // kinds if n // kinds < width else -1 for n in range((width + 1) * kinds)]
        cuts = []
        for c in cutting.cuts:
            source, target = (_classes(word, captured, group) for word in (c.source, c.target))
            cuts.append(dataclasses.replace(c, source=source, target=target))
        passes.append(_Pass(range(first, min(first + width, int(bin_of.max()) + 1)), rows, tuple(cuts), classes))
    return passes


def _classes(word: int, captured: Captured, group: np.ndarray) -> int:
    """A set of the prompt's groups as the set of classes that its tokens are in."""
    return mask_of(np.unique(group[members(word, captured.columns.group)]).tolist())


def _pooled(
    model: Model,
    captured: Captured,
    chosen: list[int],
    starts: np.ndarray,
    cutting: Cutting,
) -> AttentionMap:
    count = len(starts) - 1
    bin_of = np.repeat(np.arange(count), np.diff(starts))  # [n]
    passes = _passes(captured, bin_of, cutting)
    weight = np.zeros((len(chosen), count, count), np.float32)
    rows_of = torch.from_numpy(bin_of)
    windows = layer_windows(model.text_model)

    def see(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> None:
        for one in passes:
            problem = one.problem(layer in cutting.layers, windows[layer])
            mass = group_mass(q, k, v, problem, scale)  # [n, heads, classes]
            pooled = torch.zeros(count, mass.shape[-1], device=mass.device)
            pooled.index_add_(0, rows_of.to(mass.device), mass.mean(1))
            found = pooled.cpu().numpy()
            for number, place in enumerate(one.bin_of_class):
                if 0 <= place < len(one.bins):
                    weight[chosen.index(layer), :, one.bins[place]] += found[:, number]

    observe(model, captured, on_attention=see, layers=chosen, cuts=cutting)
    weight /= np.diff(starts)[None, :, None]
    names = model.groups.names
    groups = [
        names[np.bincount(captured.columns.group[a:b]).argmax()] for a, b in zip(starts, starts[1:], strict=False)
    ]
    return AttentionMap(captured.prompt.id, chosen, starts, groups, weight, figures(model))


def _starts(n: int, bins: int, boundaries: Sequence[int] | None) -> np.ndarray:
    if boundaries is not None:
        mend = f"pass increasing token numbers from 0 to below {n}"
        given = members_of(boundaries, n)  # no more can increase
        if given is None:
            raise InputError(f"boundaries = {shown(boundaries)}: {mend}")
        starts = np.array([*(integer("a boundary", one, mend=mend) for one in given), n])
        if starts[0] != 0 or (np.diff(starts) <= 0).any():
            raise InputError(f"boundaries = {shown(given)}: {mend}")
        return starts
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"bins = {bins!r}: pass a number of stretches, 1 or more")
    return np.linspace(0, n, min(bins, n) + 1).round().astype(int)
