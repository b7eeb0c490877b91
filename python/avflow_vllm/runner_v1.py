"""Model Runner V1: what a step's batch is in every segment, from the runner's own state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import step
from .kv import EvictedAttentionSpec
from .plan import Plan, plan_of
from .settings import Settings


def _plan(settings: Settings, state: Any) -> Plan:
    """Made once for a request, and kept on the runner's record of it."""
    if not hasattr(state, "avflow_plan"):
        state.avflow_plan = plan_of(settings.boundaries, state.sampling_params, state.num_prompt_tokens)
    return state.avflow_plan


def batch_plan(runner: Any, settings: Settings, scheduled: np.ndarray) -> step.BatchPlan:
    """scheduled: int [requests], tokens of each in this step."""
    batch = runner.input_batch
    plans = [_plan(settings, runner.requests[name]) for name in batch.req_ids[: batch.num_reqs]]
    groups = {
        number: group
        for number, group in enumerate(runner.kv_cache_config.kv_cache_groups)
        if isinstance(group.kv_cache_spec, EvictedAttentionSpec)
    }
    segments = sorted({group.kv_cache_spec.segment for group in groups.values()})
    computed = batch.num_computed_tokens_cpu[: batch.num_reqs]
    now = step.plan_batch(plans, computed, scheduled, segments, runner.device)
    for number, group in groups.items():
        part, table = now.parts[group.kv_cache_spec.segment], batch.block_table[number]
        blocks = table.block_table.np[part.owner, part.order // table.block_size].astype(np.int64)
        slots = blocks * table.block_size + part.order % table.block_size
        now.slots[number] = torch.from_numpy(slots).to(runner.device)
        now.group_of.update(dict.fromkeys(group.layer_names, number))
    return now
