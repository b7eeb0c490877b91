"""What resting means, naively: the model's own layers with dense masks, and rows that are put back after a layer.

In the layers in which a token rests no other row attends to it, and what the layer makes of it is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import oracle
import pytest
import torch
from evict_cases import NEVER, Case, model

from avflow import EveryNth, KeepAll, KeepNone, Model, Step
from avflow.models.compat import cache_in, find_text_model


@dataclass
class Fate:
    """Of every token [batch, n]: the layer after which it leaves for good, and in which layers it rests."""

    gone: torch.Tensor  # int [batch, n]
    rests: dict[int, torch.Tensor] = field(default_factory=dict)  # layer -> bool [batch, n]

    def resting(self, layer: int) -> torch.Tensor:
        return self.rests.get(layer, torch.zeros_like(self.gone, dtype=torch.bool))

    def absent(self, layer: int) -> torch.Tensor:
        return (self.gone < layer) | self.resting(layer)

    def take(self, leave: torch.Tensor, step: Step) -> None:
        if step.until is None:
            self.gone[leave] = step.after
            return
        for layer in range(step.after + 1, step.until + 1):
            self.rests[layer] = self.resting(layer) | leave


def _model(name: str | Model) -> Model:
    return model(name) if isinstance(name, str) else name


@contextmanager
def resting(name: str | Model, fate: Fate, extra: int = 8, prompts: Sequence[int] = (), times: int = 1):
    """The model, by its name in evict_cases or itself, as `fate` has it. extra: tokens that follow.

    prompts: decode="drop": ends of prompts; what left for good is hidden in all layers from rows after it.
    times: copies of every sequence in the batch, as beams have them.
    """
    hf = _model(name).hf
    layers = list(find_text_model(hf).layers)
    n = fate.gone.shape[1] + extra
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    later = torch.zeros(n, n, dtype=torch.bool)
    for end in prompts:
        later |= (j < end) & (i >= end)
    left = torch.nn.functional.pad(fate.gone < NEVER, (0, extra))[:, None]
    cuts, rests, handles, at = {}, {}, [], {"at": 0}
    for layer in range(len(layers)):
        away = torch.nn.functional.pad(fate.absent(layer), (0, extra))[:, None]  # [batch, 1, n]
        cut = (away | (left & later[None])) & (i != j)[None]
        cuts[layer] = cut[:, None].expand(-1, 4, -1, -1).repeat_interleave(times, 0)
        rests[layer] = torch.nn.functional.pad(fate.resting(layer), (0, extra)).repeat_interleave(times, 0)

    def begin(module, args, kwargs):
        cache = cache_in(kwargs)
        at["at"] = 0 if cache is None else int(cache.get_seq_length())

    def put_back(layer):
        def hook(module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            rows = rests[layer][:, at["at"] : at["at"] + given.shape[1], None]
            made = output if isinstance(output, torch.Tensor) else output[0]
            made = torch.where(rows, given, made)
            return made if isinstance(output, torch.Tensor) else (made, *output[1:])

        return hook

    handles.append(find_text_model(hf).register_forward_pre_hook(begin, with_kwargs=True))
    handles += [m.register_forward_hook(put_back(number), with_kwargs=True) for number, m in enumerate(layers)]
    try:
        with oracle.dense(hf, cuts), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _attention(name: str | Model, case: Case, fate: Fate, layer: int) -> torch.Tensor:
    """Weights of one layer, averaged over heads: [batch, N, N]."""
    seen, attend = [], oracle.dense_attention

    def watch(q, k, v, visible, cut, scale, semantics):
        keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        score = (q @ keys.transpose(2, 3) * scale).masked_fill(~visible | cut, -math.inf)
        seen.append(torch.softmax(score, -1).nan_to_num(0.0).mean(1))
        return attend(q, k, v, visible, cut, scale, semantics)

    with pytest.MonkeyPatch.context() as patch, resting(name, fate, 0):
        patch.setattr(oracle, "dense_attention", watch)
        _model(name).hf(**case.inputs)
    return seen[layer]


def fate_of(name: str | Model, case: Case, steps: Sequence[Step]) -> Fate:
    """What a schedule does to every token, step by step; where a policy asks for scores, from dense runs."""
    fate = Fate(torch.full((len(case.groups), case.n), NEVER))
    real = case.inputs["attention_mask"].bool()
    item = torch.tensor(case.items)
    for step in sorted(steps, key=lambda s: s.after):
        named = torch.tensor([[g in oracle.names(step.group) for g in row] for row in case.groups])
        inside = named & real & (fate.gone == NEVER)
        if isinstance(step.keep, KeepAll):
            continue
        if isinstance(step.keep, EveryNth):
            inside &= item % step.keep.n != 0
        elif not isinstance(step.keep, KeepNone):
            inside = _lowest(name, case, fate, step, inside)
        fate.take(inside, step)
    return fate


def _lowest(name: str | Model, case: Case, fate: Fate, step: Step, inside: torch.Tensor) -> torch.Tensor:
    """Of a TopK step, those of the tokens `inside` that it takes."""
    layer = step.after + (step.keep.scored_in == "next")
    weight = _attention(name, case, fate, layer)
    there = ~fate.absent(layer) & (fate.gone == NEVER)
    leave = inside.clone()
    for b, names in enumerate(case.groups):
        at = inside[b].nonzero()[:, 0]
        asking = [i for i, g in enumerate(names) if g in oracle.names("question") and there[b, i]]
        score = weight[b, [case.n - 1] if step.keep.by == "last" else asking][:, at].mean(0)
        count = step.keep.count or math.ceil(step.keep.share * len(at))
        leave[b, at[torch.argsort(score, descending=True, stable=True)[:count]]] = False
    return leave
