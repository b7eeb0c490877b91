"""InternVL 3: a Qwen2 decoder, frames and tiles of 4 tokens. The chat template is written from the published layout."""

from __future__ import annotations

from pathlib import Path

import torch

from avflow.tiny.tokenizer import build_tokenizer

from . import ask, clip, frames, picture, save, text_config, words

SPECIAL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<IMG_CONTEXT>\n{% elif c['type'] == 'video' %}<video>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPTIONS = {"max_frames": 4}
SQUARE = {"height": 28, "width": 28}
NEEDS = ("torchvision",)


def build(folder: Path) -> Path:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
    from transformers.models.got_ocr2 import GotOcr2ImageProcessor
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    tokenizer = build_tokenizer(SPECIAL)
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=2, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    config = InternVLConfig(
        text_config=text_config("qwen2", tokenizer),
        vision_config=dict(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=[28, 28],
            patch_size=[7, 7],
        ),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return save(InternVLForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(video=clip(media, sound=False)), ask(image=picture(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import InternVLProcessor
    from transformers.image_utils import load_image

    processor, sample = InternVLProcessor.from_pretrained(folder), prompt.sample
    call = {"text": processor.apply_chat_template(words(prompt), add_generation_prompt=True), "return_tensors": "pt"}
    if sample.image:
        return dict(processor(**call, images=[load_image(sample.image)]))
    whole = frames(sample.video)
    meta = {"total_num_frames": len(whole), "fps": 12.0, "duration": 4.0}
    return dict(processor(**call, videos=[whole], do_sample_frames=True, num_frames=4, video_metadata=[meta]))
