"""`avflow.knockout`: cuts edges in the model's own forward and generate, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import checks
from ..knockouts.amplification import refuse_amplified
from ..knockouts.knockout import SEMANTICS, Semantics
from ..knockouts.presets import as_knockouts
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking
from .labels import Labels
from .state import Rule
from .tracker import tracking


@contextmanager
def knockout(
    model: Model,
    knockouts: Any,
    layers: Iterable[int] | int | None = None,
    semantics: Semantics = "renormalize",
    groups: Labels = None,
    items: Sequence[Any] | None = None,
    check: str | int | None = None,
) -> Iterator[None]:
    """Within the block, `model.hf(...)` and `model.hf.generate(...)` run with the edges cut, without gradients.

    Args:
        knockouts: a text form, a Knockout, or several: all are cut together.
        layers: where; None for all.
        semantics: "renormalize" or "zero".
        groups: N group names for the prompt, or one list per batch row (padding included); or the Prompt or Batch that
            `model.prepare` or `model.prepare_batch` gave, with its items. Default, also "ids": the model family labels
            the prompt from its ids, to which all of the user's text is "question_text". Generated tokens have the
            group "answer".
        items: N ints, or one list per batch row, to go with `groups`; -1 is none.
        check: what to do where the block, with nothing cut, is not the model's own forward: "error", "warn" or "off",
            or N to look at every N-th prompt; None: as `model.check` says, "error". Once per model and kind of prompt,
            as its first prompt is read, the decoder runs twice more on it: by itself, and through the block (of a
            forward that fills a cache, the last token by a step on a cache of its own, as generated tokens are read).
            Media are not encoded again, and hooks do not see it. Static caches, compiled steps, and several tokens read
            at once on what a cache holds are not compared.

    Batches with padding, beams, a second turn on the same cache, and static caches work. A cache remembers the labels
    of its tokens, so a later block can go on with it. Blocks of `knockout` and `evict` on one model may be nested, in
    any order: all cuts are in force together. Everything in the model is put back at the end of the block.

    Raises:
        InputError: layers, heads or groups that the model does not have; tokens that cannot be labelled; two semantics
            in one layer.
        UnsupportedModelError: a decoder that is not plain causal attention; or that with nothing cut is not the model's
            own (`check`).
    """
    check_model(model)
    chosen = as_knockouts(knockouts)
    refuse_amplified(chosen, "avflow.knockout")
    for one in chosen:
        one.check_heads(model.n_heads)
        one.refuse_items("a block")
    checks.choice("semantics", semantics, SEMANTICS)
    cuts = tuple(cut for one in chosen for cut in one.cuts(model.groups))
    rule = Rule(tuple(chosen), frozenset(layer_list(layers, model.n_layers)), semantics, cuts)
    with checking(model, check), tracking(model, groups, items) as tracker, tracker.interventions.cutting(rule):
        yield
