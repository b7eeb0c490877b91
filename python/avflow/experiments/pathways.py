"""Effective pathways: keep only the named edges, each in its own layers, and see whether the answer survives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avflow_ext import Cut, mask_of, table_of

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
from ..prompts.prompt import Prompt
from ..prompts.relabel import warn_of_left
from ..results.results import Results
from ..results.schemas import PATHWAYS as SCHEMA
from ..walk.capture import Captured, capture
from .observe import observe, predicting_rows

__all__ = ["SCHEMA", "Keep", "count_edges", "pathways"]

Layers = Iterable[int] | None  # None: all
# One type for each kind of keys: a Mapping[str, ...] is no Mapping[str | Knockout, ...].
Keep = Mapping[str, Layers] | Mapping[Knockout, Layers] | Mapping[str | Knockout, Layers]
Within = Mapping[str, Layers]

# Map the Flow's rule: its published code cuts video -> video after layer 20 and question -> question after 25 (counted
# from 1), and last -> last everywhere, which is the last token's edge to itself; it counts, and draws for its control,
# edges from the first video token on.
MAP_THE_FLOW: dict[str, Any] = {
    "within": {"video": range(20), "question": range(25), "last": ()},
    "counted_from": "video",
}
RULES: dict[str, dict[str, Any]] = {"avflow": {}, "map_the_flow": MAP_THE_FLOW}


@dataclass(frozen=True)
class _Kept:
    """A path that stays open."""

    pairs: tuple[tuple[int, int], ...]  # 64-bit sets (source, target)
    across_items: bool  # of one group: its edges between items
    layers: frozenset[int]


def _kept(model: Model, paths: Sequence[tuple[Knockout, Layers]]) -> list[_Kept]:
    out = []
    refuse_amplified([path for path, _ in paths], "avflow.pathways")
    for path, layers in paths:
        if path.heads is not None or path.random_share is not None or path.cut_self:
            raise InputError(f"pathway {path.name!r}: heads, random shares and self edges cannot be kept apart")
        if path.has_items:
            raise InputError(f"pathway {path.name!r}: items cannot be kept apart; put them into a group of their own")
        across = path.scope == "other_items"
        if across and path.source != path.target:
            raise InputError(f'pathway {path.name!r}: write "cross:group", or a path without a scope')
        pairs = tuple((model.groups.expand(a), model.groups.expand(b)) for a, b in path.edges)
        out.append(_Kept(pairs, across, _layers(model, layers)))
    if not out:
        raise InputError("keep is empty: name at least one path, such as {'video->question': range(8, 20)}")
    return out


def _within(model: Model, within: Within) -> dict[int, frozenset[int]]:
    """{64-bit set of groups: the layers in which edges among them stay}."""
    return {model.groups.expand(name): _layers(model, layers) for name, layers in within.items()}


def _layers(model: Model, given: Layers) -> frozenset[int]:
    """None: all; an empty list: none."""
    chosen = given if given is None else list(given)
    return frozenset() if chosen == [] else frozenset(layer_list(chosen, model.n_layers))


class _Rules:
    """What is cut in each layer, for one model and one set of pathways."""

    def __init__(self, model: Model, keep: Keep, context: str, within: Within) -> None:
        self.groups: GroupTable = model.groups
        paths = [(Knockout.parse(path) if isinstance(path, str) else path, layers) for path, layers in keep.items()]
        self.kept = _kept(model, paths)
        self.sides = [side for path, _ in paths for side in path.groups]
        self.within = _within(model, within)
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
            gone = self._gone_within(layer, group, group)
            if gone:
                cuts.append(Cut(1 << group, 1 << group, cut_self=gone == "self"))
            elif across and not any(layer in p.layers for p in across):
                cuts.append(Cut(1 << group, 1 << group, scope="other_items"))
        return cuts

    def _gone_within(self, layer: int, source: int, target: int) -> str:
        """Whether `within` cuts the edges between two groups of one of its sets: "" no, "edges", or "self": the last
        token's edge to itself too, which is all that there is of last -> last."""
        for word, layers in self.within.items():
            if word >> source & 1 and word >> target & 1 and layer not in layers:
                return "self" if source == target and self.tail >> source & 1 else "edges"
        return ""

    def _open(self, layer: int, source: int, target: int) -> bool:
        if self.context >> source & 1:
            return True
        together = [word for word in self.within if word >> source & 1 and word >> target & 1]
        if together:  # two groups of one set, such as the question's text and an option: its rule, whatever is kept
            return not self._gone_within(layer, source, target)
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
    """Causal edges that disjoint cuts take out, self edges where a cut says so; from counts, never pair by pair."""
    total = 0
    for cut in cuts:
        source, target = (table_of(word)[group] for word in (cut.source, cut.target))
        if cut.scope == "other_items":
            source, target = source & (item >= 0), target & (item >= 0)
        total += int((np.cumsum(source) - source)[target].sum())
        total += int((source & target).sum()) if cut.cut_self else 0
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
    rule: str = "avflow",
    within: Within | None = None,
    counted_from: str | None = None,
    labels: Any = None,
) -> Results:
    """Accuracy and answer probability with only the named edges left, against the full model and random edges.

    The method of Map the Flow (ICLR 2026), effective pathways: all edges between groups are cut but those of the
    pathways, each in its own layers. Edges within a group stay, unless it has a "cross:" path: then its edges between
    items stay in that path's layers only; or unless `within` or `rule` says otherwise. One pass a prompt and run,
    O(tokens) memory.

    Args:
        prompts: as of `avflow.sweep`.
        keep: path -> layers (None for all), such as {"cross:video": range(0, 12), "video->question": range(8, 20),
            "question->last": range(16, 28)}. Paths into `last` count for the answer's own tokens too.
        random: so many controls, which cut as many edges in every layer (in expectation), chosen at random among all
            causal ones but self edges.
        seed: of the first control; the next ones count up.
        context: groups that all others may read, and that read only each other.
        check, labels: as of `avflow.sweep`.
        rule: "avflow", or "map_the_flow", by which that study's shares of edges are counted: where they are not given,
            `within` is {"video": layers 0 to 19, "question": 0 to 24, "last": none}, `counted_from` "video".
        within: group or alias -> the layers in which its tokens' edges to each other stay (None for all, () for none);
            of an alias those between its groups too, whatever `keep` says of them. A token keeps its edge to itself,
            but `last`, whose only one it is, loses it.
        counted_from: a group: only edges among the tokens from its first one on are counted in edges_kept, and drawn
            by the controls. None: all.

    Returns:
        Results with a row per prompt and run ("full", "pathways", "random 0", ...): edges_kept (share of the causal
        edges of all layers, self edges included, from `counted_from` on), correct (as the sweep defines it), p, logp
        (natural, of all answer tokens).

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
    inner, counted_from = _ruled(model, rule, within, counted_from)
    rules = _Rules(model, paths, context, inner)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in given:
            warn_of_left(prompt, rules.sides, model.groups, model.warned)
            captured = capture(model, prompt)
            group, item = captured.columns.group, captured.columns.item
            present = set(group.tolist())
            layers = range(model.n_layers)
            begin = _begin(model, prompt, group, counted_from)
            n = len(captured) - begin  # tokens whose edges are counted
            cuts = [rules.cuts(layer, present) for layer in layers]
            gone = [count_edges(one, group[begin:], item[begin:]) for one in cuts]
            edges = n * (n + 1) // 2  # causal ones of a layer, self edges included
            counted = captured if begin == 0 else _apart(captured, begin, present)
            runs: dict[str, list[list[Cut]]] = {"full": [[] for _ in layers], "pathways": cuts}
            for i in range(random):
                everything = mask_of(sorted(set(counted.columns.group[begin:].tolist())))
                shares = [min(1.0, g / max(edges - n, 1)) for g in gone]
                runs[f"random {i}"] = [
                    [Cut(everything, everything, random_share=s, seed=(seed + i) * 4096 + layer)] if s else []
                    for layer, s in enumerate(shares)
                ]
            share = 1 - sum(gone) / (edges * model.n_layers)
            for name, per_layer in runs.items():
                logp, correct = _answer(model, counted if name.startswith("random") else captured, per_layer)
                kept = 1.0 if name == "full" else share
                rows.append((prompt.id, prompt.task, name, kept, correct, math.exp(logp), logp))
    named = {path if isinstance(path, str) else path.name: layers for path, layers in paths.items()}
    asked: dict[str, Any] = {"keep": named, "random": random, "seed": seed, "context": context}
    for name, value in (("rule", rule), ("within", inner), ("counted_from", counted_from)):
        if value and value != "avflow":
            asked[name] = value
    return Results.from_tuples("pathways", rows, **asked, check=figures(model))


def _ruled(
    model: Model, rule: str, within: Within | None, counted_from: str | None
) -> tuple[dict[str, list[int] | None], str | None]:
    """`within` and `counted_from` as given, or the rule's, for this model's layers."""
    checks.choice("rule", rule, RULES)
    if within is not None and not isinstance(within, Mapping):
        raise InputError(f"within = {checks.shown(within)}: pass {{group: layers or None}}")
    if within is None and "within" in RULES[rule]:
        limit = range(model.n_layers)
        within = {name: [layer for layer in some if layer in limit] for name, some in RULES[rule]["within"].items()}
    inner = {name: None if some is None else list(some) for name, some in (within or {}).items()}
    counted_from = RULES[rule].get("counted_from") if counted_from is None else counted_from
    for name in (*inner, *([] if counted_from is None else [counted_from])):
        model.groups.expand(checks.text("a group of pathways", name))
    return inner, counted_from


def _begin(model: Model, prompt: Prompt, group: np.ndarray, counted_from: str | None) -> int:
    """The first token whose edges are counted."""
    if counted_from is None:
        return 0
    at = np.flatnonzero(table_of(model.groups.expand(counted_from))[group])
    if not len(at):
        raise InputError(f"prompt {prompt.id!r}: edges are counted from {counted_from!r} on, of which it has no token")
    return int(at[0])


def _apart(captured: Captured, begin: int, present: set[int]) -> Captured:
    """The same with the tokens before `begin` in a group that no other token has: no cut of the others' edges meets
    them."""
    free = next((g for g in range(63, -1, -1) if g not in present), None)
    if free is None:
        raise InputError("all 64 groups are in use, so that none is left for what is not counted: pass random=0")
    group = captured.columns.group.copy()
    group[:begin] = free
    return dataclasses.replace(captured, columns=dataclasses.replace(captured.columns, group=group))


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
