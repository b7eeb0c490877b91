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

from ..eviction.policies import KeepAll
from ..eviction.schedule import EvictionSchedule
from ..models import proof
from ..models.base import Model
from ..models.compat import attributes, decoder_configs, implementation
from ..models.decoder_inputs import by_name
from ..models.evaluating import without_hooks
from .conversation import Conversation
from .prefill import Prefill, padding
from .state import Interventions

_LEFT_OUT = {"cache", "past_key_values", "cache_position", "use_cache", "output_attentions", "output_hidden_states"}
_BY_TOKEN = {"input_ids", "inputs_embeds", "position_ids", "attention_mask"}
_OF_ALL = {"attention_mask", "cache_position", "labels"}  # says nothing of a prompt's kind


class Tracked(Protocol):
    """The tracker, as far as it is looked at here. attention: what the model attends with outside of blocks."""

    model: Model
    interventions: Interventions
    attention: str


class BlockProof:
    """The comparison for one forward that reads a prompt into an empty cache, or into none.

    What it does not see: tokens that are read later, on what a cache holds, and what a cache does with its keys. So a
    static cache plays no part in it, and compiled steps neither.
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
        tensors = frozenset(name for name, value in given.items() if isinstance(value, torch.Tensor))
        shape = self.state.batch > 1, self.padded
        head = id(self.model.lm_head), self.model.vocab, self.model.dtype
        self.kind = (self.interventions.block, tensors - _OF_ALL, *shape, *head)

    def prove(self) -> None:
        """Raises UnsupportedModelError where they differ beyond the bound, and `Model.check` is "error"."""
        where = f"within {self.interventions.block}"
        what = f"{where}, with nothing {'cut' if self.interventions.schedule is None else 'dropped'}: the decoder"
        with torch.no_grad(), attributes(without_hooks(self.model.text_model)):
            proof.prove(self.model, self.kind, where, what, self._ours, self._own)

    def _logits(self, output: Any, sequence: int, column: int) -> torch.Tensor:
        """fp32 [1, vocab] of one row, by the output matrix alone: what follows it is the same on both sides."""
        hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]  # [batch, n, D]
        return self.model.lm_head.forward(hidden[sequence, column][None, None])[0].float()

    def _ours(self) -> torch.Tensor:
        """The batch as it is, through the block's own path."""
        neutral = Interventions(self.model)
        evicts = self.interventions.schedule is not None
        if evicts:
            steps = [dataclasses.replace(step, keep=KeepAll()) for step in self.interventions.steps]
            neutral.schedule, neutral.norms = EvictionSchedule(steps), self.interventions.norms
        state = Conversation(self.state.batch, neutral.steps, self.model.groups["answer"])
        state = state.extended(self.state.group, self.state.item, None)
        run = Prefill(neutral, None, state, self.new, False, gather_all=evicts)
        run.begin(torch.from_numpy(self.real) if self.padded else None)
        with attributes([(self.tracked, "running", run)]):  # whom the layers' hooks ask
            output = self.model.text_model.forward(**self.arguments | {"avflow_call": run})
        gathered = run.index[state.segment(self.model.n_layers - 1)] is not None  # then padding stands first
        return self._logits(output, self.sequence, -1 if gathered else self._last)

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
        arguments["attention_mask"] = torch.ones_like(columns)[None]
        if not self.padded and self.state.batch == 1:
            return arguments
        if any(name not in _BY_TOKEN and _holds_tensors(value) for name, value in arguments.items()):
            return None
        for name in _BY_TOKEN & set(arguments):
            value = arguments[name]
            dim = 1 if name in ("input_ids", "inputs_embeds") else -1
            if value is not None and name != "attention_mask":
                if value.shape[dim - 1] == self.state.batch > 1:
                    value = value.narrow(dim - 1, self.sequence, 1)
                arguments[name] = value.index_select(dim, columns.to(value.device))
        if arguments.get("position_ids") is None:
            arguments["position_ids"] = columns[None]
        return arguments


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, (list, tuple)) and any(map(_holds_tensors, value)))
