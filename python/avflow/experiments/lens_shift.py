"""Lens shift: how far what tokens say in one model is from what they say in another, such as the one it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import checks
from ..data.prepare import PromptSource, as_prompt, as_prompts
from ..errors import InputError
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..prompts.prompt import Prompt, with_answer_of
from ..results.results import Results
from ..results.schemas import LENS_SHIFT as SCHEMA
from ..walk.capture import capture
from ..walk.chunks import head_chunk
from .observe import observe
from .token_lens import tokens_by_group

__all__ = ["SCHEMA", "lens_shift"]

MARGINAL = 3  # ranks 2 .. 3 of the other model's list are marginal, those beyond are shifted


@torch.no_grad()
def lens_shift(
    model: Model,
    other: Model,
    prompts: PromptSource,
    tokens: str = "last+answer",
    layers: int | Sequence[int] | None = None,
    ask: Callable[[Prompt], Any] | None = None,
    check: str | int | None = None,
    labels: Any = None,
) -> Results:
    """The two models' lenses on the same tokens, layer by layer, and at the last layer their predictions.

    Where a token's most probable word in `model` is also the other's, it is unshifted; marginal where it is among the
    other's first three; shifted where it is not (the classes of Lin et al. 2024, "The Unlocking Spell", as audio-visual
    models were compared with the vision-language model they come from).

    Args:
        other: a model of as many layers and the same vocabulary.
        prompts: as of `avflow.sweep`, for `model`. tokens: as of `avflow.token_lens`.
        layers: 0-based; None for all.
        ask: what the other model reads for a prompt: prompt -> Sample or Prompt, such as one without sound. None: the
            same ids. It needs as many tokens of each of these groups.
        check, labels: as of `avflow.sweep`, of both models.

    Returns:
        Results with the columns prompt, task, group, layer, tokens, kl (mean, nats, from `model`'s distribution to the
        other's), unshifted, marginal, shifted (shares of the tokens).

    Raises:
        InputError: models that cannot be compared; groups with another number of tokens, both of which are named.
    """
    for one in (model, other):
        check_model(one)
    for what, mine, its in (("layers", model.n_layers, other.n_layers), ("words", model.vocab, other.vocab)):
        if mine != its:
            raise InputError(f"the models have {mine} and {its} {what}: only models of as many can be compared")
    if ask is not None and not callable(ask):
        raise InputError(f"ask = {checks.shown(ask)}: pass a function of a prompt, or None")
    given = as_prompts(model, prompts, labels=labels)
    model.groups.expand(tokens)
    chosen = layer_list(layers, model.n_layers)
    rows: list[tuple] = []
    with checking(model, check), checking(other, check):
        for prompt in given:
            for name in model.groups.names:  # those of labels too
                other.groups.add(name)
            asked = prompt
            if ask is not None:
                asked = with_answer_of(as_prompt(other, ask(prompt), answers=False, labels=labels), prompt)
            rows += _rows(model, other, prompt, asked, tokens, chosen)
    return Results.from_tuples("lens_shift", rows, tokens=tokens, layers=chosen, check=figures(model))


def _rows(model: Model, other: Model, prompt: Prompt, asked: Prompt, among: str, layers: list[int]) -> list[tuple]:
    own, its = capture(model, prompt), capture(other, asked)
    mine, theirs = tokens_by_group(model, own, among), tokens_by_group(other, its, among)
    for name in mine.keys() | theirs.keys():
        counts = [len(found.get(name, ())) for found in (mine, theirs)]
        if counts[0] != counts[1]:
            raise InputError(
                f"prompt {prompt.id!r}: {name!r} has {counts[0]} tokens in the one model and {counts[1]} in the other: "
                "compare groups of one length"
            )
    kept: dict[tuple[str, int], torch.Tensor] = {}  # the other's states [n, D], by group and layer

    def keep(layer: int, hidden: torch.Tensor) -> None:
        for name, at in theirs.items():
            kept[name, layer] = hidden[torch.from_numpy(at).to(hidden.device)]

    rows: list[tuple] = []

    def see(layer: int, hidden: torch.Tensor) -> None:
        for name, at in mine.items():
            states = hidden[torch.from_numpy(at).to(hidden.device)]
            kl, ranks = _compared(model, other, states, kept.pop((name, layer)))
            shares = ((ranks == 1), (ranks > 1) & (ranks <= MARGINAL), ranks > MARGINAL)
            values = (float(one.double().mean()) for one in (kl, *shares))
            rows.append((prompt.id, prompt.task, name, layer, len(at), *values))

    observe(other, its, on_hidden=keep, layers=layers)
    observe(model, own, on_hidden=see, layers=layers)
    return rows


def _compared(
    model: Model, other: Model, states: torch.Tensor, theirs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every token, float32 [n] KL in nats and int64 [n] the rank in the other's list of its most probable word."""
    kls, ranks = [], []
    chunk = max(1, head_chunk(model) // 2)  # two distributions at a time
    for a, b in zip(states.split(chunk), theirs.split(chunk), strict=True):
        p = torch.log_softmax(model.logits(a[None])[0].float(), -1)  # [rows, vocab]
        q = torch.log_softmax(other.logits(b[None])[0].float().to(p.device), -1)
        kls.append((p.exp() * (p - q)).sum(-1))
        ranks.append(1 + (q > q.gather(1, p.argmax(-1, keepdim=True))).sum(-1))
    return torch.cat(kls), torch.cat(ranks)
