"""What a comparison of avflow's run with the model's own gave, and what comes of it.

Each model and kind of prompt is compared once, by `walk.proof` and `runtime.proof`; `Model.check` says what a
difference beyond the bound is: an "error", a reason to "warn", or not looked for ("off").
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import checks
from ..errors import InputError, UnsupportedModelError, warn_user
from .base import Model

CHECKS = ("error", "warn", "off")
_SHARE = 1e-3  # of the logits' spread, fp32
# Named in the error: what the checks before a run cannot see.
_CAUSES = (
    "something between the layers or behind them, tables of positions that differ by layer, a hook, or attention that "
    "is not what transformers was asked for"
)

OwnLogits = Callable[[bool], torch.Tensor]  # fp32 [rows, vocab]; True: by the model's other attention, see `other`


class NotComparable(Exception):
    """There is no run to compare; its text says why. once: with this prompt, and the next of its kind is tried."""

    def __init__(self, why: str, once: bool = False) -> None:
        super().__init__(why)
        self.once = once


def other(attention: str) -> str:
    """transformers' name of the function to compare a model's own attention with."""
    return "sdpa" if attention == "eager" else "eager"


@dataclass(frozen=True)
class Proof:
    """The worst comparison of a kind: the largest difference of logits, the bound on it, and the logits' spread.

    compared: how many prompts of the kind were compared.
    """

    prompt: str
    difference: float
    bound: float
    spread: float
    compared: int = 1

    @property
    def holds(self) -> bool:
        return self.difference <= self.bound  # False for NaN

    @property
    def nearness(self) -> tuple[bool, float]:
        """Larger: nearer to the bound, or further beyond it."""
        return not self.holds, self.difference / max(self.bound, 1e-30)


def parse_check(check: Any) -> str | int:
    """One of CHECKS, or N: every N-th prompt is compared too. Raises InputError."""
    if hasattr(check, "__index__") and not isinstance(check, bool):
        return checks.integer("check =", check, low=1, mend="pass N of at least 1: every N-th prompt is compared")
    if not isinstance(check, str) or check not in CHECKS:
        words = ", ".join(CHECKS)
        raise InputError(f"check = {checks.shown(check)}: pass one of {words}, or N: every N-th prompt is compared too")
    return check


@contextmanager
def checking(model: Model, check: str | int | None) -> Iterator[None]:
    """`Model.check` and `Model.check_every` for as long as the block lasts; None leaves them.

    check: one of CHECKS; or N, to compare every N-th prompt too, beside the first of each kind.

    Raises:
        InputError: neither.
    """
    if check is None:
        checks.choice("check", model.check, CHECKS)
        yield
        return
    found, before = parse_check(check), (model.check, model.check_every)
    if isinstance(found, str):
        model.check = found
    else:
        model.check_every, model.check = found, "error" if model.check == "off" else model.check
    try:
        yield
    finally:
        model.check, model.check_every = before


def figures(model: Model) -> dict[str, Any] | None:
    """The model's worst comparison so far, as JSON can hold it; None where there was none.

    Returns:
        difference, bound, spread (of logits), prompt: of the one that comes nearest to its bound; kinds: how many kinds
        of prompts were compared; compared: how many prompts.
    """
    found = [proof for proof in model.proofs.values() if proof is not None]
    if not found:
        return None
    worst = max(found, key=lambda proof: proof.nearness)
    return {
        "difference": worst.difference if math.isfinite(worst.difference) else sys.float_info.max,  # JSON has no NaN
        "bound": worst.bound,
        "spread": worst.spread,
        "prompt": worst.prompt,
        "kinds": len(found),
        "compared": compared(model),
    }


def compared(model: Model) -> int:
    """How many prompts were compared so far."""
    return sum(proof.compared for proof in model.proofs.values() if proof is not None)


def described(check: Mapping[str, Any]) -> str:
    """What `figures` gave, as a sentence's end: "1.2e-06 in a logit at most (bound ...)"."""
    compared, kinds = check.get("compared", 1), check.get("kinds", 1)
    return (
        f"{check['difference']:.1e} in a logit at most (bound {check['bound']:.1e}; prompt {check['prompt']}; "
        f"{compared} compared, of {kinds} {'kind' if kinds == 1 else 'kinds'})"
    )


def turn(model: Model) -> bool:
    """Counts a prompt; whether it is the N-th one of `Model.check_every`."""
    model.read += 1
    return model.check_every is not None and (model.read - 1) % model.check_every == 0


def is_due(model: Model, kind: tuple[Any, ...], nth: bool = False) -> bool:
    """Whether a prompt of this kind is to be compared. nth: what `turn` said of it."""
    return model.check != "off" and (nth or kind not in model.proofs)


def prove(
    model: Model, kind: tuple[Any, ...], prompt: str, what: str, ours: Callable[[], torch.Tensor], own: OwnLogits
) -> None:
    """Compares logits [rows, vocab] of a run of avflow that cuts nothing with the model's own.

    In half precision a second own run follows where they differ by more than a rounding of the logits: that of the
    model's own other attention (eager beside sdpa), which says what the model itself leaves open.

    Args:
        prompt: its id. what: for messages, which run of avflow's it is: "prompt 'a': the walk's clean run".

    Raises:
        UnsupportedModelError: they differ beyond the bound, and `Model.check` is "error".
    """
    try:
        proof = _compare(model, prompt, ours, own)
    except (torch.OutOfMemoryError, NotComparable) as error:
        if not getattr(error, "once", False):
            model.proofs[kind] = None  # prompts of this kind are not tried again
        why = str(error) if isinstance(error, NotComparable) else "it does not fit the memory"
        warn_user(f"{what} could not be compared with the model's own forward: {why}")
        return
    before = model.proofs.get(kind)
    if before is not None:
        compared = before.compared + 1
        model.proofs[kind] = replace(max(proof, before, key=lambda one: one.nearness), compared=compared)
    else:
        model.proofs[kind] = proof
    if proof.holds:
        return
    message = (
        f"{what} and the model's own forward differ by {proof.difference:.3g} "
        f"in a logit, where {proof.bound:.3g} is the bound (logits spread over {proof.spread:.3g}). The decoder does "
        f'more than avflow carries: {_CAUSES}. check="warn" goes on with numbers that are not the model\'s'
    )
    if model.check == "error":
        del model.proofs[kind]  # the next prompt of its kind is an error too
        raise UnsupportedModelError(message)
    warn_user(message)


def _compare(model: Model, prompt: str, ours: Callable[[], torch.Tensor], own: OwnLogits) -> Proof:
    theirs = own(False)
    difference = float((ours()[: len(theirs)].float() - theirs).abs().max())
    spread = float((theirs.amax(-1) - theirs.amin(-1)).max())
    if torch.finfo(model.dtype).bits >= 32:
        return Proof(prompt, difference, _SHARE * spread, spread)
    bound = torch.finfo(model.dtype).eps * spread
    if not difference <= bound:
        bound = max(bound, 2 * float((own(True) - theirs).abs().max()))
    return Proof(prompt, difference, bound, spread)
