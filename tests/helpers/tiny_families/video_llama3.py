"""VideoLLaMA 3: a Qwen2 decoder, frames with times. The chat template is written from the published layout."""

from __future__ import annotations

from pathlib import Path

import torch

from avflow.tiny.tokenizer import build_tokenizer

from . import ask, clip, frames, picture, save, text_config, words

TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<|image_pad|>\n' }}"
    "{% elif c['type'] == 'video' %}{{ '<|video_pad|>\n' }}"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZE = {"shortest_edge": 4 * 784, "longest_edge": 64 * 784}
NEEDS = ("torchvision",)


def build(folder: Path) -> Path:
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration, VideoLlama3Processor
    from transformers.models.video_llama_3 import VideoLlama3ImageProcessor, VideoLlama3VideoProcessor

    tokenizer = build_tokenizer({"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})
    processor = VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(size=SIZE, patch_size=14, merge_size=1),
        tokenizer=tokenizer,
        video_processor=VideoLlama3VideoProcessor(size=SIZE, patch_size=14, merge_size=2, fps=1),
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    config = VideoLlama3Config(
        text_config=text_config("qwen2", tokenizer),
        vision_config=dict(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, patch_size=14
        ),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    return save(VideoLlama3ForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(video=clip(media, sound=False)), ask(image=picture(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import VideoLlama3Processor
    from transformers.image_utils import load_image

    processor, sample = VideoLlama3Processor.from_pretrained(folder), prompt.sample
    call = {"text": processor.apply_chat_template(words(prompt), add_generation_prompt=True), "return_tensors": "pt"}
    if sample.image:
        return dict(processor(**call, images=[load_image(sample.image)]))
    whole = frames(sample.video)
    meta = {"total_num_frames": len(whole), "fps": 12.0, "duration": 4.0}
    return dict(processor(**call, videos=[whole], do_sample_frames=True, fps=1, video_metadata=[meta]))
