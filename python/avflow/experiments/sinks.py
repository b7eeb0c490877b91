"""Attention sinks: few media tokens with hidden states far longer than the rest, which draw attention for nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import checks
from ..data.prepare import PromptSource, as_prompt, as_prompts
from ..errors import InputError
from ..knockouts.windows import layer_list
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..models.windows import layer_windows
from ..prompts.prompt import Prompt
from ..prompts.relabel import warn_of_left
from ..results.results import Results
from ..results.schemas import SINKS as SCHEMA
from .observe import observe

__all__ = ["SCHEMA", "mark_sinks", "sinks"]

GROUP = "sink"


def sinks(
    model: Model,
    prompts: PromptSource,
    layers: int | Sequence[int] | None = None,
    times: float = 10.0,
    among: str = "media",
    check: str | int | None = None,
    labels: Any = None,
) -> Results:
    """Tokens of a group whose hidden state's L2 norm exceeds `times` the group's median norm, layer by layer.

    The criterion of arXiv 2606.10147 (sparse visual tokens, generally the first of a frame, with a much larger norm
    than the rest), with its threshold left to you.

    Args:
        prompts: as of `avflow.sweep`.
        layers: 0-based; None for all.
        times: ratio to the median from which on a norm counts, above 1.
        among: the tokens that are looked at: a group, an alias or a sum.
        check, labels: as of `avflow.sweep`.

    Returns:
        Results with the columns prompt, task, layer, position, group, item, place, norm, ratio, drawn: a row per sink
        and layer. drawn: what the last token's attention, mean over heads, gives it in the layer whose output has the
        norm.

    Raises:
        InputError: no token of `among` in a prompt, layers that the model does not have, `times` not above 1.
    """
    check_model(model)
    times = checks.number("times =", times, low=1, above=True, mend="pass a ratio above 1")
    given = as_prompts(model, prompts, labels=labels)
    wanted = model.groups.expand(among)
    chosen = layer_list(layers, model.n_layers)
    rows: list[tuple] = []
    with checking(model, check):
        for prompt in given:
            warn_of_left(prompt, [among], model.groups, model.warned)
            group = model.groups.ids(prompt.groups)
            tokens = np.flatnonzero(model.groups.table(wanted)[group])
            if not tokens.size:
                raise InputError(f"prompt {prompt.id!r} has no token of {among!r}: name a group that it has")
            rows += _rows(model, prompt, tokens, chosen, times)
    return Results.from_tuples("sinks", rows, layers=chosen, times=times, among=among, check=figures(model))


def _rows(model: Model, prompt: Prompt, tokens: np.ndarray, layers: Sequence[int], times: float) -> list[tuple]:
    """The rows of one prompt; tokens: those that are looked at, int64 [tokens]."""
    rows: list[tuple] = []
    places = _places(prompt)
    windows = layer_windows(model.text_model)
    drawn: dict[int, np.ndarray] = {}  # by layer, float32 [n]

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> None:
        last = q[len(prompt) - 1].unflatten(0, (k.shape[1], -1)).float()  # [kv_heads, heads a kv head, d]
        score = scale * torch.einsum("hgd,nhd->hgn", last, k[: len(prompt)].float())
        if (window := windows[layer]) is not None:
            score[..., : max(0, len(prompt) - window)] = -torch.inf
        drawn[layer] = score.softmax(-1).mean((0, 1)).cpu().numpy()  # [n]; it sees every other token

    def see(layer: int, hidden: torch.Tensor) -> None:
        norm = hidden[torch.from_numpy(tokens).to(hidden.device)].float().norm(dim=-1).cpu().numpy()  # [tokens]
        ratio = norm / np.median(norm)
        for i in np.flatnonzero(ratio > times):
            t = int(tokens[i])
            where = (prompt.id, prompt.task, layer, t, prompt.groups[t], prompt.items[t], places[t])
            rows.append((*where, float(norm[i]), float(ratio[i]), float(drawn[layer][t])))

    observe(model, prompt, on_attention=attend, on_hidden=see, layers=layers)
    return rows


def _places(prompt: Prompt) -> list[int | None]:
    """How many tokens of the same group and item stand before each token."""
    seen: dict[tuple[str, int], int] = {}
    out: list[int | None] = []
    for group, item in zip(prompt.groups, prompt.items, strict=True):
        if item < 0:
            out.append(None)
            continue
        place = seen.get((group, item), 0)
        out.append(place)
        seen[group, item] = place + 1
    return out


def mark_sinks(model: Model, prompt: PromptSource, tokens: Sequence[int]) -> Prompt:
    """The prompt with these tokens in a group of their own, "sink", which knockouts and shares can name.

    Args:
        prompt: a Prompt, a Sample, or what holds exactly one.
        tokens: positions in the prompt, as in the column `position` of `avflow.sinks`.

    They no longer belong to their old group, nor to its aliases: write "video+sink" for all of a video's tokens.

    Raises:
        InputError: a token outside the prompt, or the last one.
    """
    check_model(model)
    prompt = as_prompt(model, prompt)
    groups = list(prompt.groups)
    given = checks.members(tokens, len(groups))
    if given is None:
        raise InputError(f"tokens = {checks.shown(tokens)}: pass positions in the prompt, 0 .. {len(groups) - 2}")
    mend = f"it cannot be a sink: pass 0 .. {len(groups) - 2}"
    at = [checks.integer(f"prompt {prompt.id!r}: token", t, high=len(groups) - 2, mend=mend) for t in given]
    model.groups.add(GROUP)
    for token in at:
        groups[token] = GROUP
    return dataclasses.replace(prompt, groups=groups)
