"""Attention of the layers that hold fewer tokens: the platform's own backend, on a narrowed batch."""

from __future__ import annotations

from copy import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import subclass_attention_backend

from avflow.errors import InputError

from . import step
from .kv import EvictedAttentionSpec

# Of the step that is being prepared, set by the runner around the making of metadata; None for a dummy run.
current: step.BatchPlan | None = None


@cache
def narrowed(backend: Any) -> Any:
    """A backend whose metadata are of the rows that are there. They carry `avflow`, the segment's Part, and slots."""

    class NarrowBuilder(backend.get_builder_cls()):  # type: ignore[misc]
        supports_update_block_table = False  # every segment has rows of its own, not only blocks

        def __init__(self, kv_cache_spec: Any, layer_names: Any, vllm_config: Any, device: Any, *args: Any, **kw: Any):
            if vllm_config.use_v2_model_runner and not getattr(vllm_config, "avflow_has_state", False):
                raise InputError(
                    f"{vllm_config.model_config.architecture} has no avflow state for Model Runner V2: set "
                    "VLLM_USE_V2_MODEL_RUNNER=0"
                )
            super().__init__(kv_cache_spec, layer_names, vllm_config, device, *args, **kw)
            requests = vllm_config.scheduler_config.max_num_seqs
            self.avflow_lengths = torch.zeros(requests, dtype=torch.int32, device=device)

        def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False, **kw: Any) -> Any:
            if current is None:
                common = copy(common_attn_metadata)
                common.seq_lens = self.avflow_lengths[: common.num_reqs].copy_(common.seq_lens)
                return super().build(common_prefix_len, common, fast_build, **kw)
            part = current.parts[self.kv_cache_spec.segment]
            slots = current.slots[current.group_of[self.layer_names[0]]]
            common = step.narrow(common_attn_metadata, part, slots, self.avflow_lengths, current.whole)
            if not common.num_reqs:
                return SimpleNamespace(avflow=part, avflow_slots=common.slot_mapping)  # its layers will not run
            metadata = super().build(common_prefix_len, common, fast_build, **kw)
            if not current.whole:
                metadata.avflow, metadata.avflow_slots = part, common.slot_mapping
            return metadata

    return subclass_attention_backend("Narrow", backend, NarrowBuilder)


class EvictedAttention(Attention):
    """vLLM's layer, with another spec of its cache."""

    avflow_segment: int

    def get_kv_cache_spec(self, vllm_config: Any) -> EvictedAttentionSpec:
        full = super().get_kv_cache_spec(vllm_config)
        names = ("block_size", "num_kv_heads", "head_size", "head_size_v", "dtype", "kv_quant_mode")
        return EvictedAttentionSpec(**{name: getattr(full, name) for name in names}, segment=self.avflow_segment)


def convert(attention: Attention, segment: int) -> None:
    """Makes a layer one of a later segment. vLLM's decoder layers make their own Attention: no class can be passed."""
    attention.__class__ = EvictedAttention
    attention.avflow_segment = segment
    attention.attn_backend = narrowed(attention.attn_backend)
