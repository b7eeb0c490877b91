"""A block proves itself: its run of a prompt with nothing cut and nothing dropped, against the decoder's own.

Once per model and kind of prompt, two more passes of the decoder over the same embeddings: media are not encoded
again. Hooks of the user's see neither of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import AvflowError
from ..eviction.policies import KeepAll
from ..eviction.schedule import EvictionSchedule
from ..models import proof
from ..models.base import Model
from ..models.compat import attributes, cache_argument, decoder_configs, implementation
from ..models.decoder_inputs import by_name
from ..models.deepstack import FEATURES, PLACES, of_rows
from ..models.evaluating import without_hooks
from ..models.windows import is_exceeded
from .cache import hold_all
from .conversation import Conversation
from .decoding import Decoding
from .prefill import Prefill, padding
from .state import Interventions

_CACHES = {"cache", "past_key_values"}
_LEFT_OUT = _CACHES | {"cache_position", "use_cache", "output_attentions", "output_hidden_states"}
_BY_TOKEN = {"input_ids", "inputs_embeds", "position_ids"}
_OF_ALL = {"attention_mask", "cache_position", "labels"}  # says nothing of a prompt's kind


class Tracked(Protocol):
    """The tracker, as far as it is looked at here. attention: what the model attends with outside of blocks."""

    model: Model
    interventions: Interventions
    attention: str


class BlockProof:
    """The comparison for one forward that reads a prompt into an empty cache, or into none.

    Where the forward fills a cache, the last token is read as generated ones are: by a step on a cache of its own, a
    DynamicCache. What it does not see: static caches, compiled steps, several tokens read on what a cache holds.
    """

    def __init__(
        self,
        tracked: Tracked,
        prefill: Prefill,
        given: Mapping[str, Any],
        arguments: tuple[Sequence[Any], Mapping[str, Any]],
    ) -> None:
        """
        Args:
            prefill: of the forward at hand. given: arguments of `model.hf`'s forward. arguments: of the decoder's, by
                place and by name.
        """
        self.tracked, self.model, self.interventions = tracked, tracked.model, tracked.interventions
        self.state, self.new = prefill.state, prefill.new
        named = by_name(self.model.text_model, *arguments)
        self.arguments = {name: value for name, value in named.items() if name not in _LEFT_OUT} | {"use_cache": False}
        mask = padding(given.get("attention_mask"), self.interventions.block)
        self.real = np.ones((self.state.batch, self.new), bool) if mask is None else mask[:, : self.new].numpy()
        self.padded = not self.real.all()
        self.sequence = int(self.real.sum(1).argmax())  # the one that is compared: that with the least padding
        others = set(self.arguments) - _BY_TOKEN - {"attention_mask", PLACES, FEATURES}
        self.parted = not any(_holds_tensors(self.arguments[name]) for name in others)
        use = named.get("use_cache")
        use = getattr(self.model.config, "use_cache", True) if use is None else use
        filled = use or any(named.get(name) is not None for name in _CACHES)
        # 1 where the last column is read as a step on what a cache holds, as generated tokens are.
        self.stepped = int(bool(filled) and self.parted and self.new > 1 and bool(self.real[:, -1].all()))
        tensors = frozenset(name for name, value in given.items() if isinstance(value, torch.Tensor))
        shape = self.state.batch > 1, self.padded, self.stepped
        head = is_exceeded(self.model.text_model, self.new), id(self.model.lm_head), self.model.vocab, self.model.dtype
        self.kind = (self.interventions.block, tensors - _OF_ALL, *shape, *head)

    def prove(self) -> None:
        """Raises UnsupportedModelError where they differ beyond the bound, and `Model.check` is "error"."""
        where = f"within {self.interventions.block}"
        what = f"{where}, with nothing {'cut' if self.interventions.schedule is None else 'dropped'}: the decoder"
        with torch.no_grad(), attributes(without_hooks(self.model.text_model)):
            proof.prove(self.model, self.kind, where, what, self._tried, self._own)

    def _tried(self) -> torch.Tensor:
        try:
            return self._ours()
        except AvflowError as error:  # the forward at hand raises it with the user's own numbers
            raise proof.NotComparable(str(error), once=True) from error

    def _logits(self, output: Any, sequence: int, column: int) -> torch.Tensor:
        """fp32 [1, vocab] of one row, by the output matrix alone: what follows it is the same on both sides."""
        hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]  # [batch, n, D]
        return self.model.lm_head.forward(hidden[sequence, column][None, None])[0].float()

    def _ours(self) -> torch.Tensor:
        """The batch as it is, by the block's own path; where a cache is filled, its last column as a step on it."""
        neutral, evicts = Interventions(self.model), self.interventions.schedule is not None
        if evicts:
            steps = [dataclasses.replace(step, keep=KeepAll(), per=None) for step in self.interventions.steps]
            neutral.schedule, neutral.norms = EvictionSchedule(steps), self.interventions.norms
        count = self.new - self.stepped
        state = Conversation(self.state.batch, neutral.steps, self.model.groups["answer"])
        state = state.extended(self.state.group[:, :count], self.state.item[:, :count], None)
        cache = _new_cache(self.model) if self.stepped else None
        run = Prefill(neutral, cache, state, count, False, gather_all=evicts)
        run.begin(torch.from_numpy(self.real[:, :count]) if self.padded else None)
        output = self._run(run, 0, count, cache)
        if cache is not None:
            run.finish(cache, [])
            step = Decoding(neutral, cache, state, 1, None)
            step.begin(None)
            return self._logits(self._run(step, count, self.new, cache), self.sequence, -1)
        gathered = run.index[state.segment(self.model.n_layers - 1)] is not None  # then padding stands first
        return self._logits(output, self.sequence, -1 if gathered else self._last)

    def _run(self, call: Prefill | Decoding, begin: int, end: int, cache: Any) -> Any:
        """The decoder on some of the columns."""
        arguments = dict(self.arguments) | {"avflow_call": call}
        if cache is not None:
            arguments |= {cache_argument(): cache, "use_cache": True}
            columns = torch.arange(begin, end, device=self.model.device)
            _select(arguments, columns)
            if arguments.get("attention_mask") is not None:
                mask = torch.from_numpy(self.real[:, :end].astype(np.int64))
                arguments["attention_mask"] = mask.to(self.model.device)
        with attributes([(self.tracked, "running", call)]):  # whom the layers' hooks ask
            return self.model.text_model.forward(**arguments)

    @property
    def _last(self) -> int:
        return int(np.flatnonzero(self.real[self.sequence])[-1])

    def _own(self, other: bool) -> torch.Tensor:
        """The decoder as it is, on one sequence without its padding; on all where more is given than can be parted."""
        arguments, sequence, column = self._alone(), 0, -1
        if arguments is None:
            arguments, sequence, column = dict(self.arguments), self.sequence, self._last
            arguments["attention_mask"] = torch.from_numpy(self.real.astype(np.int64)).to(self.model.device)
        name = proof.other(self.tracked.attention) if other else self.tracked.attention
        free = attributes([(self.tracked, "running", None)])  # the layers' hooks do nothing
        with free, implementation(decoder_configs(self.model.text_model), name):
            try:
                output = self.model.text_model.forward(**arguments)
            except (AttributeError, TypeError) as error:
                raise proof.NotComparable(f"the decoder does not run without a cache ({error})") from error
            return self._logits(output, sequence, column)

    def _alone(self) -> dict[str, Any] | None:
        """The arguments for the one sequence's own tokens; None where some cannot be told apart by sequence."""
        arguments = dict(self.arguments)
        columns = torch.from_numpy(np.flatnonzero(self.real[self.sequence])).to(self.model.device)
        if self.padded or self.state.batch > 1:
            if not self.parted:
                return None
            for name in _BY_TOKEN & set(arguments):
                value, dim = arguments[name], _dim(name)
                if value is not None and value.shape[dim - 1] == self.state.batch > 1:
                    arguments[name] = value.narrow(dim - 1, self.sequence, 1)
            _select(arguments, columns, self.sequence)
        arguments["attention_mask"] = torch.ones_like(columns)[None]
        return arguments


def _dim(name: str) -> int:
    """Of tokens, in an argument of _BY_TOKEN; the batch is the dimension before it."""
    return 1 if name in ("input_ids", "inputs_embeds") else -1


def _select(arguments: dict[str, Any], columns: torch.Tensor, sequence: int | None = None) -> None:
    """Takes some columns out of what is given by token; a decoder that counts positions itself is told them.

    sequence: the one that deepstack is still to be parted from the others of; None: all go on.
    """
    if arguments.get(FEATURES) is not None:
        which = slice(None) if sequence is None else slice(sequence, sequence + 1)
        arguments[PLACES], arguments[FEATURES] = of_rows(arguments[PLACES], arguments[FEATURES], which, columns)
    for name in _BY_TOKEN & set(arguments):
        if arguments[name] is not None:
            arguments[name] = arguments[name].index_select(_dim(name), columns.to(arguments[name].device))
    if arguments.get("position_ids") is None:
        arguments["position_ids"] = columns[None]


def _new_cache(model: Model) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    hold_all(cache)
    return cache


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, (list, tuple)) and any(map(_holds_tensors, value)))
