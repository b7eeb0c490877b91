"""Activation patching: states of another run at some tokens and layers, and what the answer then is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import checks
from ..data.prepare import PromptSource, as_prompts
from ..errors import InputError
from ..knockouts.windows import WindowStyle, layer_list, window
from ..models.attention import kernel_name
from ..models.base import Model, check_model
from ..models.compat import check_layers
from ..models.proof import checking, figures
from ..progress import Progress
from ..prompts.correct import is_correct
from ..prompts.label_hook import Labels
from ..prompts.prompt import Prompt
from ..prompts.relabel import warn_of_left
from ..results.results import Results
from ..results.schemas import PATCH as SCHEMA
from ..walk.answers import Answer
from ..walk.capture import Captured, capture
from ..walk.edits import Part
from ..walk.memory import parse_bytes
from ..walk.patched import PatchJob, PatchWalks, SiteRows
from .patch_means import site_means
from .patch_sites import PatchSite, as_sites
from .patch_sources import PatchSource, as_source
from .sweep_plan import SELECT, Window

__all__ = ["SCHEMA", "PatchSite", "PatchSource", "patch"]

DIRECTIONS = ("noise", "denoise")
CLEAN_FIRST_RATIO = 4.0  # patching dearer than this asks first whether the prompt is wanted at all


@dataclass
class _Asked:
    """What `patch` was asked for, checked."""

    source: PatchSource
    sites: list[PatchSite]
    windows: list[Window]
    denoise: bool
    select: str
    memory: int | None
    labels: Labels | None = None
    means: dict[str, torch.Tensor] | None = None  # of the source "mean", by site: [layers, ...]


def patch(
    model: Model,
    prompts: PromptSource,
    source: str | PatchSource | Sequence[str | PatchSource],
    sites: str | PatchSite | Sequence[str | PatchSite] = ("video", "audio", "question", "last"),
    part: Part = "residual",
    window: int = 1,
    style: WindowStyle = "center",
    layers: Any = None,
    direction: str = "noise",
    select: str = "correct",
    memory: int | str | None = None,
    progress: bool = False,
    check: str | int | None = None,
    labels: Any = None,
) -> Results:
    """Puts the states of another run at each site in each window of layers, and reads the answer's probability.

    Activation patching, or causal tracing. Every cell is exact: the model computes all that follows from the patched
    states. Only tokens from the site's first one on are computed anew, in streams beside the two runs.

    Args:
        prompts: as of `avflow.sweep`; their answers are measured.
        source: where the states come from: "silence", "black", "silence+black", "noise 3", "zero", or a `PatchSource`
            for other prompts, means or a vector that is added.
        sites: names of groups, with items, heads or a part ("video[0-3]", "last (heads 1,5)", "last (mlp)"), or each a
            `PatchSite`. part: of a layer, for sites that name none:
            "residual" (its output), "attention" (what its heads give, before the output matrix) or "mlp" (its output).
        window: width of the window in layers; the part is patched in each of them. style, layers: as of `avflow.sweep`.
        direction: "noise": states of the source go into the prompt's run. "denoise": states of the prompt's run go into
            the source's, which is the one that is patched.
        select: prompts that the model answers "correct"ly, "wrong"ly, or "all"; of both directions, its run as given.
        memory, progress, check, labels: as of `avflow.sweep`; labels of the prompts that give the states too.

    Returns:
        Results with a row per prompt x site x window centre: p_base, p_patched, p_source (of the run that is patched,
        before and after, and of the one that gives the states), change_percent, carried, top_base, correct, ...;
        `avflow.plots.flow` and the statistics of a sweep take it, with sites for paths. `.meta["prompts"]` tells of
        every prompt.

    Raises:
        InputError: a value out of range, groups, heads or layers that the model does not have, too little memory; a
            site with another number of tokens in the two runs. NumericError: NaN or infinity in a run.
    """
    hook = Labels.of(labels)
    if hook is not None:
        hook.declare(model.groups)  # sites may name its groups
    asked = _asked(model, source, sites, part, window, style, layers, direction, select, memory)
    asked.labels = hook
    rows: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    with checking(model, check):
        given = as_prompts(model, prompts, labels=hook)
        asked.source.check_count(given.count)
        if asked.source.kind == "mean":
            asked.means = site_means(model, asked.source.prompts, asked.sites, hook)
        with Progress(given.count, unit="prompt", quiet=not progress, doing="patch") as bar:
            for number, prompt in enumerate(given):
                found, info = _patch_prompt(model, prompt, number, asked, bar.begin(1))
                rows += found
                infos.append(info)
                bar.finish()
    meta = {
        "experiment": "patch",
        "source": asked.source.name,
        "sites": [site.name for site in asked.sites],
        "window": window,
        "style": style,
        "layers": [one.centre for one in asked.windows],
        "direction": direction,
        "select": select,
        "kernel": kernel_name(model.device),
        "check": figures(model),
        "prompts": infos,
    }
    return Results.from_rows(rows, meta, SCHEMA)


def _asked(
    model: Model,
    source: Any,
    sites: Any,
    part: Part,
    width: int,
    style: WindowStyle,
    layers: Any,
    direction: str,
    select: str,
    memory: int | str | None,
) -> _Asked:
    check_model(model)
    check_layers(model.text_model)
    source, chosen = as_source(source), as_sites(sites, part)
    for one in (source, *chosen):
        one.check(model)
    checks.choice("direction", direction, DIRECTIONS)
    checks.choice("select", select, SELECT)
    if direction == "denoise" and not source.is_run:
        raise InputError(f'direction "denoise" patches another run, and {source.name!r} is none: leave direction out')
    centres = layer_list(layers, model.n_layers)
    windows = [Window(c, window(c, width, style, model.n_layers), width) for c in centres]
    budget = None if memory is None else parse_bytes(memory)
    return _Asked(source, chosen, windows, direction == "denoise", select, budget)


def _shape(model: Model, part: Part) -> tuple[int, ...]:
    return (model.n_heads, model.head_dim) if part == "attention" else (model.config.hidden_size,)


def _site_rows(model: Model, asked: _Asked, site: PatchSite, base: Captured, other: Captured | None) -> SiteRows | None:
    """The site in one prompt; None where the prompt has no token of it."""
    orders = site.orders(model, base.columns)
    if not len(orders):
        return None
    if other is not None:
        there = site.orders(model, other.columns)
        if len(there) != len(orders):
            raise InputError(
                f"prompt {base.prompt.id!r}: {site.name!r} has {len(orders)} tokens where it is patched and "
                f"{len(there)} in the run that gives the states ({asked.source.name}): both must have as many, such as "
                "media of one length; or patch another site"
            )
        return SiteRows(site.part, orders, there, heads=site.heads)
    shape = _shape(model, site.part)
    if asked.source.kind == "zero":
        zero = torch.zeros(shape)
        return SiteRows(site.part, orders, value=lambda layer: zero, heads=site.heads)
    if asked.source.kind == "mean":
        assert asked.means is not None
        means = asked.means[site.name]
        return SiteRows(site.part, orders, value=lambda layer: means[layer], heads=site.heads)
    steer = functools.partial(asked.source.steering, n_layers=model.n_layers, shape=shape)
    return SiteRows(site.part, orders, value=steer, add=True, heads=site.heads)


def _patch_prompt(
    model: Model, prompt: Prompt, number: int, asked: _Asked, tick: Callable[[float], None]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of one prompt, none where it is not selected, and what to tell of it."""
    warn_of_left(prompt, [site.group for site in asked.sites], model.groups, model.warned)
    own = capture(model, prompt)
    other = asked.source.run(model, own, number, asked.labels) if asked.source.is_run else None
    base, source = (other, own) if asked.denoise and other is not None else (own, other)
    sites = [_site_rows(model, asked, site, base, source) for site in asked.sites]
    there = [site for site in sites if site is not None]
    placed = {index: at for at, index in enumerate(i for i, site in enumerate(sites) if site is not None)}
    jobs = [PatchJob(at, one.layers) for at in placed.values() for one in asked.windows if one.layers]
    walks = PatchWalks(model, base, source, there, list(dict.fromkeys(jobs)), asked.memory)

    def is_right() -> bool:
        answer = walks.clean[1 if asked.denoise else 0]
        return is_correct(prompt, answer.option, answer.top)

    ratio = walks.ratio
    wanted = True
    if asked.select != "all":
        if ratio > CLEAN_FIRST_RATIO:
            walks.run_clean()
            wanted = is_right() == (asked.select == "correct")
    if wanted:
        walks.run(tick)
        wanted = asked.select == "all" or is_right() == (asked.select == "correct")
    info = {
        "prompt": prompt.id,
        "selected": wanted,
        "correct": is_right(),
        "p_base": math.exp(sum(walks.clean[0].logp)),
        "tokens": len(base),
        "shared": walks.shared,
        "ratio": ratio,
        "walks": len(walks.walks),
    }
    return list(_rows(model, prompt, asked, walks, placed, is_right())) if wanted else [], info


