"""A walk proves itself: its clean row against the model's own forward, once per model and kind of prompt.

`Model.check` says what a difference beyond the bound is: an "error", a reason to "warn", or not looked for ("off").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from .. import checks
from ..errors import UnsupportedModelError, warn_user
from ..models.base import Model
from ..models.compat import attributes, decoder_configs, implementation, kept_state
from ..models.evaluating import in_eval_mode
from ..models.inputs import forward_inputs
from ..models.undoing import pre_hooked
from .capture import Captured

CHECKS = ("error", "warn", "off")
_SHARE = 1e-3  # of the logits' spread, fp32
# Named in the error: what the checks before a walk cannot see.
_CAUSES = (
    "something between the layers or behind them, tables of positions that differ by layer, a hook, or attention that "
    "is not what transformers was asked for"
)


@dataclass(frozen=True)
class Proof:
    """What a comparison gave: the largest difference of logits, the bound on it, and the logits' spread."""

    prompt: str
    difference: float
    bound: float
    spread: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.bound  # False for NaN


@contextmanager
def checking(model: Model, check: str | None) -> Iterator[None]:
    """`Model.check` for as long as the block lasts; None leaves it.

    Raises:
        InputError: none of CHECKS.
    """
    check = checks.choice("check", model.check if check is None else check, CHECKS)
    before, model.check = model.check, check
    try:
        yield
    finally:
        model.check = before


def figures(model: Model) -> dict[str, Any] | None:
    """The model's worst comparison so far, as JSON can hold it; None where there was none.

    Returns:
        difference, bound, spread (of logits), prompt: of the one that comes nearest to its bound; kinds: how many kinds
        of prompts were compared.
    """
    found = [proof for proof in model.proofs.values() if proof is not None]
    if not found:
        return None
    worst = max(found, key=lambda proof: (not proof.holds, proof.difference / max(proof.bound, 1e-30)))
    return {
        "difference": worst.difference,
        "bound": worst.bound,
        "spread": worst.spread,
        "prompt": worst.prompt,
        "kinds": len(found),
    }


def is_due(model: Model, captured: Captured, how: str) -> bool:
    """Whether a clean run of this prompt is to be compared. how: "walk" or "observe", which run differently."""
    return model.check != "off" and _kind(model, captured, how) not in model.proofs


def _kind(model: Model, captured: Captured, how: str) -> tuple[Any, ...]:
    """What the model does differently for one prompt than for another."""
    prompt = captured.prompt
    media = frozenset(prompt.model_inputs or ()) - {"input_ids", "attention_mask"}
    several = len(captured) > captured.columns.n_prompt
    head = id(model.lm_head), model.vocab, model.dtype
    return (how, media, prompt.inputs_embeds is None, prompt.position_ids is None, several, *head)


@torch.no_grad()
def prove(model: Model, captured: Captured, how: str, ours: torch.Tensor) -> None:
    """Compares a clean run's logits [answer tokens, vocab] with those of the model's own forward: one forward.

    In half precision a second one follows where they differ by more than a rounding of the logits: that of the model's
    own other attention (eager beside sdpa), which says what the model itself leaves open.

    Raises:
        UnsupportedModelError: they differ beyond the bound, and `Model.check` is "error".
    """
    kind = _kind(model, captured, how)
    try:
        own = _own_logits(model, captured)  # [answer tokens, vocab], or the first of them
        proof = _compare(model, captured, ours[: len(own)].float(), own)
    except torch.OutOfMemoryError:
        model.proofs[kind] = None
        warn_user(
            f"prompt {captured.prompt.id!r}: the model's own forward does not fit the memory, so that the walk's clean "
            "run could not be compared with it"
        )
        return
    model.proofs[kind] = proof
    if proof.holds:
        return
    message = (
        f"prompt {proof.prompt!r}: the walk's clean run and the model's own forward differ by {proof.difference:.3g} "
        f"in a logit, where {proof.bound:.3g} is the bound (logits spread over {proof.spread:.3g}). The decoder does "
        f'more than a walk carries: {_CAUSES}. check="warn" goes on with numbers that are not the model\'s'
    )
    if model.check == "error":
        del model.proofs[kind]  # the next prompt of its kind is an error too
        raise UnsupportedModelError(message)
    warn_user(message)


def _compare(model: Model, captured: Captured, ours: torch.Tensor, own: torch.Tensor) -> Proof:
    difference = float((ours - own).abs().max())
    spread = float((own.amax(-1) - own.amin(-1)).max())
    if torch.finfo(model.dtype).bits >= 32:
        return Proof(captured.prompt.id, difference, _SHARE * spread, spread)
    bound = torch.finfo(model.dtype).eps * spread
    if not difference <= bound:
        name = model.config._attn_implementation
        other = _own_logits(model, captured, "sdpa" if name == "eager" else "eager")
        bound = max(bound, 2 * float((other - own).abs().max()))
    return Proof(captured.prompt.id, difference, bound, spread)


def _own_logits(model: Model, captured: Captured, attention: str | None = None) -> torch.Tensor:
    """fp32 [answer tokens, vocab] by the model's own forward; [1, vocab] where answers cannot be appended.

    attention: transformers' name of the function; None: the model's own.
    """
    inputs, rows = _inputs(model, captured)

    def last_rows(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, -rows:], *args[1:])

    called = nullcontext() if attention is None else implementation(decoder_configs(model.text_model), attention)
    patched = attributes(model.family.patches(model))
    shortened = pre_hooked(model.lm_head, last_rows)  # not every model takes logits_to_keep
    with shortened, kept_state(model.hf), in_eval_mode(model), patched, called:
        logits = model.hf(**inputs, use_cache=False).logits
    return logits[0, -rows:].float()


def _inputs(model: Model, captured: Captured) -> tuple[dict[str, Any], int]:
    """Arguments of `model.hf` for the prompt and the answer's tokens but the last, and how many rows predict."""
    prompt, n = captured.prompt, captured.columns.n_prompt
    inputs, extra = forward_inputs(model, prompt), len(captured) - n
    if not extra:
        return inputs, 1
    by_token = {name for name, v in inputs.items() if isinstance(v, torch.Tensor) and v.shape[-1:] == (n,)}
    if by_token - {"input_ids", "attention_mask", "position_ids"}:
        return inputs, 1  # what their values for an answer would be, the model knows alone
    ids = torch.tensor([prompt.answer_ids[:extra]], device=model.device)  # [1, extra]
    if "inputs_embeds" in inputs:
        more = model.text_model.embed_tokens(ids).to(inputs["inputs_embeds"].dtype)
        inputs["inputs_embeds"] = torch.cat([inputs["inputs_embeds"], more], 1)
    else:
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    inputs["attention_mask"] = inputs["attention_mask"].new_ones(1, n + extra)
    if captured.positions is not None:
        inputs["position_ids"] = captured.positions
    elif "position_ids" in inputs:
        inputs["position_ids"] = torch.arange(n + extra, device=model.device)[None]
    return inputs, 1 + extra
