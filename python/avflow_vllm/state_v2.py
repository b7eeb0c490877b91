"""Model Runner V2: the model's own ModelState, the hook that vLLM has for this. Nothing is patched."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from avflow.errors import InputError

from . import attention, compat, step
from .plan import Plan, plan_of
from .settings import read_settings


class EvictingModelState(DefaultModelState):
    """Knows the plans of the requests that the runner holds, and says of every batch which of its rows are where."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: Any) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        settings = read_settings(vllm_config.additional_config)
        assert settings is not None
        self.boundaries = settings.boundaries
        self.plans: dict[str, Plan] = {}
        self.block_sizes: list[int] = []
        vllm_config.avflow_has_state = True  # which attention.py asks for

    def initialize_kv_cache(self, kv_cache_config: Any, block_tables: Any) -> None:
        super().initialize_kv_cache(kv_cache_config, block_tables)
        if compat.graphs_of_prompts(self.vllm_config):  # vLLM may choose them after refusals.py was asked
            raise InputError(
                "an eviction schedule together with CUDA graphs of prompts is not supported: set cudagraph_mode to "
                "FULL_AND_PIECEWISE, FULL_DECODE_ONLY, PIECEWISE or NONE"
            )
        self.block_sizes = list(block_tables.block_sizes)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        plan = plan_of(self.boundaries, new_req_data.sampling_params, new_req_data.prompt_len)
        self.plans[new_req_data.req_id] = plan

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.plans.pop(req_id, None)

    def prepare_attn(
        self,
        input_batch: Any,
        cudagraph_mode: Any,
        block_tables: Any,
        slot_mappings: Any,
        attn_groups: Any,
        kv_cache_config: Any,
        for_capture: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        given = (input_batch, cudagraph_mode, block_tables, slot_mappings, attn_groups, kv_cache_config, for_capture)
        if for_capture or any(name not in self.plans for name in input_batch.req_ids):  # a dummy batch
            return super().prepare_attn(*given, *args, **kwargs)
        groups = kv_cache_config.kv_cache_groups
        now = step.plan_batch(
            [self.plans[name] for name in input_batch.req_ids],
            input_batch.num_computed_tokens_np,
            input_batch.num_scheduled_tokens,
            step.later_segments(groups),
            self.device,
        )
        step.place(now, groups, lambda number: (block_tables[number], self.block_sizes[number]))
        attention.current = now
        try:
            return super().prepare_attn(*given, *args, **kwargs)
        finally:
            attention.current = None
