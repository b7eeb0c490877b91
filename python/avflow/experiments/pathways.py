"""Effective pathways: keep only the named edges, each in its own layers, and see whether the answer survives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avflow_ext import Cut, table_of

from .. import checks
from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError
from ..knockouts.amplification import refuse_amplified
from ..knockouts.knockout import Knockout
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..prompts.correct import answers_correctly
from ..prompts.groups import GroupTable
from ..prompts.relabel import warn_of_left
from ..results.results import Results
from ..results.schemas import PATHWAYS as SCHEMA
from ..walk.capture import Captured, capture
from .observe import observe, predicting_rows

__all__ = ["SCHEMA", "Keep", "count_edges", "pathways"]

Layers = Iterable[int] | None  # None: all
# One type for each kind of keys: a Mapping[str, ...] is no Mapping[str | Knockout, ...].
Keep = Mapping[str, Layers] | Mapping[Knockout, Layers] | Mapping[str | Knockout, Layers]


@dataclass(frozen=True)
class _Kept:
    """A path that stays open."""

    pairs: tuple[tuple[int, int], ...]  # 64-bit sets (source, target)
    across_items: bool  # of one group: its edges between items
    layers: frozenset[int]


def _kept(model: Model, keep: Keep) -> list[_Kept]:
    out = []
    refuse_amplified([path for path in keep if isinstance(path, Knockout)], "avflow.pathways")
    for path, layers in keep.items():
        path = Knockout.parse(path) if isinstance(path, str) else path
        if path.heads is not None or path.random_share is not None or path.cut_self:
            raise InputError(f"pathway {path.name!r}: heads, random shares and self edges cannot be kept apart")
        if path.has_items:
            raise InputError(f"pathway {path.name!r}: items cannot be kept apart; put them into a group of their own")
        across = path.scope == "other_items"
        if across and path.source != path.target:
            raise InputError(f'pathway {path.name!r}: write "cross:group", or a path without a scope')
        chosen = layers if layers is None else list(layers)
        some = frozenset() if chosen == [] else frozenset(layer_list(chosen, model.n_layers))
        pairs = tuple((model.groups.expand(a), model.groups.expand(b)) for a, b in path.edges)
        out.append(_Kept(pairs, across, some))
    if not out:
        raise InputError("keep is empty: name at least one path, such as {'video->question': range(8, 20)}")
    return out


class _Rules:
    """What is cut in each layer, for one model and one set of pathways."""

    def __init__(self, model: Model, keep: Keep, context: str) -> None:
        self.groups: GroupTable = model.groups
        self.kept = _kept(model, keep)
        paths = [Knockout.parse(path) if isinstance(path, str) else path for path in keep]
        self.sides = [side for path in paths for side in path.groups]
        self.context = self.groups.expand(context)
        # The answer's own tokens stand in for `last`: what may reach it may reach them, and they may see it.
        self.tail = self.groups.expand("last+answer")

    def cuts(self, layer: int, present: Iterable[int]) -> list[Cut]:
        """Every edge between two groups that no path keeps; of groups with a "cross" path, also those across items.

        Context groups may be read by all, and read only each other.
        """
        present = sorted(present)
        targets: dict[int, int] = {}  # set of rows -> set of keys that are hidden from them
        for source in present:
            hidden = 0
            for target in present:
                if source != target and not self._open(layer, source, target):
                    hidden |= 1 << target
            if hidden:
                targets[hidden] = targets.get(hidden, 0) | 1 << source
        cuts = [Cut(source=word, target=hidden) for hidden, word in targets.items()]
        for group in present:
            across = [p for p in self.kept if p.across_items and any(word >> group & 1 for word, _ in p.pairs)]
            if across and not any(layer in p.layers for p in across):
                cuts.append(Cut(1 << group, 1 << group, scope="other_items"))
        return cuts

    def _open(self, layer: int, source: int, target: int) -> bool:
        if self.context >> source & 1:
            return True
        if self.tail >> source & 1 and self.tail >> target & 1:
            return True
        reach = self.tail if self.tail >> target & 1 else 1 << target
        return any(
            pair[0] >> source & 1 and pair[1] & reach
            for path in self.kept
            if layer in path.layers and not path.across_items
            for pair in path.pairs
        )


def count_edges(cuts: Sequence[Cut], group: np.ndarray, item: np.ndarray) -> int:
    """Causal edges that disjoint cuts take out, self edges excepted; from counts, never token by token pair."""
    total = 0
    for cut in cuts:
        source, target = (table_of(word)[group] for word in (cut.source, cut.target))
        if cut.scope == "other_items":
            source, target = source & (item >= 0), target & (item >= 0)
        total += int((np.cumsum(source) - source)[target].sum())
        if cut.scope == "other_items":
            for one in np.unique(item[source]):
                mine = source & (item == one)
                total -= int((np.cumsum(mine) - mine)[target & (item == one)].sum())
    return total


def pathways(
    model: Model,
    prompts: PromptSource,
    keep: Keep,
    random: int = 1,
    seed: int = 0,
    context: str = "system+template",
    check: str | int | None = None,
    labels: Any = None,
) -> Results:
    """Accuracy and answer probability with only the named edges left, against the full model and random edges.

    The method of Map the Flow (ICLR 2026), effective pathways: all edges between groups are cut but those of the
    pathways, each in its own layers. Edges within a group stay, unless it has a "cross:" path: then its edges between
    items stay in that path's layers only. One pass a prompt and run, O(tokens) memory.

    Args:
        prompts: as of `avflow.sweep`.
        keep: path -> layers (None for all), such as {"cross:video": range(0, 12), "video->question": range(8, 20),
            "question->last": range(16, 28)}. Paths into `last` count for the answer's own tokens too.
        random: so many controls, which cut as many edges in every layer (in expectation), chosen at random among all
            causal ones but self edges.
        seed: of the first control; the next ones count up.
        context: groups that all others may read, and that read only each other.
        check, labels: as of `avflow.sweep`.

    Returns:
        Results with a row per prompt and run ("full", "pathways", "random 0", ...): edges_kept (share of the causal
        edges of all layers, self edges included), correct (as the sweep defines it), p, logp (natural, of all answer
        tokens).

    Raises:
        InputError: a path of another form, layers or groups that the model does not have, no prompts.
        NumericError: NaN or infinity in a run.
    """
    check_model(model)
    random = checks.integer("random =", random, high=10_000, mend="pass a number of control runs, 0 for none")
    seed = checks.integer("seed =", seed, high=2**31 - 1)
    if not isinstance(keep, Mapping):
        raise InputError(f"keep = {checks.shown(keep)}: pass {{path: layers or None}}")
    for path, chosen in keep.items():
        if not isinstance(path, (str, Knockout)) or not isinstance(chosen, (Iterable, type(None))):
            raise InputError(f"keep = {checks.shown(keep)}: pass {{path: layers or None}}")
    # Once: layers may be an iterator.
    paths = {path: layers if layers is None else list(layers) for path, layers in keep.items()}
    given = as_prompts(model, prompts, labels=labels)
    rules = _Rules(model, paths, context)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in given:
            warn_of_left(prompt, rules.sides, model.groups, model.warned)
            captured = capture(model, prompt)
            group, item = captured.columns.group, captured.columns.item
            present = set(group.tolist())
            n, layers = len(captured), range(model.n_layers)
            cuts = [rules.cuts(layer, present) for layer in layers]
            gone = [count_edges(one, group, item) for one in cuts]
            edges = n * (n + 1) // 2  # causal ones of a layer, self edges included
            runs: dict[str, list[list[Cut]]] = {"full": [[] for _ in layers], "pathways": cuts}
            for i in range(random):
                everything, shares = model.groups.expand("all"), [g / max(edges - n, 1) for g in gone]
                runs[f"random {i}"] = [
                    [Cut(everything, everything, random_share=s, seed=(seed + i) * 4096 + layer)] if s else []
                    for layer, s in enumerate(shares)
                ]
            share = 1 - sum(gone) / (edges * model.n_layers)
            for name, per_layer in runs.items():
                logp, correct = _answer(model, captured, per_layer)
                kept = 1.0 if name == "full" else share
                rows.append((prompt.id, prompt.task, name, kept, correct, math.exp(logp), logp))
    named = {path if isinstance(path, str) else path.name: layers for path, layers in paths.items()}
    return Results.from_tuples(
        "pathways", rows, keep=named, random=random, seed=seed, context=context, check=figures(model)
    )


@torch.no_grad()
def _answer(model: Model, captured: Captured, cuts: Sequence[Sequence[Cut]]) -> tuple[float, bool]:
    """Log-probability of the answer under these cuts, and whether it is the model's own."""
    prompt, found = captured.prompt, {}
    rows = predicting_rows(captured)

    def see(layer: int, hidden: torch.Tensor) -> None:
        # Here, where the model is in eval mode: [answer tokens, vocab]
        found["logits"] = model.logits(hidden[rows.to(hidden.device)][None])[0].float().cpu()

    observe(model, captured, on_hidden=see, layers=[model.n_layers - 1], cuts=lambda layer: cuts[layer])
    logits = found["logits"]
    ids = torch.tensor(list(prompt.answer_ids))
    logp = float(torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids].sum())
    return logp, answers_correctly(prompt, logits)
