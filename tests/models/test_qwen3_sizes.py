"""The published sizes on the meta device: no weight is there, every name and shape is.

Sizes of Qwen3-VL are those of torchtitan's `experiments/qwen3_vl` (2B, 8B, 30B-A3B, 235B-A22B); Qwen3-Omni's decoder is
that of keras-hub's preset notes (48 layers, 32 and 4 heads, 128 experts of which 8 run, 30,532,122,624 numbers), its
towers have transformers' own defaults.
"""

from __future__ import annotations

import pytest
import torch

from avflow.models import Family, Model
from avflow.models.experts import experts_per_token
from avflow.models.model_checks import check_heads
from avflow.walk.cost import layer_flops

VISION = {
    "small": dict(
        depth=24, hidden_size=1024, intermediate_size=4096, num_heads=16, deepstack_visual_indexes=[5, 11, 17]
    ),
    "large": dict(
        depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16, deepstack_visual_indexes=[8, 16, 24]
    ),
}
DECODER = dict(vocab_size=151936, head_dim=128, max_position_embeddings=262144)
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}


def decoder(layers, width, heads, kv_heads, inner, experts=0) -> dict:
    found = DECODER | dict(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rope_parameters=dict(ROPE),
    )
    if not experts:
        return found | dict(intermediate_size=inner)
    return found | dict(moe_intermediate_size=inner, num_experts=experts, num_experts_per_tok=8)


# name -> vision tower, decoder, parameters in billions, of which a token's layers use, KiB of a token's keys and values
SIZES = {
    "2B": ("small", decoder(28, 2048, 16, 8, 6144), 2.13, 1.41, 112),
    "8B": ("large", decoder(36, 4096, 32, 8, 12288), 8.77, 6.95, 144),
    "30B-A3B": ("large", decoder(48, 2048, 32, 4, 768, 128), 31.07, 2.73, 96),
    "235B-A22B": ("large", decoder(94, 4096, 64, 4, 1536, 128), 235.7, 20.95, 188),
}


def on_meta(name: str):
    from transformers import (
        Qwen3OmniMoeThinkerConfig,
        Qwen3OmniMoeThinkerForConditionalGeneration,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    with torch.device("meta"):
        if name == "omni":
            text = SIZES["30B-A3B"][1]
            config = Qwen3OmniMoeThinkerConfig(
                text_config=text,
                vision_config={"out_hidden_size": text["hidden_size"]},
                audio_config={"output_dim": text["hidden_size"]},
            )
            return Qwen3OmniMoeThinkerForConditionalGeneration(config)
        tower, text, *_ = SIZES[name]
        tied = name == "2B"
        vision = VISION[tower] | {"out_hidden_size": text["hidden_size"]}
        if "num_experts" in text:
            config = Qwen3VLMoeConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
            return Qwen3VLMoeForConditionalGeneration(config)
        config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
        hf = Qwen3VLForConditionalGeneration(config)
        hf.tie_weights()
        return hf


def parameters(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e9


@pytest.mark.parametrize("name", SIZES)
def test_qwen3_vl(name):
    hf = on_meta(name)
    model = Model(hf, Family())
    _, text, total, working, kv = SIZES[name]
    assert parameters(hf) == pytest.approx(total, abs=0.005 * total)
    assert sum(layer_flops(model)) / 2e9 == pytest.approx(working, abs=0.005 * working)
    assert 2 * model.n_layers * model.n_kv_heads * model.head_dim * 2 == kv * 1024
    assert experts_per_token(model.config) == text.get("num_experts_per_tok")
    check_heads(model.config, name)
    assert len(hf.model.visual.deepstack_merger_list) == 3


def test_qwen3_omni():
    hf = on_meta("omni")
    model = Model(hf, Family())
    decoder_and_head = sum(p.numel() for p in model.text_model.parameters()) + model.lm_head.weight.numel()
    assert decoder_and_head == 30_532_122_624
    assert parameters(hf.model.visual) == pytest.approx(0.54, abs=0.01)
    assert parameters(hf.model.audio_tower) == pytest.approx(0.65, abs=0.01)
    assert 2 * model.n_layers * model.n_kv_heads * model.head_dim * 2 == 96 * 1024
