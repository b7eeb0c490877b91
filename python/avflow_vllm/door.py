"""Where requests come in: who leaves when is worked out once, written into the request, or the request is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from avflow import checks
from avflow.errors import InputError
from avflow.eviction.leaving import leaves_after
from avflow.eviction.schedule import when

from .items import Items
from .names import LEAVES, OFF, RUNS
from .plan import runs_of
from .settings import Settings


def leaving(
    settings: Settings,
    ids_of: Mapping[str, int],
    prompt_ids: Any,
    extra: Mapping[str, Any],
    items: np.ndarray | None = None,
) -> tuple[list[list[int]], bool]:
    """Who of a request leaves when, as runs [start, stop, layer]; and whether its ids alone would say the same.

    Args:
        ids_of: group -> id of its placeholder. prompt_ids: int [n]. extra: what the client gave beside the prompt:
            avflow_off: nothing leaves; avflow_runs: [[start, stop, group], ...] or with an item, or JSON text of that.
        items: int [n], frame or segment of every token of the media, -1 for the others; None: not known.

    Raises:
        InputError: runs that make no sense, or are needed and not there; a last token that would leave.
    """
    ids = np.asarray(prompt_ids)
    off = extra.get(OFF, False)
    if off not in (False, True, 0, 1):
        raise InputError(f"{OFF} = {checks.shown(off)}: pass 1, and nothing leaves, or leave it out")
    runs = extra.get(RUNS)
    step = settings.needs_runs(items is not None)
    by_ids = None if step is not None else runs_of(_by_ids(settings, ids_of, ids, items))
    if off:
        return [], by_ids == []
    if runs is None:
        if by_ids is None:
            assert step is not None
            raise InputError(
                f"the schedule drops {step.group!r} {step.when}, which token ids alone do not tell: pass "
                f"{RUNS} with the request (avflow_vllm.client.extra_args(prompt)), or {OFF}"
            )
        out = by_ids
    else:
        out = runs_of(_by_runs(settings, runs, len(ids)))
    if out and out[-1][1] == len(ids):
        raise InputError(
            f"the prompt's last token would leave {when(out[-1][2])}: no answer could be predicted. End the "
            "prompt with a token that stays"
        )
    return out, out == by_ids


def _by_ids(settings: Settings, ids_of: Mapping[str, int], ids: np.ndarray, items: np.ndarray | None) -> np.ndarray:
    table = settings.table()
    group = np.full(len(ids), table["template"])
    for name, token in ids_of.items():
        group[ids == token] = table[name]
    return leaves_after(settings.steps, table, group, np.full(len(ids), -1) if items is None else items)


def _by_runs(settings: Settings, runs: Any, n: int) -> np.ndarray:
    if isinstance(runs, str):
        try:
            runs = json.loads(runs)
        except ValueError as error:
            raise InputError(f"{RUNS} is no JSON: {error}") from None
    if not isinstance(runs, (list, tuple)):
        raise InputError(f"{RUNS} = {checks.shown(runs)}: pass [[start, stop, group], ...], or JSON text of that")
    table = settings.table()
    group, item = np.full(n, table["template"]), np.full(n, -1)
    end = 0
    for run in runs:
        whole = isinstance(run, (list, tuple)) and len(run) in (3, 4)
        numbers = [*run[:2], *run[3:]] if whole else []
        if not whole or any(isinstance(v, bool) or not isinstance(v, int) for v in numbers):
            raise InputError(
                f"{RUNS} holds {checks.shown(run)}: pass [start, stop, group] or [start, stop, group, item]"
            )
        start, stop, name = run[:3]
        if not end <= start < stop <= n:
            raise InputError(
                f"{RUNS} holds {checks.shown(run)}: pass runs in order within the prompt's {n} tokens, the first "
                "token and the one after the last"
            )
        if not isinstance(name, str) or name not in table:
            raise InputError(f"{RUNS} names the group {checks.shown(name)}; there are {', '.join(table.names)}")
        group[start:stop], end = table[name], stop
        item[start:stop] = run[3] if len(run) == 4 else -1
    return leaves_after(settings.steps, table, group, item)


def admit(settings: Settings, ids_of: Mapping[str, int], request: Any, items: Items | None = None) -> None:
    """Puts its plan into an EngineCoreRequest. One that its ids do not tell gets a prefix cache of its own.

    items: of the engine's media, where there are any. Equal hashes of media mean equal items.

    Raises:
        InputError: as `leaving`; a request that cannot be served with tokens missing.
    """
    params = request.sampling_params
    extra = {} if params is None else dict(params.extra_args or {})
    extra.pop(LEAVES, None)
    if params is None or request.prompt_token_ids is None or request.resumable:
        what = "pooling" if params is None else "streamed input" if request.resumable else "prompt embeddings"
        raise InputError(f"avflow in vLLM: {what} cannot be served under an eviction schedule; use an engine without")
    numbers = None
    if items is not None and settings.counts_items:
        numbers = items.of(request.prompt_token_ids, request.mm_features)
    runs, told = leaving(settings, ids_of, request.prompt_token_ids, extra, numbers)
    if runs:
        if params.prompt_logprobs is not None:
            raise InputError(
                f"prompt_logprobs of a prompt that tokens leave: rows that left have none. Pass {OFF} with the request"
            )
        extra[LEAVES] = runs
    params.extra_args = extra or None
    if not told:  # equal ids would not mean equal rows: the blocks' hashes start from the plan
        digest = hashlib.sha256(json.dumps(runs).encode()).hexdigest()[:32]
        request.cache_salt = f"avflow-{digest}-{request.cache_salt or ''}"
    elif request.cache_salt:
        request.cache_salt = f"avflow--{request.cache_salt}"  # so that no client can give the salt of a plan
