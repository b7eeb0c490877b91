"""What a schedule does to serving a set of prompts, beside the model without it: times, memory, first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ..eviction.schedule import EvictionSchedule
from ..models.base import Model
from ..models.batch import Batch
from ..models.compat import cache_of, kept_state
from ..models.end_tokens import end_tokens
from ..models.evaluating import in_eval_mode
from ..models.proof import compared
from .answering import Clock, cache_bytes
from .evict import evict
from .generating import check_open


@dataclass
class Served:
    """One call of generate.

    Attributes:
        prefill_seconds: until the decoder has read the prompts, media encoders included. first_seconds: until each has
            its first token. step_seconds: a token after the first; None where there is none.
        kv_bytes: keys and values cached at the end. device_bytes: the GPU's peak in the call; None on a CPU.
        tokens: generated, of each prompt, up to its end token.
    """

    prefill_seconds: float
    first_seconds: float
    step_seconds: float | None
    kv_bytes: int
    device_bytes: int | None
    tokens: list[list[int]]


@dataclass
class Turn:
    """One batch, without the schedule and with it."""

    ids: list[str]
    plain: Served
    evicted: Served


class _FirstToken(StoppingCriteria):
    """Never stops; takes the time when the first token of every prompt is chosen."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.seconds is None:
            self.seconds = self.clock.read()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def serve(model: Model, batch: Batch, max_new_tokens: int) -> Served:
    """Greedy answers to a batch, within avflow.evict as it makes them."""
    on_gpu = model.device.type == "cuda"
    width = batch.model_inputs["input_ids"].shape[1]
    how: dict[str, Any] = dict(max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True)
    with kept_state(model.hf), in_eval_mode(model):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(model.device)
        with Clock(model) as clock:
            first = _FirstToken(clock)
            out = model.hf.generate(**batch.model_inputs, **how, stopping_criteria=StoppingCriteriaList([first]))
            seconds = clock.read()
        peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else None
    made = out.sequences[:, width:].tolist()
    steps = len(made[0]) - 1
    began = seconds if first.seconds is None else first.seconds
    step = (seconds - began) / steps if steps else None
    ends = end_tokens(model)
    tokens = [_until_end(row, ends) for row in made]
    return Served(clock.first_end, began, step, cache_bytes(cache_of(out)), peak, tokens)


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    """Without the padding behind an end token."""
    stop = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


class Turns:
    """Batches without and with a schedule; which goes first changes from batch to batch.

    Raises:
        InputError: a schedule that does not fit the model, or that needs to know the right answer.
    """

    def __init__(self, model: Model, schedule: EvictionSchedule, max_new_tokens: int) -> None:
        schedule.check(model)
        check_open(model, schedule)
        self.model, self.schedule, self.max_new_tokens = model, schedule, max_new_tokens
        self.count = 0

    def take(self, batch: Batch) -> Turn:
        """One batch; the first of all is run once more before, as the first calls of a process are slow."""
        if self.count == 0:
            for evicted in (False, True):
                self._run(batch, evicted)
        order = (False, True) if self.count % 2 == 0 else (True, False)
        self.count += 1
        found = {evicted: self._run(batch, evicted) for evicted in order}
        return Turn([prompt.id for prompt in batch.prompts], found[False], found[True])

    def _run(self, batch: Batch, evicted: bool) -> Served:
        if not evicted:
            return serve(self.model, batch, self.max_new_tokens)
        with evict(self.model, self.schedule, groups=batch, missing="ignore"):
            before = compared(self.model)
            served = serve(self.model, batch, self.max_new_tokens)
            if compared(self.model) > before:  # its time held a comparison's with the model's own forward
                served = serve(self.model, batch, self.max_new_tokens)
            return served


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Figures of a set.

    Returns:
        prompts, calls: how many. plain, evicted: {"prefill_seconds", "first_seconds", "step_seconds": {"median",
        "p95"} over calls, None where nothing was decoded; "kv_bytes": {"mean", "max"} of a call; "device_bytes": the
        GPU's largest peak, None on a CPU}. first_token_same, all_tokens_same: shares of the prompts.
    """
    pairs = [pair for t in turns for pair in zip(t.plain.tokens, t.evicted.tokens, strict=True)]
    return {
        "prompts": len(pairs),
        "calls": len(turns),
        "plain": _of([t.plain for t in turns]),
        "evicted": _of([t.evicted for t in turns]),
        "first_token_same": float(np.mean([a[:1] == b[:1] for a, b in pairs])),
        "all_tokens_same": float(np.mean([a == b for a, b in pairs])),
    }


def _of(runs: Sequence[Served]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("prefill_seconds", "first_seconds", "step_seconds"):
        values = [v for run in runs if (v := getattr(run, name)) is not None]
        both = (float(np.median(values)), float(np.percentile(values, 95))) if values else None
        found[name] = both and dict(zip(("median", "p95"), both, strict=True))
    kv = [run.kv_bytes for run in runs]
    found["kv_bytes"] = {"mean": float(np.mean(kv)), "max": max(kv)}
    peaks = [run.device_bytes for run in runs if run.device_bytes is not None]
    found["device_bytes"] = max(peaks) if peaks else None
    return found
