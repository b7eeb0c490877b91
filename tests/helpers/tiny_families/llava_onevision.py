"""LLaVA-OneVision: a Qwen2 decoder, 4 tokens a frame. The chat template is written from the published layout."""

from __future__ import annotations

from pathlib import Path

import torch

from avflow.tiny.tokenizer import build_tokenizer

from . import ask, clip, frames, picture, save, text_config, words

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'video') %}<video>{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPTIONS = {"max_frames": 4}
SQUARE = {"height": 42, "width": 42}
NEEDS = ("torchvision",)


def build(folder: Path) -> Path:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
    from transformers.models.llava_onevision import LlavaOnevisionImageProcessor, LlavaOnevisionVideoProcessor

    tokenizer = build_tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grid = [[42, 42], [42, 84], [84, 42], [84, 84]]
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        text_config=text_config("qwen2", tokenizer),
        vision_config=dict(
            model_type="siglip_vision_model",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=42,
            patch_size=14,
            vision_use_head=False,
        ),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        image_grid_pinpoints=grid,
        tie_word_embeddings=False,
    )
    return save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(video=clip(media, sound=False)), ask(image=picture(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import LlavaOnevisionProcessor
    from transformers.image_utils import load_image

    processor, sample = LlavaOnevisionProcessor.from_pretrained(folder), prompt.sample
    call = {"text": processor.apply_chat_template(words(prompt), add_generation_prompt=True), "return_tensors": "pt"}
    if sample.image:
        return dict(processor(**call, images=[load_image(sample.image)]))
    whole = frames(sample.video)
    meta = {"total_num_frames": len(whole), "fps": 12.0, "duration": 4.0}
    return dict(processor(**call, videos=[whole], do_sample_frames=True, num_frames=4, video_metadata=[meta]))
