"""A small video-SALMONN 2+ checkpoint: flat config.json and the tensor names of a published folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Tiny
from .random_weights import PICTURE
from .tokenizer import build_tokenizer, save_tokenizer
from .vision import TOKENS, flat_config, save_model, save_pictures, save_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SOUND_TOKENS = TOKENS | {"audio_token": "<|audio_pad|>"}


def write(folder: Path, size: Tiny) -> None:
    """The whole checkpoint folder. It has no chat template: the published data code has its own."""
    from ..models.video_salmonn2_plus import VideoSalmonn2PlusConfig, VideoSalmonn2PlusForConditionalGeneration

    tokenizer = build_tokenizer(SOUND_TOKENS)
    save_tokenizer(tokenizer, SOUND_TOKENS, None, folder)
    config = build_config(tokenizer, size)

    def build() -> PreTrainedModel:
        return VideoSalmonn2PlusForConditionalGeneration(VideoSalmonn2PlusConfig.from_published(config))

    save_model(folder, config, build, _published_name, size)
    save_pictures(folder)


def save(
    folder: Path,
    config: dict[str, Any],
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype | None = None,
    settings: dict[str, Any] = PICTURE,
) -> None:
    """The checkpoint folder of a model that is there. settings: of preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, SOUND_TOKENS, None, folder)
    save_weights(folder, config, hf, _published_name, dtype)
    save_pictures(folder, settings)


def build_config(tokenizer: PreTrainedTokenizerBase, size: Tiny) -> dict[str, Any]:
    """config.json as a published folder has it, in small."""
    config = flat_config(tokenizer, size, SOUND_TOKENS) | {"architectures": ["video_SALMONN2_plus"]}
    return config | {"audio_config": _audio_config(size)}


def _audio_config(size: Tiny) -> dict:
    return {
        "model_type": "whisper",
        "num_mel_bins": 128,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "d_model": 64,
        "max_source_positions": 1500,
        "activation_function": "gelu",
        "scale_embedding": False,
        "second_per_window": 0.5,
        "second_stride": 0.5,
        "qformer_config": {
            "model_type": "bert",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "cross_attention_freq": 1,
            "encoder_width": 64,
            "query_length": 1,
            "out_hidden_size": size.hidden,
        },
    }


def _published_name(key: str) -> str:
    key = key.replace("audio.encoder.", "audio.", 1)
    key = key.replace("audio.qformer.layernorm.", "audio.qformer.bert.embeddings.LayerNorm.", 1)
    key = key.replace("audio.qformer.encoder.", "audio.qformer.bert.encoder.", 1)
    return re.sub(r"^(audio\.qformer\..*attention)\.attention\.", r"\1.self.", key)
