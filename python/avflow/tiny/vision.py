"""A small Qwen2.5-VL checkpoint: flat config.json and the tensor names of a published folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Tiny
from .random_weights import PICTURE, mrope_section, scale_weights
from .tokenizer import build_tokenizer, save_tokenizer, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "vision_token": "<|vision_pad|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
# Same layout of turns and media as the published template: a default system turn, then role, content, end per turn.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, size: Tiny) -> None:
    """The whole checkpoint folder."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer(TOKENS)
    save_tokenizer(tokenizer, TOKENS, CHAT_TEMPLATE, folder)
    config = flat_config(tokenizer, size) | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    save_model(
        folder, config, lambda: Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)), _published_name, size
    )
    save_pictures(folder)
    # Published folders have no such file (their videos follow the recipe's limits); here it keeps prompts short.
    write_json(folder / "video_preprocessor_config.json", {**PICTURE, "video_processor_type": "Qwen2VLVideoProcessor"})


def flat_config(tokenizer: PreTrainedTokenizerBase, size: Tiny, tokens: dict[str, str] = TOKENS) -> dict[str, Any]:
    """config.json as Qwen2.5-VL's folders have it: the decoder's fields at the top, with the tokenizer's ids."""
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in tokens}
    return {
        "model_type": "qwen2_5_vl",
        **ids,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128000,
        "max_window_layers": size.layers,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": mrope_section(size)},
        "use_sliding_window": False,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "hidden_act": "silu",
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "out_hidden_size": size.hidden,
            "fullatt_block_indexes": [1],
        },
    }


def save_model(
    folder: Path,
    config: dict[str, Any],
    build: Callable[[], PreTrainedModel],
    published_name: Callable[[str], str],
    size: Tiny,
) -> None:
    """config.json, generation_config.json, and the weights of `build()` under the names of published files."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        hf = build()
        scale_weights(hf, size)
    save_weights(folder, config, hf, published_name)


def save_weights(
    folder: Path,
    config: dict[str, Any],
    hf: PreTrainedModel,
    published_name: Callable[[str], str],
    dtype: torch.dtype | None = None,
) -> None:
    """config.json, generation_config.json and the weights of `hf`, stored in `dtype`; None: as they are."""
    from safetensors.torch import save_file

    tensors = {published_name(k): v.to(dtype or v.dtype).contiguous() for k, v in hf.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    pad, end = config["bos_token_id"], config["eos_token_id"]
    generation = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad], "do_sample": False}
    write_json(folder / "generation_config.json", generation)


def save_pictures(folder: Path, settings: dict[str, Any] = PICTURE) -> None:
    more = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    write_json(folder / "preprocessor_config.json", {**settings, **more})


def _published_name(key: str) -> str:
    return key.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)
