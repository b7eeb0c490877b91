"""Attention allocation: what share of a token's attention each token group receives, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from avflow_ext import AttentionProblem, Cut

from .. import checks
from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..models.windows import layer_windows
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..results.schemas import ATTENTION_SHARE as SCHEMA
from ..runtime.generating import with_generated
from ..walk.capture import capture
from .observe import group_mass, observe, predicting_rows, tokens_of
from .under import Cutting, Knockouts, Layers

__all__ = ["SCHEMA", "attention_share"]


def attention_share(
    model: Model,
    prompts: PromptSource,
    layers: int | Sequence[int] | None = None,
    tokens: str = "last",
    generate: int = 0,
    heads: bool = False,
    check: str | int | None = None,
    knockouts: Knockouts = None,
    cut_layers: Layers = None,
    labels: Any = None,
) -> Results:
    """The share of attention per token group (arXiv 2606.10147, attention allocation), accumulated by the op itself.

    One clean pass a prompt; no attention matrix is made.

    Args:
        prompts: as of `avflow.sweep`.
        layers: 0-based; None for all.
        tokens: "last": the position that predicts the answer; "answer": that one and the answer's tokens but the last,
            teacher-forced.
        generate: so many greedily generated tokens take the place of the answer (with tokens="answer").
        heads: a row for every query head instead of their mean.
        check, labels: as of `avflow.sweep`.
        knockouts, cut_layers: what is cut meanwhile, and in which layers (None for all); default: nothing. Shares are
            then of the edges that are left.

    Returns:
        Results with the columns prompt, task, layer, answer_token, token, head, group, share: for every layer, token
        (and head) the shares of the groups that occur add up to 1. answer_token: 0 for the last token of the prompt,
        i for the answer's i-th; token: its text.

    Raises:
        InputError: layers that the model does not have, no prompts, two of one id.
        NumericError: NaN or infinity in the run.
    """
    check_model(model)
    checks.choice("tokens", tokens, ("last", "answer"))
    checks.flag("heads =", heads)
    generate = checks.integer(
        "generate =", generate, high=checks.MOST_TOKENS, mend="pass a number of tokens, 0 for none"
    )
    if generate and tokens == "last":
        raise InputError('generate asks for generated tokens: pass tokens="answer" with it')
    chosen = layer_list(layers, model.n_layers)
    cutting = Cutting(model, knockouts, cut_layers)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in as_prompts(model, prompts, labels=labels):
            prompt = with_generated(model, prompt, generate) if generate else prompt
            _add(rows, model, prompt, chosen, tokens, heads, cutting)
    return Results.from_tuples(
        "attention_share",
        rows,
        layers=chosen,
        tokens=tokens,
        generate=generate,
        heads=bool(heads),
        **cutting.meta(),
        check=figures(model),
    )


def _add(
    out: list[tuple],
    model: Model,
    prompt: Prompt,
    layers: list[int],
    tokens: str,
    heads: bool,
    cutting: Cutting,
) -> None:
    captured = capture(model, prompt)
    rows = predicting_rows(captured)[: 1 if tokens == "last" else None]
    names = model.groups.names
    columns = tokens_of(captured)
    windows = layer_windows(model.text_model)

    @functools.cache
    def problem(cuts: tuple[Cut, ...], window: int | None) -> AttentionProblem:
        return AttentionProblem(rows=columns, keep_rows=rows, groups=len(names), cuts=cuts, window=window)

    present = sorted(set(captured.columns.group.tolist()))
    texts = ["", *(model.text([i]) for i in prompt.answer_ids[: len(rows) - 1])]

    def see(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> None:
        mass = group_mass(q, k, v, problem(cutting(layer), windows[layer]), scale)  # [rows, heads, groups]
        mass = mass if heads else mass.mean(1, keepdim=True)
        for token, by_head in enumerate(mass.cpu().tolist()):
            for head, by_group in enumerate(by_head):
                for group in present:
                    where = (prompt.id, prompt.task, layer, token, texts[token], head if heads else None)
                    out.append((*where, names[group], by_group[group]))

    observe(model, captured, on_attention=see, layers=layers, cuts=cutting)
