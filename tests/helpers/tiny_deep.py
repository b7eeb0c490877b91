"""A tiny Qwen3-VL with random weights, whose decoder adds deep vision features after three of its four layers."""

from __future__ import annotations

import tiny
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import avflow
from avflow.models import Family, Model

CELLS = 6  # tokens of a picture: a grid of 4 x 6 patches, merged 2 x 2


def thinker(seed: int = 0):
    torch.manual_seed(seed)
    text = dict(
        vocab_size=tiny.VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [3, 3, 2]},
    )
    vision = dict(
        depth=3,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        out_hidden_size=64,
        deepstack_visual_indexes=[0, 1, 2],
        num_position_embeddings=64,
    )
    tokens = dict(
        image_token_id=tiny.IMAGE,
        video_token_id=tiny.VIDEO,
        vision_start_token_id=tiny.VISION_BOS,
        vision_end_token_id=tiny.VISION_EOS,
    )
    hf = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**tokens, text_config=text, vision_config=vision)).eval()
    tiny._sharpen(hf, hf.model.language_model.layers)
    with torch.no_grad():
        for p in hf.model.visual.deepstack_merger_list.parameters():
            p.mul_(8.0 if p.dim() == 2 else 1.0)  # what is added must matter
    return hf


def model(seed: int = 0) -> Model:
    return Model(thinker(seed), Family())


def prompt(frames: int = 2, seed: int = 1, answer_ids: tuple[int, ...] = (7,), id: str = "0") -> avflow.Prompt:
    """An image, then a video whose steps have marks of their own around them, a question with options."""
    script = tiny._Script(seed)
    script.text("system", 3)
    for kind, count, token in (("image", 1, tiny.IMAGE), ("video", frames, tiny.VIDEO)):
        for item in range(count):
            script.text("template", 1)
            script.put("template", [-1], tiny.VISION_BOS)
            script.put(kind, [item] * CELLS, token)
            script.put("template", [-1], tiny.VISION_EOS)
    script.question()
    script.text("template", 2)
    script.text("last", 1)
    ids = torch.tensor([script.ids])
    grids = {"image_grid_thw": torch.tensor([[1, 4, 6]]), "video_grid_thw": torch.tensor([[frames, 4, 6]])}
    inputs = dict(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == tiny.IMAGE).int() + 2 * (ids == tiny.VIDEO).int(),
        pixel_values=torch.randn(24, 1536, generator=script.rng),
        pixel_values_videos=torch.randn(24 * frames, 1536, generator=script.rng),
        **grids,
    )
    return avflow.Prompt(
        input_ids=ids[0],
        model_inputs=inputs,
        groups=script.groups,
        items=script.items,
        answer_ids=answer_ids,
        id=id,
        task="tiny",
    )
