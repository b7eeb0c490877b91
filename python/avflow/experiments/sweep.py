"""The sweep: every knockout in every window on every prompt, in as few walks as the memory allows."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import checks
from ..data.prepare import PromptSource, as_prompts, reason
from ..errors import InputError
from ..knockouts.knockout import Semantics
from ..knockouts.windows import WindowStyle
from ..models.attention import kernel_name
from ..models.base import Model, check_model
from ..models.proof import checking, figures
from ..progress import Progress
from ..prompts.prompt import Prompt
from ..results.results import Results
from ..walk.answers import Answer, Runner
from ..walk.capture import Captured, begin_capture, check_embeddings
from ..walk.jobs import Job
from ..walk.memory import fixed_bytes, row_bytes
from ..walk.packing import packs
from .cheaper import check_summary
from .sweep_plan import Plan, SweepRequest

__all__ = ["SweepRequest", "SweepRows", "estimate", "sweep", "sweep_prompt", "sweep_prompts"]

CLEAN_FIRST_RATIO = 2.0  # a sweep dearer than this asks the clean model first whether the sample is wanted at all


@dataclass
class SweepRows:
    """One prompt's part of the result.

    rows: dicts with the columns of the result table; empty where the prompt was not selected.
    info: prompt, selected, correct, p_clean, logp_clean, tokens, ratio, walks, kernel, seconds.
    """

    rows: list[dict[str, Any]]
    info: dict[str, Any] = field(default_factory=dict)


def _rows_of(plan: Plan, runner: Runner, prompt: int) -> list[dict[str, Any]]:
    p, model, clean = plan.prompts[prompt], plan.model, runner.clean[prompt]
    correct, own = runner.correct(prompt), plan.request.target == "own"
    kernel = kernel_name(model.device)
    key = p.answer or model.text(list(p.answer_ids))
    logp_clean, logp_key = clean.own if own else sum(clean.logp), sum(clean.logp)
    texts: dict[int, str] = {}

    def text(token: int) -> str:
        return texts.setdefault(token, model.text([token]))

    rows = []
    for k, (centre, layers, width) in plan.asked[prompt]:
        knockout, status = plan.request.knockouts[k], plan.status[prompt][k]
        job, shown = plan.job(prompt, k, layers), status
        if status == "ok" and not layers:
            shown = "no layer in the window"
        cut = runner.cut[job] if job else clean
        there = not status.startswith("no token")
        logp = _logp(plan, runner, prompt, job, own) if there else None
        logp_cut_key = _logp(plan, runner, prompt, job, False) if own and there else None
        rows.append(
            {
                "prompt": p.id,
                "task": p.task,
                "knockout": knockout.name,
                "layer": centre,
                "window": width,
                "first_layer": min(layers, default=None),
                "last_layer": max(layers, default=None),
                "answer": text(clean.own_token) if own else key,
                "p_clean": math.exp(logp_clean),
                "p_knockout": None if logp is None else math.exp(logp),
                "logp_clean": logp_clean,
                "logp_knockout": logp,
                "change_percent": _change(logp, logp_clean),
                "top_clean": text(clean.top[0]),
                "top_knockout": None if logp is None else text(cut.top[0]),
                "correct": correct,
                "correct_knockout": None if logp is None else runner.correct(prompt, job),
                "status": shown,
                "kernel": kernel,
                "target": plan.request.target,
                "key": key if own else None,
                "p_clean_key": math.exp(logp_key) if own else None,
                "p_knockout_key": None if logp_cut_key is None else math.exp(logp_cut_key),
                "change_percent_key": _change(logp_cut_key, logp_key),
            }
        )
    return rows


def _change(logp: float | None, clean: float) -> float | None:
    """In percent of the clean probability; from the logarithms: right also where both probabilities underflow."""
    return None if logp is None else 100 * math.expm1(min(logp - clean, 700.0))


def _logp(plan: Plan, runner: Runner, prompt: int, job: Job | None, own: bool) -> float:
    """Of a job's run, None: of the clean one; of an estimate the clean one's and what the job changes without media.

    own: of the token that the model itself says; else of the key.
    """

    def of(answer: Answer) -> float:
        return answer.own if own else sum(answer.logp)

    clean = of(runner.clean[prompt])
    if job is None:
        return clean
    beside = plan.beside(job)
    if beside is None:
        return of(runner.cut[job])
    return min(0.0, clean + of(runner.cut[job]) - of(runner.cut[beside]))


def _checks_of(plan: Plan, runner: Runner, prompt: int) -> list[list[Any]]:
    """[knockout, layer, width, change estimated, change exact] in percent, of the cells that were run both ways."""
    own, found = plan.request.target == "own", []
    clean = _logp(plan, runner, prompt, None, own)
    for k, one in plan.checked(prompt):
        both = [plan.job(prompt, k, one.layers, exact) for exact in (False, True)]
        changes = [_change(_logp(plan, runner, prompt, job, own), clean) for job in both]
        found.append([plan.request.knockouts[k].name, one.centre, one.width, *changes])
    return found


def sweep_prompts(
    model: Model, prompts: Sequence[Prompt], request: SweepRequest, tick: Callable[[float], None] | None = None
) -> list[SweepRows]:
    """Sweeps prompts that share walks; the same rows as one by one, in the order of the prompts.

    tick: called after each layer, with the share of the work that it was.
    """
    began = time.perf_counter()
    batch = [begin_capture(model, prompt) for prompt in prompts]
    plan = Plan(model, prompts, request, [captured.columns for captured in batch])
    plan.lay_out_beside()
    for captured in batch:
        check_embeddings(captured)
    return _sweep(model, batch, plan, began, tick)


def _sweep(
    model: Model, batch: Sequence[Captured], plan: Plan, began: float, tick: Callable[[float], None] | None
) -> list[SweepRows]:
    request = plan.request
    runner = Runner(plan, batch, tick, correct_by=request.correct_by, own=request.target == "own")
    walks = range(len(plan.walks))
    if request.select != "all" and plan.is_dearer_than(CLEAN_FIRST_RATIO):
        runner.run(plan.layouts[0].clean_only())
        walks = walks if len(runner.wanted(request.select)) == len(batch) else range(0)
    for walk in walks:
        runner.run_walk(walk)
    wanted, seconds = runner.wanted(request.select), (time.perf_counter() - began) / len(batch)
    out = [SweepRows([], _info(runner, p, seconds)) for p in range(len(batch))]
    if walks:
        for p in wanted:
            out[p].rows = _rows_of(plan, runner, p)
            if request.media_until is not None:
                out[p].info["media_check"] = _checks_of(plan, runner, p)
            out[p].info |= {"selected": True, "ratio": plan.size["ratio"], "walks": plan.size["walks"]}
    elif wanted:  # the clean pass has left some prompts out: the others have walks of their own
        others = Plan(model, [plan.prompts[p] for p in wanted], dataclasses.replace(request, select="all"))
        swept = _sweep(model, [batch[p] for p in wanted], others, began, tick)
        for p, part in zip(wanted, swept, strict=True):
            out[p] = part
    return out


def _info(runner: Runner, prompt: int, seconds: float) -> dict[str, Any]:
    clean = runner.clean[prompt]
    logp = clean.own if runner.own else sum(clean.logp)
    return {
        "prompt": runner.plan.prompts[prompt].id,
        "selected": False,
        "correct": runner.correct(prompt),
        "p_clean": math.exp(logp),
        "logp_clean": logp,
        "tokens": runner.plan.lengths[prompt],
        "ratio": 1.0,
        "walks": 1,
        "kernel": kernel_name(runner.plan.model.device),
        "seconds": seconds,
    }


def _measurable(
    model: Model,
    pack: Sequence[Prompt],
    request: SweepRequest,
    tick: Callable[[float], None] | None,
    failed: dict[str, str],
) -> list[SweepRows]:
    """As `sweep_prompts`, without the prompts that fail: why goes to `failed`, and the others are swept alone."""
    try:
        return sweep_prompts(model, pack, request, tick)
    except Exception as error:
        if len(pack) == 1:
            failed[pack[0].id] = reason(error)
            return []
    return [part for prompt in pack for part in _measurable(model, [prompt], request, None, failed)]


def sweep_prompt(model: Model, prompt: Prompt, request: SweepRequest) -> SweepRows:
    """Sweeps one prompt."""
    return sweep_prompts(model, [prompt], request)[0]


def estimate(
    model: Model, prompts: PromptSource, request: SweepRequest | None = None, labels: Any = None
) -> dict[str, Any]:
    """What a sweep will cost; runs nothing.

    Args:
        prompts, labels: as of `avflow.sweep`. request: what is asked for; None: the defaults of `avflow.sweep`.

    Returns:
        tokens, rows (packed rows over all layers and walks), flops, clean_flops, walks: of all prompts together. ratio:
        rows to those of one clean pass. peak_rows, peak_bytes: of the largest walk. status: knockout -> "ok", or why
        nothing is cut on the first prompt without an edge to cut.

    Raises:
        InputError: as of `avflow.sweep`.
    """
    request = SweepRequest() if request is None else request
    if not isinstance(request, SweepRequest):
        raise InputError(f"request = {checks.shown(request)}: pass an avflow.SweepRequest, or None")
    check_model(model)
    given = as_prompts(model, prompts, labels=labels)
    request.windows(model)
    out: dict[str, Any] = {}
    reasons = dict.fromkeys((k.name for k in request.knockouts), "ok")
    clean_rows = 0
    for pack in packs(model, given, request):
        plan = Plan(model, pack, request)
        peak = fixed_bytes(model, sum(plan.lengths)) + plan.cost["peak_rows"] * row_bytes(model)
        for name, value in (plan.cost | {"peak_bytes": peak}).items():
            out[name] = max(out.get(name, 0), value) if name.startswith("peak") else out.get(name, 0) + value
        clean_rows += round(plan.cost["rows"] / plan.cost["ratio"])
        for prompt in plan.status:
            for name, shown in zip(reasons, prompt, strict=True):
                reasons[name] = shown if reasons[name] == "ok" else reasons[name]
    return out | {"ratio": out["rows"] / clean_rows, "status": reasons}


def sweep(
    model: Model,
    prompts: PromptSource,
    knockouts: Any = SweepRequest.knockouts,
    window: int | Sequence[int] = SweepRequest.window,
    style: WindowStyle = SweepRequest.style,
    layers: Any = SweepRequest.layers,
    select: str = SweepRequest.select,
    semantics: Semantics = SweepRequest.semantics,
    memory: int | str | None = SweepRequest.memory,
    progress: bool = False,
    check: str | int | None = None,
    decode_threads: int = 0,
    on_error: str = "raise",
    cells: Any = SweepRequest.cells,
    correct_by: str = SweepRequest.correct_by,
    target: str = SweepRequest.target,
    labels: Any = None,
    media_until: Any = SweepRequest.media_until,
    media_check: float = SweepRequest.media_check,
    spread: int = SweepRequest.spread,
) -> Results:
    """Cuts each knockout in each window of layers, on each prompt, and reads the answer's probability.

    Args:
        prompts: avflow.Prompt or avflow.Sample, one or several (any iterable: a sample's media are read when its turn
            comes), or the path of a samples file.
        progress: show a progress bar over prompts.
        check: what to do where the clean run is not the model's own forward: "error", "warn" or "off" (`walk.proof`);
            or N, to compare every N-th prompt too, beside the first of each kind; None: as `model.check` and
            `model.check_every` say, "error" and none.
        decode_threads: the media of so many samples are read while others are measured; 0: each when its turn comes.
        on_error: "raise", or "record": a prompt that cannot be prepared or measured is left out, and
            `.meta["failed"]` tells why, as a run folder does: {id: reason}.
        labels: a function (prompt, sample) that puts tokens into groups of your own, an avflow.Labels, or
            "file.py:function"; see `avflow.Labels`.
        The others: see SweepRequest.

    Returns:
        Results; `.table` has one row per prompt x knockout x window centre. `.meta["prompts"]` tells of every prompt,
        also of those that were not selected; `.meta["check"]` how near the clean run came to the model's own forward.

    Raises:
        InputError: a value out of range, layers, heads or groups that the model does not have, no prompts, two of one
            id, too little memory. NumericError: NaN or infinity in the run.
    """
    thinned = (media_until, media_check, spread)
    how = (knockouts, window, style, layers, select, semantics, memory, cells, correct_by, target, *thinned)
    request = SweepRequest(*how)
    check_model(model)
    given = as_prompts(model, prompts, threads=decode_threads, on_error=on_error, labels=labels)
    request.windows(model)
    parts: list[SweepRows] = []
    failed: dict[str, str] = {}
    with checking(model, check):
        with Progress(given.count, unit="prompt", quiet=not progress) as bar:
            for pack in packs(model, given, request):
                if given.record:
                    parts += _measurable(model, pack, request, bar.begin(len(pack)), failed)
                else:
                    parts += sweep_prompts(model, pack, request, bar.begin(len(pack)))
                bar.finish(len(pack))
    meta = {
        "experiment": "sweep",
        **request.meta(model),
        "select": select,
        "kernel": kernel_name(model.device),
        "check": figures(model),
        "prompts": [part.info for part in parts],
    }
    if request.media_until is not None:
        found = [one for part in parts for one in part.info.get("media_check", ())]
        meta["media_check_found"] = check_summary(found)
    if given.record:
        meta["failed"] = {**given.failed, **failed}
    return Results.from_rows([row for part in parts for row in part.rows], meta)
