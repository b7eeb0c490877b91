"""A walk proves itself: its clean row against the model's own forward, once per model and kind of prompt.

What a difference beyond the bound is, `models.proof` says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from ..models import proof
from ..models.base import Model
from ..models.compat import attributes, decoder_configs, implementation, kept_state
from ..models.evaluating import in_eval_mode
from ..models.inputs import forward_inputs, placeholders
from ..models.undoing import pre_hooked
from ..models.windows import is_exceeded
from .capture import Captured
from .jobs import Columns

_KINDS = "mm_token_type_ids"  # an argument of the forward, [1, N]: which medium each token is of, 0 for text


def is_due(model: Model, captured: Captured, how: str) -> bool:
    """Whether a clean run of this prompt is to be compared. how: "walk", "observe", "text", which run differently."""
    if captured.altered:
        return False
    first = model.proofs.get(_kind(model, captured, "walk")) if how == "text" else None
    if first is not None and not first.holds:
        return False  # the text goes on from it: one warning is enough
    return proof.is_due(model, _kind(model, captured, how), captured.nth and how not in captured.compared)


def _kind(model: Model, captured: Captured, how: str) -> tuple[Any, ...]:
    """What the model does differently for one prompt than for another."""
    prompt = captured.prompt
    media = frozenset(prompt.model_inputs or ()) - {"input_ids", "attention_mask"}
    several = len(captured) > captured.columns.n_prompt
    head = id(model.lm_head), model.vocab, model.dtype
    beyond = is_exceeded(model.text_model, len(captured))
    return (how, media, prompt.inputs_embeds is None, prompt.position_ids is None, several, beyond, *head)


@torch.no_grad()
def prove(model: Model, captured: Captured, how: str, ours: torch.Tensor) -> None:
    """Compares a clean run's logits [answer tokens, vocab] with those of the model's own forward: one forward.

    Raises:
        UnsupportedModelError: they differ beyond the bound, and `Model.check` is "error".
    """
    captured.compared.add(how)

    def own(other: bool) -> torch.Tensor:
        return _own_logits(model, captured, other)  # [answer tokens, vocab], or the first of them

    name = captured.prompt.id
    what = f"prompt {name!r}: the walk's clean run"
    proof.prove(model, _kind(model, captured, how), name, what, lambda: ours, own)


@torch.no_grad()
def prove_text(model: Model, captured: Captured, made: Sequence[int], ours: torch.Tensor) -> None:
    """The same for tokens after the first that a clean run generated.

    Args:
        captured: the prompt alone. made: the generated tokens. ours: logits [rows, vocab]; row i predicted made[i + 1].

    Raises:
        UnsupportedModelError: as of `prove`.
    """
    captured.compared.add("text")
    ours = ours[: _before_placeholder(model, made[: len(ours)])]
    if not len(ours):
        return  # the model began with a placeholder: another prompt of this kind will do
    longer = _continued(captured, made[: len(ours) + 1])

    def own(other: bool) -> torch.Tensor:
        return _own_logits(model, longer, other)[1:]  # the first was compared by the walk

    kind, name = _kind(model, captured, "text"), captured.prompt.id
    what = f"prompt {name!r}: the text that the walk generates without a cut"
    if _takes_answers(forward_inputs(model, captured.prompt), len(captured)):
        proof.prove(model, kind, name, what, lambda: ours, own)
    else:
        model.proofs[kind] = None


def _continued(captured: Captured, made: Sequence[int]) -> Captured:
    """As if the prompt's answer were these tokens: all but the last are appended, each one place further."""
    prompt = dataclasses.replace(captured.prompt, answer_ids=list(made), option_ids=None)
    n, extra, where = len(captured), len(made) - 1, captured.positions
    if where is not None:
        more = captured.after + torch.arange(extra, device=where.device)
        where = torch.cat([where, more.expand(*where.shape[:-1], -1)], -1)
    own = captured.columns
    group, item = (np.concatenate([part, part[-1:].repeat(extra)]) for part in (own.group, own.item))  # counted alone
    columns = Columns(group, item, n)
    return dataclasses.replace(captured, prompt=prompt, columns=columns, positions=where)


def _own_logits(model: Model, captured: Captured, other: bool) -> torch.Tensor:
    """fp32 [answer tokens, vocab] by the model's own forward, or the first of them, as of `_inputs`.

    other: by another of transformers' attention functions.
    """
    inputs, rows = _inputs(model, captured)

    def last_rows(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, -rows:], *args[1:])

    name = proof.other(model.config._attn_implementation)
    called = implementation(decoder_configs(model.text_model), name) if other else nullcontext()
    patched = attributes(model.family.patches(model))
    shortened = pre_hooked(model.lm_head, last_rows)  # not every model takes logits_to_keep
    with shortened, kept_state(model.hf), in_eval_mode(model), patched, called:
        logits = model.hf(**inputs, use_cache=False).logits
    return logits[0, -rows:].float()


def _inputs(model: Model, captured: Captured) -> tuple[dict[str, Any], int]:
    """Arguments of `model.hf` for the prompt and the answer's tokens but the last, and how many rows predict.

    Fewer tokens where one is a medium's placeholder, or none where they cannot be appended.
    """
    prompt, n = captured.prompt, captured.columns.n_prompt
    inputs, extra = forward_inputs(model, prompt), _before_placeholder(model, prompt.answer_ids[: len(captured) - n])
    if not extra or not _takes_answers(inputs, n):
        return inputs, 1
    ids = torch.tensor([prompt.answer_ids[:extra]], device=model.device)  # [1, extra]
    if "inputs_embeds" in inputs:
        more = model.text_model.embed_tokens(ids).to(inputs["inputs_embeds"].dtype)
        inputs["inputs_embeds"] = torch.cat([inputs["inputs_embeds"], more], 1)
    else:
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    inputs["attention_mask"] = inputs["attention_mask"].new_ones(1, n + extra)
    if _KINDS in inputs:
        inputs[_KINDS] = torch.cat([inputs[_KINDS], inputs[_KINDS].new_zeros(1, extra)], 1)
    if captured.positions is not None:
        inputs["position_ids"] = captured.positions[..., : n + extra]
    elif "position_ids" in inputs:
        inputs["position_ids"] = torch.arange(n + extra, device=model.device)[None]
    return inputs, 1 + extra


def _before_placeholder(model: Model, answer: Sequence[int]) -> int:
    """How many of the answer's tokens precede a medium's placeholder, which one forward would fill with a medium.

    Read by itself, as generate does and a walk, it is a word like any other.
    """
    there = placeholders(model)
    return next((number for number, token in enumerate(answer) if token in there), len(answer))


def _takes_answers(inputs: Mapping[str, Any], n: int) -> bool:
    """Whether answers can be appended to a prompt of n tokens: of other values by token, the model alone knows more."""
    by_token = {name for name, v in inputs.items() if isinstance(v, torch.Tensor) and v.shape[-1:] == (n,)}
    return not by_token - {"input_ids", "attention_mask", "position_ids", _KINDS}