def _rows(
    model: Model, prompt: Prompt, asked: _Asked, walks: PatchWalks, placed: dict[int, int], correct: bool
) -> Iterator[dict[str, Any]]:
    kernel, answer = kernel_name(model.device), prompt.answer or model.text(list(prompt.answer_ids))
    base, source = walks.clean[0], walks.clean[1] if len(walks.clean) > 1 else None

    @functools.cache
    def text(token: int) -> str:
        return model.text([token])

    for index, site in enumerate(asked.sites):
        for centre, layers, width in asked.windows:
            status, after = "ok", base
            if index not in placed:
                status = f"no token: {site.group}" + ("" if site.items is None else " of these items")
            elif not layers:
                status = "no layer in the window"
            else:
                after = walks.patched.get(PatchJob(placed[index], layers), base)
            logp = sum(base.logp)
            found = None if index not in placed else sum(after.logp)
            given = None if source is None else sum(source.logp)
            yield {
                "prompt": prompt.id,
                "task": prompt.task,
                "site": site.name,
                "part": site.part,
                "source": asked.source.name,
                "layer": centre,
                "window": width,
                "first_layer": min(layers, default=None),
                "last_layer": max(layers, default=None),
                "answer": answer,
                "p_base": math.exp(logp),
                "p_patched": None if found is None else math.exp(found),
                "p_source": None if given is None else math.exp(given),
                "logp_base": logp,
                "logp_patched": found,
                "logp_source": given,
                # from the logarithms: right also where both probabilities underflow
                "change_percent": None if found is None else 100 * math.expm1(min(found - logp, 700.0)),
                "carried": _carried(logp, found, given),
                "top_base": text(base.top[0]),
                "top_patched": None if found is None else text(after.top[0]),
                "top_source": None if source is None else text(source.top[0]),
                "correct": correct,
                "correct_patched": None if found is None else _right(prompt, after),
                "status": status,
                "kernel": kernel,
            }


def _right(prompt: Prompt, answer: Answer) -> bool:
    return is_correct(prompt, answer.option, answer.top)


def _carried(base: float, patched: float | None, source: float | None) -> float | None:
    """What share of the way from one run to the other is gone; None where the two are one within fp32's noise."""
    if patched is None or source is None or not np.isfinite([base, source]).all() or abs(source - base) < 1e-4:
        return None
    return (patched - base) / (source - base)
