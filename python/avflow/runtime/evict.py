"""`avflow.evict`: tokens leave mid-network in the model's own forward and generate, while a `with` block lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .. import checks
from ..eviction.schedule import EvictionSchedule
from ..models.base import Model, check_model
from ..models.compat import attributes
from ..models.proof import checking
from ..models.uncompiled import check_uncompiled, layers_of
from ..models.undoing import undoing, without_hook
from .labels import Labels
from .tracker import tracking

DECODE = ("keep", "drop")
MISSING = ("raise", "ignore")


@contextmanager
def evict(
    model: Model,
    schedule: EvictionSchedule | Mapping[str, int] | Sequence[Any],
    decode: str = "keep",
    groups: Labels = None,
    items: Sequence[Any] | None = None,
    check: str | int | None = None,
    missing: str = "raise",
) -> Iterator[None]:
    """Within the block, tokens leave `model.hf(...)` and `model.hf.generate(...)` as the schedule says; no gradients.

    After the layer that a step names (-1: before layer 0), the rows of its group are gone: later layers compute and
    cache only the others, at their original positions. That equals, exactly, a knockout of the group to all others in
    all later layers. Where a step has `until`, the rows come back in the layer after it with the hidden states that
    they left with: they pass by the layers between, and no other row sees them there.

    Args:
        schedule: an EvictionSchedule, or what it is made of.
        decode: "keep": tokens that come later (the answer, the next turn) still see the tokens that left, in the layers
            that these passed; exact in the sense above. "drop": once the prompt is read, their keys and values are
            freed in all layers. That saves memory in the early layers too, and changes the numbers: for the answer's
            tokens after the first, and for later turns, it is as if the group were cut in every layer. The first
            token of the answer is the same either way. What rests and comes back is not freed.
        groups, items: as for `avflow.knockout`; groups may be a Prompt or a Batch of the model too, which has both, and
            the tokens' times.
            Default: the model family labels the prompt from its ids, which tell media from text, and no part of the
            user's text from the next: a schedule that names such a part ("question_text", "options") is refused,
            unless groups="ids" says that all of the user's text is "question_text".
        check: as for `avflow.knockout`; here all rows are gathered where some would leave, and none leaves.
        missing: what to do where a first forward has no token of a step's group. "raise": it is most likely a slip.
            "ignore": the step waits for such tokens, in this turn or a later one: one schedule of video and sound for
            requests of which some are silent, or are text alone.

    What differs from a plain run:
        generate: gives logits of the prompt's last position and of what follows, no others.
        forward: logits are those of the rows that stayed, aligned to the right where the sequences of a batch keep
            different numbers; logits[:, -1] predicts the next token. `labels=` is an error, and hidden states
            (output_hidden_states) have fewer rows in later layers.
        cache: later layers are shorter, so go on with it in a block with the same schedule. It remembers what it holds:
            several conversations may take turns. get_seq_length() counts all tokens read, also those that left.

    New media in a later turn leave after the same layers. Batches with padding, beams, sampling, assisted and
    prompt-lookup decoding, static caches, and chunked prefill (not with policies that need scores) work; with
    decode="drop", or a step before layer 0, the cache must be a plain DynamicCache.

    Raises:
        InputError: a schedule that does not fit the model, one that names groups which nothing tells apart, a group
            that the prompt lacks (unless `missing` is "ignore"), a prompt whose last token would leave, a cache filled
            without eviction or under another schedule.
        UnsupportedModelError: a decoder that is not plain causal attention; or that with nothing dropped is not the
            model's own (`check`); layers that rows would leave between, or the model, compiled by `.compile()`.
    """
    check_model(model)
    if not isinstance(schedule, EvictionSchedule):
        schedule = EvictionSchedule(schedule)
    schedule.check(model)
    checks.choice("decode", decode, DECODE)
    checks.choice("missing", missing, MISSING)
    with checking(model, check), tracking(model, groups, items) as tracker:
        if groups is None and tracker.given is None:
            schedule.check_told(model)
        first = schedule.layers[0] + 1 if schedule.steps else model.n_layers
        why = "avflow.evict takes rows out on the way into a layer"
        check_uncompiled(layers_of(model.text_model, first), why, forwards=False)
        with tracker.interventions.evicting(schedule, decode, missing), undoing() as undo:
            for layer in model.layers[first:]:
                undo.append(partial(without_hook, layer, tracker.before_layer))
                layer.register_forward_pre_hook(tracker.before_layer, with_kwargs=True)
            with attributes([(norm.norm, "forward", norm) for norm in tracker.interventions.norms.values()]):
                yield
