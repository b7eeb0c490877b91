"""The mean of a site's states over the tokens of many prompts, layer by layer: what mean ablation puts there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError
from ..models.base import Model
from ..prompts.label_hook import Labels
from ..walk.capture import Captured, capture
from ..walk.edits import Part
from ..walk.layout import build_layout
from ..walk.walk import run_walk
from .patch_sites import PatchSite


class _Sums:
    """Adds up the states of every site, in every layer; an `Edits` that changes nothing."""

    def __init__(self, model: Model, sites: Sequence[PatchSite]) -> None:
        self.parts: frozenset[Part] = frozenset(site.part for site in sites)
        self.model, self.sites = model, sites
        self.sums: dict[tuple[str, int], torch.Tensor] = {}  # by site and layer, float64 [D] or [heads, d]
        self.counts: dict[tuple[str, int], int] = {}
        self.rows: dict[str, torch.Tensor] = {}  # of the prompt at hand, int64
        self.predicting: dict[str, torch.Tensor] = {}  # those of them that the last layer is asked for
        self.all_rows = False  # whether that is more than the tokens that predict

    def begin(self, captured: Captured) -> None:
        self.all_rows = False
        for site in self.sites:
            orders = site.orders(self.model, captured.columns)
            ends = orders[orders >= captured.columns.n_prompt - 1]
            predicts = {"last", "answer"} & set(self.model.groups.members(site.group))
            if predicts and len(ends) < len(orders):  # the mean is put in the place of tokens that predict: all count
                ends, self.all_rows = orders, True
            self.rows[site.name], self.predicting[site.name] = (
                torch.from_numpy(part).to(self.model.device) for part in (orders, ends)
            )

    def apply(self, part: Part, layer: int, states: torch.Tensor) -> None:
        for site in self.sites:
            if site.part != part:
                continue
            rows = (self.predicting if layer == self.model.n_layers - 1 else self.rows)[site.name]
            total = states.index_select(0, rows).double().sum(0)
            key = site.name, layer
            self.sums[key] = self.sums[key] + total if key in self.sums else total
            self.counts[key] = self.counts.get(key, 0) + len(rows)


def site_means(
    model: Model, prompts: PromptSource, sites: Sequence[PatchSite], labels: Labels | None = None
) -> dict[str, torch.Tensor]:
    """By site, float32 [layers, D], of attention [layers, heads, d]; one plain run a prompt.

    In the last layer of a site without a token that predicts, where it can change nothing, it is 0.

    Raises:
        InputError: no prompt has a token of a site.
    """
    sums = _Sums(model, sites)
    for prompt in as_prompts(model, prompts, labels=labels):
        captured = capture(model, prompt)
        sums.begin(captured)
        rows = np.arange(0 if sums.all_rows else captured.columns.n_prompt - 1, len(captured))
        layout = build_layout([len(captured)], [], model.n_layers)
        targets = np.zeros(len(rows), np.int64)  # what they predict is not asked for
        run_walk(model, [captured], layout, (), rows, targets, "renormalize", edits=sums)
    for site in sites:
        if not any(count for (name, _), count in sums.counts.items() if name == site.name):
            raise InputError(f"no prompt of the mean has a token of {site.name!r}: give prompts that have")
    return {
        site.name: torch.stack(
            [
                (sums.sums[site.name, layer] / max(sums.counts[site.name, layer], 1)).float()
                for layer in range(model.n_layers)
            ]
        )
        for site in sites
    }
