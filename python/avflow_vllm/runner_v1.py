"""Model Runner V1: what a step's batch is in every segment, from the runner's own state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import step
from .plan import Plan, plan_of
from .settings import Settings


def _plan(settings: Settings, state: Any) -> Plan:
    """Made once for a request, and kept on the runner's record of it."""
    if not hasattr(state, "avflow_plan"):
        state.avflow_plan = plan_of(settings.boundaries, state.sampling_params, state.num_prompt_tokens)
    return state.avflow_plan


def batch_plan(runner: Any, settings: Settings, scheduled: np.ndarray) -> step.BatchPlan:
    """scheduled: int [requests], tokens of each in this step."""
    batch, groups = runner.input_batch, runner.kv_cache_config.kv_cache_groups
    plans = [_plan(settings, runner.requests[name]) for name in batch.req_ids[: batch.num_reqs]]
    computed = batch.num_computed_tokens_cpu[: batch.num_reqs]
    now = step.plan_batch(plans, computed, scheduled, step.later_segments(groups), runner.device)

    def blocks_of(number: int) -> tuple[torch.Tensor, int]:
        table = batch.block_table[number]
        return torch.from_numpy(table.block_table.np).to(runner.device), table.block_size

    step.place(now, groups, blocks_of)
    return now
