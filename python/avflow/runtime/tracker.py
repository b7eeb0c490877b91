"""Follows a model's own calls, so that every token of every forward has its labels; `knockout` and `evict` build on it.

One tracker per model, however many blocks are open: a block adds its cuts or its schedule and takes them out again. The
tracker labels new tokens before each forward, and hands the decoder the call that does its attention.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError, UnsupportedModelError
from ..models import deepstack
from ..models.attention import bypassed, register
from ..models.base import Model
from ..models.compat import (
    BLOCK,
    attention_name,
    attributes,
    cache_argument,
    cache_in,
    cache_of,
    check_layers,
    open_block,
    rope_owners,
)
from ..models.decoder_inputs import refuse_other_decoder_arguments
from ..models.evaluating import in_eval_mode
from ..models.fused import fused_layers
from ..models.ownership import check_owner
from ..models.proof import is_due, turn
from ..models.uncompiled import check_uncompiled, whole
from ..models.undoing import undoing, without_hook
from .cache import hold_all, is_static
from .conversation import Conversation, conversation_of
from .decoding import Decoding, compiled_step, prepare
from .labels import Labels, check_ids, check_items, check_present, given_ids, given_labels, given_times, labels_from_ids
from .prefill import Prefill, padding
from .proof import BlockProof
from .state import Interventions

if TYPE_CHECKING:
    from ..models.compat import DecoderLayer

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # of a module's call, as torch's hooks give and take them


@dataclass
class _Prompt:
    """What `generate` was given: tokens past `count` are the answer. Its labels are made once, also for many chunks."""

    ids: torch.Tensor | None
    mask: torch.Tensor | None
    count: int
    grids: torch.Tensor | None
    thread: int  # that runs it
    labels: tuple[np.ndarray, np.ndarray] | None = None


class Tracker:
    """State of the blocks that are open on one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.interventions = Interventions(model)
        self.given: tuple[np.ndarray, np.ndarray] | None = None
        self.given_ids: torch.Tensor | None = None  # that `given` are the labels of, where the user told
        self.given_times: np.ndarray | None = None  # float64 [1 or batch, N], likewise
        self.prompt: _Prompt | None = None  # within generate
        self.next: Prefill | Decoding | None = None  # labelled, and not yet taken up by the decoder
        self.running: Prefill | Decoding | None = None
        self.logit_rows: int | None = None  # that the caller of this forward will look at
        self.attention = str(model.config._attn_implementation)  # outside of the blocks
        self.to_prove: tuple[dict[str, Any], bool] | None = None  # of a prompt: the model's arguments; by its turn
        # Looked through at every step: to find them anew took 0.8 ms of 36 layers, and more than all else avflow does.
        self.modules = list(model.hf.modules())

    @contextmanager
    def given_within(
        self, labels: tuple[np.ndarray, np.ndarray], ids: torch.Tensor | None, times: np.ndarray | None
    ) -> Iterator[None]:
        """Labels that the user gave, for as long as the block lasts; those of the block around it are the same."""
        with undoing() as undo:
            undo.append(partial(setattr, self, "given", self.given))
            undo.append(partial(setattr, self, "given_ids", self.given_ids))
            undo.append(partial(setattr, self, "given_times", self.given_times))
            self.given = labels
            self.given_ids = self.given_ids if ids is None else ids
            self.given_times = self.given_times if times is None else times
            yield

    def rope_owners(self) -> list[nn.Module]:
        return rope_owners(self.modules)

    # --- labels -------------------------------------------------------------------------------------------------------

    def _answers_only(self, past: int, new: int) -> bool:
        """Whether the next `new` tokens are all the answer's, so that their ids need no labelling."""
        if not past or (self.given is not None and self.given[0].shape[1] > past):
            return False
        if self.prompt is not None:
            return past >= self.prompt.count or (self.given is None and past + 1 == self.prompt.count and new == 1)
        return new == 1

    def _whole(self, old: Conversation, ids: torch.Tensor | None, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Labels of the sequences from their first column on, [1 or batch, N]; columns past N are the answer's."""
        if self.given is not None:
            return self.given
        if self.prompt is not None and self.prompt.labels is not None:
            return self.prompt.labels
        mask, grids = kwargs.get("attention_mask"), kwargs.get("video_grid_thw")
        if self.prompt is not None:
            whole, mask, grids = self.prompt.ids, self.prompt.mask, self.prompt.grids
        elif ids is None or old.ids is None:
            whole = None
        else:
            whole = torch.cat([old.ids, ids.cpu()], 1)
        if whole is None:
            raise InputError(
                f"{self.interventions.block} cannot tell what the tokens are from inputs_embeds: pass input_ids, or "
                "groups=[...] with one name per token"
            )
        labels = labels_from_ids(self.model, whole, mask, grids)
        if self.prompt is not None:
            self.prompt.labels = labels
        return labels

    def _label(
        self, old: Conversation, ids: torch.Tensor | None, kwargs: dict[str, Any], batch: int, new: int
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Group and item of the new tokens, [batch, new], and whether the prompt ends among them."""
        past = len(old)
        group, item = self._whole(old, ids, kwargs)
        if self.given_ids is not None and ids is not None:
            check_ids(self.given_ids, ids, past)
        check_items(self.model, self.interventions.knockouts, group, item)
        if not past and self.interventions.missing == "raise":
            check_present(self.model, self.interventions.steps, group)
        if batch % len(group):
            raise InputError(
                f"labels are given for {len(group)} sequences, the batch has {batch}: give one for all, or one for each"
            )
        named = group.shape[1]
        group, item = (np.repeat(a, batch // len(a), 0)[:, past : past + new] for a in (group, item))
        extra = new - group.shape[1]
        if extra and self.prompt is None and not (new == 1 and past):
            have = 0 if self.given is None else named
            span = f"{past} .. {past + new - 1}"
            raise InputError(f"groups names {have} tokens, but tokens {span} are read: name them all")
        answer = np.full((batch, extra), self.model.groups["answer"], np.int32)
        group = np.concatenate([group, answer], 1)
        item = np.concatenate([item, np.full((batch, extra), -1, np.int32)], 1)
        return group, item, past + new >= (named if self.prompt is None else self.prompt.count)

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _conversation(self, cache: Any, batch: int) -> tuple[Conversation, int]:
        """What the cache holds before this forward, and how many tokens that are."""
        past = 0 if cache is None else int(cache.get_seq_length())
        state = conversation_of(cache)
        if not past:
            return Conversation(batch, self.interventions.steps, self.model.groups["answer"]), 0
        if state is not None:
            state.catch_up(past)
        if state is None or len(state) < past:
            labelled = 0 if state is None else len(state)
            raise InputError(
                f"the cache holds {past} tokens, of which {labelled} are labelled: run the prompt within "
                f"{self.interventions.block} too (layers outside of the window or before the schedule are untouched by "
                "it)"
            )
        if state.steps != self.interventions.steps:
            been = [str(step) for step in state.steps]
            raise InputError(
                f"the cache was filled {'with the schedule ' + ', '.join(been) if been else 'without eviction'}: go on "
                "with it in the same way, or start from a new cache"
            )
        if len(state) > past:
            state = state.cropped(past)  # assisted decoding takes back tokens
        if state.batch != batch:
            raise InputError(
                f"the cache's labels are for {state.batch} sequences, the batch has {batch}: go on with the batch that "
                "filled it, or start from a new cache"
            )
        return state, past

    def _check_free(self) -> None:
        """Two threads of one context may take turns within a block, and not run at once."""
        here = threading.get_ident()
        if self.prompt is not None and self.prompt.thread != here:
            raise InputError(
                f"two threads generate with one model within one block of {self.interventions.block}: let one wait for "
                "the other (a lock), or load a model for each"
            )

    def before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return None
        check_owner(self.model.text_model)
        self._check_free()
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if ids is None and args:
            ids = args[0]
        read = embeds if ids is None else ids
        if read is None:
            return None  # an error of the model itself
        if self.interventions.schedule is not None and kwargs.get("labels") is not None:
            raise InputError(
                "labels= within avflow.evict: rows leave on the way, so the logits no longer line up with the labels. "
                "Compute the loss from the logits of the rows that stay (logits[:, -1] predicts the next token)"
            )
        batch, new = read.shape[:2]
        cache = cache_in(kwargs)
        self._check_windows(cache)
        hold_all(cache)
        state, past = self._conversation(cache, batch)
        if past and state.rope_deltas is not None:
            for owner, deltas in zip(self.rope_owners(), state.rope_deltas, strict=True):
                owner.rope_deltas = deltas
        self.logit_rows = None if self.prompt is None else max(1, past + new - self.prompt.count + 1)
        self.to_prove = None if past else (kwargs, turn(self.model))
        if self._answers_only(past, new) and not self._padded(kwargs.get("attention_mask"), past, new):
            self.next = Decoding(self.interventions, cache, state, new, ids)
            return None
        group, item, ends = self._label(state, ids, kwargs, batch, new)
        if self.interventions.decode == "drop" and self.prompt is not None and past < self.prompt.count < past + new:
            raise InputError(
                "decode='drop' with assisted or prompt-lookup decoding, or without a cache: answer tokens are read "
                "with the prompt, before what left is freed: use decode='keep'"
            )
        count = None if self.prompt is None else self.prompt.count
        state = state.extended(group, item, ids)
        self.next = Prefill(self.interventions, cache, state, new, ends, count, times=self.given_times)
        return None

    def _check_windows(self, cache: Any) -> None:
        """A static cache's window would roll within a compiled forward, where no mask is looked at."""
        window = getattr(self.model.config, "sliding_window", None)
        if window is None or not is_static(cache):
            return
        for index, layer in enumerate(cache.layers):
            if getattr(layer, "is_sliding", False) and layer.max_cache_len >= window:
                raise UnsupportedModelError(
                    f"layer {index} of the static cache has a sliding window of {window} tokens: pass one of fewer "
                    "tokens (max_cache_len), or a DynamicCache"
                )

    def _padded(self, mask: Any, past: int, new: int) -> bool:
        """Whether some of the new tokens are padding; what generate generates is not."""
        seen = None if self.prompt is not None else padding(mask, self.interventions.block)
        return seen is not None and not bool(seen[:, past : past + new].all())

    def before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        if torch.compiler.is_compiling():
            return args, {**kwargs, "avflow_call": compiled_step(self.interventions, kwargs)}
        if self.next is None:
            raise InputError(
                f"within {self.interventions.block} call model.hf (forward or generate), not its decoder alone, its "
                "`forward` past __call__ or an experiment of avflow (leave the block first), and read the prompt "
                "uncompiled"
            )
        self.running, self.next = self.next, None
        if self.interventions.schedule is not None:
            refuse_other_decoder_arguments(module, args, kwargs)  # rows leave, and what belongs to them would stay
        self.running.begin(kwargs.get("attention_mask"))
        if self.to_prove is not None and isinstance(self.running, Prefill) and self.model.check != "off":
            given, nth = self.to_prove
            found = BlockProof(self, self.running, given, (args, kwargs))
            if found.real.any() and is_due(self.model, found.kind, nth):
                found.prove()
        return args, {**kwargs, "avflow_call": self.running}

    def after_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or self.running is None:
            return
        running, self.running = self.running, None
        # With assistant_early_exit the config says fewer layers than there are.
        ran = min(self.model.n_layers, getattr(self.model.config, "num_hidden_layers", self.model.n_layers))
        for index in range(ran):
            if running.asked[index] != 1:
                raise bypassed(self.model.layers[index], index, running.asked[index])
        cache = running.cache if running.cache is not None else cache_of(output)
        if cache is not None:
            running.finish(cache, [owner.rope_deltas for owner in self.rope_owners()])
            if cache.is_compileable:
                prepare(self.interventions, running.state, 1, cache.layers[0].get_max_length())

    def before_layer(self, module: DecoderLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Rows leave on the way into a layer; those after it work on what remains."""
        if torch.compiler.is_compiling() or self.running is None:
            return None
        check_owner(self.model.text_model)
        return self.running.enter_layer(module, args, kwargs)

    def add_deep(self, run: deepstack.Add, hidden: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        """The decoder's own addition to the rows of pictures, for the rows that are left."""
        running = self.running if isinstance(self.running, Prefill) else None
        return run(hidden, *given) if running is None else running.add_deep(run, hidden, *given)

    def before_head(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Within generate only the last of the prompt's tokens needs logits."""
        if torch.compiler.is_compiling():
            return None
        check_owner(self.model.text_model)
        rows, self.logit_rows = self.logit_rows, None
        return None if rows is None or rows >= args[0].shape[1] else (args[0][:, -rows:], *args[1:])

    def generate(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """hf.generate, noting what the prompt is: later tokens are the answer."""

        def wrapped(inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            if self.interventions.schedule is not None and kwargs.get("labels") is not None:
                raise InputError("generate takes no labels=: leave it out")
            check_owner(self.model.text_model)
            self._check_free()
            ids = kwargs.get("input_ids") if inputs is None else inputs
            cache, mask = cache_in(kwargs), kwargs.get("attention_mask")
            if kwargs.get("past_key_values") is not None and cache_argument() != "past_key_values":
                kwargs["cache"] = kwargs.pop("past_key_values")  # or transformers warns, and names this file
            given = ids if ids is not None else kwargs.get("inputs_embeds")
            count = 0 if given is None else given.shape[1]
            state = conversation_of(cache)
            past = 0 if cache is None else int(cache.get_seq_length())
            if state is not None:
                state.catch_up(past)
            if past and mask is not None and mask.dim() == 2 and mask.shape[1] == past + count:  # new tokens alone
                known = None if state is None or len(state) < past else state.cropped(past).settled().ids
                ids = None if known is None or ids is None else torch.cat([known, ids.cpu()], 1)
                count += past
            if past and state is not None and state.rope_deltas is not None:  # generate makes positions from them
                for owner, deltas in zip(self.rope_owners(), state.rope_deltas, strict=True):
                    owner.rope_deltas = deltas
            self.prompt = _Prompt(ids, mask, count, kwargs.get("video_grid_thw"), threading.get_ident())
            try:
                return run(inputs, *args, **kwargs) if inputs is not None else run(*args, **kwargs)
            finally:
                self.prompt = self.logit_rows = None

        return wrapped


@contextmanager
def _hooks(tracker: Tracker) -> Iterator[None]:
    model = tracker.model
    if open_block(model.text_model) is not None:
        raise InputError(
            f"{type(model.hf).__name__} is wrapped twice, and a block of the other avflow.Model is open on it: put all "
            "blocks on one avflow.Model"
        )
    with undoing() as undo:
        for module, hook in (
            (model.hf, tracker.before_model),
            (model.text_model, tracker.before_decoder),
            (model.text_model, tracker.after_decoder),
            (model.lm_head, tracker.before_head),
        ):
            undo.append(partial(without_hook, module, hook))
        model.hf.register_forward_pre_hook(tracker.before_model, with_kwargs=True)
        model.text_model.register_forward_pre_hook(tracker.before_decoder, with_kwargs=True)
        model.text_model.register_forward_hook(tracker.after_decoder)
        model.lm_head.register_forward_pre_hook(tracker.before_head)
        replaced = [(model, "tracker", tracker), (model.text_model, BLOCK, tracker), *model.family.patches(model)]
        if hasattr(model.text_model, deepstack.METHOD):
            run = getattr(model.text_model, deepstack.METHOD)
            replaced.append((model.text_model, deepstack.METHOD, partial(tracker.add_deep, run)))
        if hasattr(model.hf, "generate"):
            replaced.append((model.hf, "generate", tracker.generate(model.hf.generate)))
        replaced += fused_layers(model)
        with in_eval_mode(model), attention_name(model.text_model, register()), attributes(replaced):
            undo.append(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
            torch.set_grad_enabled(False)
            yield


@contextmanager
def tracking(model: Model, groups: Labels, items: Sequence[Any] | None) -> Iterator[Tracker]:
    """The model's tracker: that of the block around this one, or a new one; the model is left as it was found.

    Raises:
        InputError: labels that do not fit, or that differ from those of the block around this one.
        UnsupportedModelError: a decoder that is not plain causal attention.
    """
    check_layers(model.text_model)
    check_owner(model.text_model)
    check_uncompiled(whole(model.hf, model.text_model), "avflow labels what every forward reads")
    given = given_labels(model, groups, items)
    tracker = model.tracker or Tracker(model)
    if given is not None and tracker.given is not None and not all(map(np.array_equal, tracker.given, given)):
        raise InputError("groups= and items= differ from those of the block around: pass them once")
    # No ExitStack: it drops a context before it leaves it, and an interrupt in between would leave hooks in the model.
    with _hooks(tracker) if model.tracker is None else nullcontext():
        with nullcontext() if given is None else tracker.given_within(given, given_ids(groups), given_times(groups)):
            yield tracker
