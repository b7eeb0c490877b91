"""When an answer is right: one rule, for walks, for the model's own forward, and for logits at hand.

A prompt with options is answered correctly if none of them has a logit above the answer's, at the answer's first token;
one without, if every answer token is the most probable one. The studies have another rule, which sweeps take by name:
the most probable tokens of the whole vocabulary, as text, are the answer, whatever its case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .prompt import Prompt

CORRECT_BY = ("options", "vocabulary")


def leads_options(logits: torch.Tensor, answer: torch.Tensor, options: torch.Tensor) -> torch.Tensor:
    """Whether no option has a logit above the answer's: bool [rows].

    logits: [rows, vocab]. answer: int64 [rows], token ids. options: int64 [rows, options], token ids.
    """
    own = logits.gather(1, answer[:, None])[:, 0]  # [rows]
    return own >= logits.gather(1, options).amax(-1)


def is_correct(prompt: Prompt, leads: bool, top: Sequence[int]) -> bool:
    """leads: of the row that predicts the answer's first token. top: the most probable token of every answer token."""
    return leads if prompt.option_ids is not None else list(top) == list(prompt.answer_ids)


def says_answer(prompt: Prompt, top: Sequence[int], text: Callable[[list[int]], str]) -> bool:
    """The rule of the studies (Map the Flow selects by it): a model that would say anything else is not right.

    Args:
        top: the most probable token of every answer token, of the whole vocabulary. text: ids -> text.
    """
    answer = prompt.answer or text(list(prompt.answer_ids))
    return text(list(top)).strip().lower() == answer.strip().lower()


def answers_correctly(prompt: Prompt, logits: torch.Tensor) -> bool:
    """logits [answer tokens, vocab], row i predicts answer token i; on any device, which is waited for."""
    leads = False
    if prompt.option_ids is not None:
        answer = torch.tensor([prompt.answer_ids[0]], device=logits.device)
        options = torch.tensor([list(prompt.option_ids)], device=logits.device)
        leads = bool(leads_options(logits[:1], answer, options))
    return is_correct(prompt, leads, logits.argmax(-1).tolist())
