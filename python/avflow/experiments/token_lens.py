"""Token lens: which words the hidden states of any tokens say, layer by layer, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import checks
from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..results.schemas import TOKEN_LENS as SCHEMA
from ..runtime.generating import with_generated
from ..walk.capture import Captured, capture
from ..walk.chunks import head_chunk
from ..walk.jobs import members
from .observe import observe
from .under import Cutting, Knockouts, Layers

__all__ = ["SCHEMA", "token_lens"]

MOST_WORDS = 10_000


def tokens_by_group(model: Model, captured: Captured, among: str, every: int = 1) -> dict[str, np.ndarray]:
    """Tokens of each of these groups that the prompt has, answer tokens included: int64 [n], one of `every`.

    Raises:
        InputError: the prompt has none of them.
    """
    group = captured.columns.group
    found = {name: np.flatnonzero(members(1 << model.groups[name], group)) for name in model.groups.members(among)}
    found = {name: at[::every] for name, at in found.items() if len(at)}
    if not found:
        raise InputError(f"prompt {captured.prompt.id!r} has no token of {among!r}: name a group that it has")
    return found


@torch.no_grad()
def token_lens(
    model: Model,
    prompts: PromptSource,
    tokens: str = "media",
    layers: int | Sequence[int] | None = None,
    words: Sequence[int | str] = (),
    keep: int | None = 20,
    every: int = 1,
    generate: int = 0,
    knockouts: Knockouts = None,
    cut_layers: Layers = None,
    check: str | int | None = None,
    labels: Any = None,
) -> Results:
    """What tokens of a group would say: their hidden states through the model's final norm and output matrix.

    For every layer and group, how many of its tokens have a word of the vocabulary as their most probable one (the
    counts of Map the Flow, ICLR 2026, on video tokens), and the word's mean probability over all of them.

    Args:
        prompts: as of `avflow.sweep`.
        tokens: groups, an alias or a sum: "media", "video", "question", "last+answer"; each group is told apart.
        layers: 0-based; None for all.
        words: token ids, or texts of one token, that are listed whether they are counted or not.
        keep: of each layer and group, the so many words that are counted most; None for all that are counted.
        every: only every so many tokens of a group; the output matrix costs as much as several layers for each.
        generate: so many greedily generated tokens take the place of the answer: look at tokens="answer".
        knockouts, cut_layers: what is cut meanwhile, and in which layers (None for all); default: nothing.
        check, labels: as of `avflow.sweep`.

    Returns:
        Results with the columns prompt, task, group, layer, token, token_id, count, tokens (of the group), p (mean).

    Raises:
        InputError: a value out of range, a word of several tokens, a prompt without such tokens.
        NumericError: NaN or infinity in the run.
    """
    check_model(model)
    given = as_prompts(model, prompts, labels=labels)
    model.groups.expand(tokens)
    chosen = layer_list(layers, model.n_layers)
    keep = None if keep is None else checks.integer("keep =", keep, high=10**7, mend="pass a number of words, or None")
    every = checks.integer("every =", every, low=1, high=10**9)
    generate = checks.integer(
        "generate =", generate, high=checks.MOST_TOKENS, mend="pass a number of tokens, 0 for none"
    )
    asked = _word_ids(model, words)
    cutting = Cutting(model, knockouts, cut_layers)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in given:
            prompt = with_generated(model, prompt, generate) if generate else prompt
            rows += _rows(model, prompt, tokens, chosen, asked, keep, every, cutting)
    named = [int(word) for word in asked]
    meta = dict(tokens=tokens, layers=chosen, words=named, keep=keep, every=every, generate=generate)
    return Results.from_tuples("token_lens", rows, **meta, **cutting.meta(), check=figures(model))


def _word_ids(model: Model, words: Sequence[int | str]) -> list[int]:
    given = checks.members(words, MOST_WORDS)
    if given is None or len(given) > MOST_WORDS:
        raise InputError(f"words = {checks.shown(words)}: pass a list of token ids or texts, at most {MOST_WORDS}")
    found = []
    for word in given:
        if not isinstance(word, str):
            found.append(checks.integer("a word's token id", word, high=model.vocab - 1))
            continue
        tokenizer = getattr(model.processor, "tokenizer", model.processor)
        if tokenizer is None:
            raise InputError(f"word {word!r}: the model has no tokenizer; pass token ids")
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(f"word {word!r} is {len(ids)} tokens: pass a text of one, or the id of its first")
        found.append(int(ids[0]))
    return list(dict.fromkeys(found))


def _rows(
    model: Model,
    prompt: Prompt,
    among: str,
    layers: list[int],
    words: list[int],
    keep: int | None,
    every: int,
    cutting: Cutting,
) -> list[tuple]:
    captured = capture(model, prompt)
    groups = tokens_by_group(model, captured, among, every)
    on_device = {name: torch.from_numpy(at).to(model.device) for name, at in groups.items()}
    rows: list[tuple] = []

    def see(layer: int, hidden: torch.Tensor) -> None:
        for name, at in on_device.items():
            counts, p = _said(model, hidden.index_select(0, at))
            found = counts.nonzero()[:, 0]
            # By count, then by probability: words counted once are many.
            order = np.lexsort((-p[found].cpu().numpy(), -counts[found].cpu().numpy()))
            listed = found.cpu().numpy()[order][:keep].tolist()
            for token in dict.fromkeys([*listed, *words]):
                where = (prompt.id, prompt.task, name, layer, model.text([token]), token)
                rows.append((*where, int(counts[token]), len(at), float(p[token])))

    observe(model, captured, on_hidden=see, layers=layers, cuts=cutting)
    return rows


def _said(model: Model, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each word is the most probable one, int64 [vocab], and its mean probability, float64; of [n, D]."""
    counts, p = None, None
    for part in states.split(head_chunk(model)):
        logits = model.logits(part[None])[0].float()  # [rows, vocab]
        here = torch.bincount(logits.argmax(-1), minlength=logits.shape[-1])
        mass = logits.softmax(-1).double().sum(0)
        counts, p = (here, mass) if counts is None or p is None else (counts + here, p + mass)
    assert counts is not None and p is not None
    return counts, p / len(states)
