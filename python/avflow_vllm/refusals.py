"""What an engine must be for a schedule. Everything else is refused when it starts, with a sentence."""

from __future__ import annotations

import logging
from typing import Any

from avflow.errors import InputError
from avflow.eviction import vllm_groups

from . import compat
from .settings import Settings, read_settings

log = logging.getLogger("vllm.avflow")  # vLLM's handlers print it
_said: set[str] = set()


def check_config(config: Any) -> None:
    """For every VllmConfig.

    Raises:
        InputError: a family that vLLM does not have; settings that make no sense, another model's schedule, or a
            configuration that was not tried.
    """
    if config.model_config is None:
        return
    architecture = config.model_config.architecture
    if architecture in compat.UNSERVED:
        raise InputError(
            f"vLLM {compat.SUPPORTED} has no {architecture}: its sound has a tower of its own, and places in time that "
            "vLLM's Qwen2.5-VL does not know. Use transformers: avflow.load(path), then avflow.evict around generate"
        )
    settings = read_settings(config.additional_config)
    if settings is None:
        return
    if architecture not in compat.MODELS:
        raise InputError(
            f"avflow in vLLM knows {', '.join(compat.MODELS)}, and this model is a {architecture}: use avflow.evict "
            'with transformers, or leave the key "avflow" out of additional_config'
        )
    if settings.boundaries:
        _check_model(config, settings)
        for what, there in untried(config).items():
            if there:
                raise InputError(
                    f"an eviction schedule together with {what} is not supported: switch one of the two off"
                )
        _check_device(settings)
    describe(settings, compat.text_config(config).num_hidden_layers, architecture in compat.OMNI)


def _check_model(config: Any, settings: Settings) -> None:
    text = compat.text_config(config)
    layers = text.num_hidden_layers
    if settings.boundaries[-1] > layers - 2:
        raise InputError(
            f"the schedule drops tokens after layer {settings.boundaries[-1]}: the model has layers 0 .. {layers - 1}, "
            f"and the last after which leaving saves anything is {layers - 2}"
        )
    here = {"layers": {layers}, "hidden": {text.hidden_size}, "model_type": compat.model_types(config)}
    for key, value in (settings.facts or {}).items():
        if key in here and value not in here[key]:
            raise InputError(
                f"the schedule was made for a model with {key} {value!r}, this one has "
                f"{' or '.join(map(repr, sorted(here[key])))}: measure one for this model with avflow plan"
            )


def untried(config: Any) -> dict[str, bool]:
    """What is refused with a schedule -> whether this configuration has it."""
    from vllm import envs
    from vllm.platforms import current_platform

    parallel, scheduler = config.parallel_config, config.scheduler_config
    return {
        "pipeline parallelism (pipeline_parallel_size)": parallel.pipeline_parallel_size > 1,
        "context parallelism (decode_context_parallel_size)": parallel.decode_context_parallel_size > 1,
        "context parallelism (prefill_context_parallel_size)": parallel.prefill_context_parallel_size > 1,
        "data parallelism (data_parallel_size)": parallel.data_parallel_size > 1,
        "micro-batching (enable_dbo, ubatch_size)": parallel.use_ubatching,
        "speculative decoding (speculative_config)": config.speculative_config is not None,
        "LoRA (enable_lora)": config.lora_config is not None,
        "a KV connector (kv_transfer_config)": config.kv_transfer_config is not None,
        "KV cache events (kv_events_config)": config.kv_events_config is not None,
        "a disabled hybrid KV cache manager": bool(scheduler.disable_hybrid_kv_cache_manager),
        "a sliding window": compat.slides(config),
        "dual chunk attention (dual_chunk_attention_config)": compat.in_chunks(config),
        "another pruning of videos (video_pruning_rate)": compat.prunes(config),
        "fast prefill (kv_sharing_fast_prefill)": config.cache_config.kv_sharing_fast_prefill,
        "prompt embeddings (enable_prompt_embeds)": config.model_config.enable_prompt_embeds,
        "a model that pools": config.model_config.runner_type != "generate",
        # Both would record where rows are gathered, and replay it for other rows.
        "CUDA graphs of prompts (cudagraph_mode FULL)": compat.graphs_of_prompts(config),
        "breakable CUDA graphs (VLLM_USE_BREAKABLE_CUDAGRAPH)": envs.VLLM_USE_BREAKABLE_CUDAGRAPH,
        "Model Runner V1 on a GPU (VLLM_USE_V2_MODEL_RUNNER=0, or no Triton)": not (
            current_platform.is_cpu() or config.use_v2_model_runner
        ),
    }


def _check_device(settings: Settings) -> None:
    """A GPU has to be asked for, as long as nobody has seen this run on one."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() and not settings.untried:
        raise InputError(
            "avflow in vLLM was verified on CPUs alone, and this is another device: compare with "
            'benchmarks/vllm_gpu.sh first, and set additional_config={"avflow": {"untried": true, ...}} to use it'
        )


def describe(settings: Settings, layers: int, omni: bool) -> None:
    """Logs a line for each thing that is not as in vLLM alone; once, though vLLM makes several configurations."""
    lines = [(logging.INFO, f"{s.group} leaves {s.when}, keeping {s.keep}") for s in settings.steps]
    if settings.boundaries and (text := vllm_groups.warning(layers, settings.boundaries)):
        lines.append((logging.WARNING, text))
    if omni and settings.corrected:
        text = (
            "positions of a video that is interleaved with its sound are those of transformers; vLLM "
            f'{compat.SUPPORTED} places them one token early. additional_config={{"avflow": {{"positions": "vllm"}}}} '
            "leaves them as they are"
        )
        lines.append((logging.INFO, text))
    for level, text in lines:
        if text not in _said:
            _said.add(text)
            log.log(level, "avflow: %s", text)
