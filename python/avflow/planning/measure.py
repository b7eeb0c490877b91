"""What a plan measures: whether known answers stay right, the next token's distribution, or a score of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .. import checks
from ..checks import MOST_TOKENS
from ..errors import InputError
from ..prompts.prompt import Prompt

Metric = Callable[[Prompt, str], float]  # (prompt, generated text) -> 0 .. 1


@dataclass(frozen=True)
class Measure:
    """One of three: answers (neither argument), KL (max_kl), a metric.

    Args:
        max_kl: nats; a prompt counts as right where the next token's distribution after it is no further than this
            from the clean run's, KL(clean || evicted). Its answer is not looked at.
        metric: scores generated text, 0 .. 1. max_new_tokens: of that text, at most.

    Raises:
        InputError: a value out of range, or both.
    """

    max_kl: float | None = None
    metric: Metric | None = None
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        if self.max_kl is not None and self.metric is not None:
            raise InputError("max_kl and metric: a plan measures one of them, leave the other out")
        if self.metric is not None and not callable(self.metric):
            raise InputError(
                f"metric = {checks.shown(self.metric)}: pass a function (prompt, text) -> float from 0 to 1"
            )
        if self.max_kl is not None:
            mend = "pass nats above 0, such as 0.05"
            object.__setattr__(self, "max_kl", checks.number("max_kl =", self.max_kl, above=True, mend=mend))
        mend = "pass a number of tokens, 1 or more"
        count = checks.integer("max_new_tokens =", self.max_new_tokens, low=1, high=MOST_TOKENS, mend=mend)
        object.__setattr__(self, "max_new_tokens", count)

    @property
    def kind(self) -> Literal["answers", "kl", "metric"]:
        """Its name in a schedule's figures."""
        return "kl" if self.max_kl is not None else "answers" if self.metric is None else "metric"

    def score(self, prompt: Prompt, text: str) -> float:
        """The metric's value. Raises InputError where it is no number of 0 .. 1."""
        assert self.metric is not None  # who asks for a score has one
        value: Any = self.metric(prompt, text)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number <= 1:
            raise InputError(
                f"the metric gave {checks.shown(value)} for prompt {prompt.id!r}: it must give a number from 0 to 1, "
                "which a limit of its mean needs; divide by its range"
            )
        return number
