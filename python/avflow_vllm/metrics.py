"""What was saved, by vLLM's own plug point for statistics (`vllm.stat_logger_plugins`): /metrics and a line in the log.

Counted when a request ends, in the server's process, from its plan: rows of its prompt that no prefix cache had, and of
its answer; blocks that it held at its end. What a preempted request computes anew is not in it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from avflow.eviction.vllm_groups import group_size, segments

from . import compat
from .names import LEAVES
from .plan import Plan
from .settings import Settings, read_settings

log = logging.getLogger("vllm.avflow")
MOST = 1 << 16  # requests whose plan is kept: those that are taken back are never heard of again


@dataclass
class Work:
    """Rows times layers, and blocks times layers, of requests that ended: with what left, and had nothing left."""

    rows: int = 0
    plain_rows: int = 0
    blocks: int = 0
    plain_blocks: int = 0

    def add(self, other: Work) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def saved(self) -> tuple[float, float]:
        """Shares of rows and of blocks."""
        return 1 - self.rows / max(1, self.plain_rows), 1 - self.blocks / max(1, self.plain_blocks)


def work_of(plan: Plan, boundaries: tuple[int, ...], layers: int, block: int, cached: int, stop: int) -> Work:
    """Of one request.

    Args:
        block: tokens in a KV block. cached: tokens that a prefix cache had. stop: tokens that were in the cache at the
            end: the prompt, and what was generated but for the last.
    """
    parts = segments(layers, boundaries)
    size = group_size(parts)
    out = Work(plain_rows=layers * (stop - cached), plain_blocks=layers * -(-stop // block))
    for segment, part in enumerate(parts):
        there = plan.count(segment, stop)
        out.rows += part * (there - plan.count(segment, cached))
        out.blocks += -(-part // size) * size * -(-there // block)  # vLLM's groups, the last of which may be padded
    return out


class Waiting:
    """Plans of requests that have not ended, by the id that the client or the server gave them."""

    def __init__(self) -> None:
        self.plans: OrderedDict[str, tuple[list[Any], int, int]] = OrderedDict()  # runs, prompt tokens, answers to come
        self.counted = False  # nobody asks in an engine without statistics

    def put(self, request: Any) -> None:
        """An EngineCoreRequest that door.py has let in."""
        if self.counted:
            params = request.sampling_params
            runs = (params.extra_args or {}).get(LEAVES, [])
            self.plans[request.request_id] = (runs, len(request.prompt_token_ids), params.n)
            if len(self.plans) > MOST:
                self.plans.popitem(last=False)

    def take(self, name: str | None, settings: Settings) -> Plan | None:
        """Of a request that ended; one that asked for several answers ends as often."""
        found = self.plans.pop(name, None) if name is not None else None
        if found is None or name is None:
            return None
        runs, n, answers = found
        if answers > 1:
            self.plans[name] = (runs, n, answers - 1)
        return Plan(settings.boundaries, runs, n)


WAITING = Waiting()


@cache
def counters() -> dict[str, Any]:
    """The process' own; vLLM takes down only those that are called vllm:..."""
    from prometheus_client import Counter

    texts = {
        "rows": "Rows times layers that requests were computed with.",
        "rows_saved": "Rows times layers that were left out, since their tokens had left.",
        "blocks": "KV blocks times layers that requests held when they ended.",
        "blocks_saved": "KV blocks times layers that they would have held more, had nothing left.",
    }
    return {name: Counter(f"avflow:{name}", text, ["model_name", "engine"]) for name, text in texts.items()}


class EvictionStats(StatLoggerBase):
    """Of one engine. Does nothing where there is no schedule."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        settings = read_settings(vllm_config.additional_config)
        self.settings = settings if settings is not None and settings.boundaries else None
        if self.settings is None:
            return
        WAITING.counted = True
        self.layers = compat.text_config(vllm_config).num_hidden_layers
        self.block = vllm_config.cache_config.block_size
        labels = (vllm_config.model_config.served_model_name, str(engine_index))
        self.counters = {name: counter.labels(*labels) for name, counter in counters().items()}
        self.since, self.requests = Work(), 0  # the last line in the log

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if self.settings is None or iteration_stats is None:
            return
        for done in iteration_stats.finished_requests:
            plan = WAITING.take(done.request_id, self.settings)
            if plan is None or not done.num_generation_tokens:
                continue
            stop = done.num_prompt_tokens + done.num_generation_tokens - 1
            work = work_of(plan, self.settings.boundaries, self.layers, self.block, done.num_cached_tokens, stop)
            self.counters["rows"].inc(work.rows)
            self.counters["rows_saved"].inc(work.plain_rows - work.rows)
            self.counters["blocks"].inc(work.blocks)
            self.counters["blocks_saved"].inc(max(0, work.plain_blocks - work.blocks))
            self.since.add(work)
            self.requests += 1

    def log(self) -> None:
        """As often as vLLM's own line: every ten seconds, if something ended meanwhile."""
        if self.settings is None or not self.requests:
            return
        rows, blocks = (100 * share for share in self.since.saved)
        text = "avflow: %d requests ended: %.1f%% of rows, %.1f%% of KV blocks saved"
        log.info(text, self.requests, rows, blocks)
        self.since, self.requests = Work(), 0

    def log_engine_initialized(self) -> None:
        pass
