"""SmolVLM2: a Llama decoder, 4 tokens a frame or tile. The chat template is the one in transformers' processor file."""

from __future__ import annotations

from pathlib import Path

import torch

from avflow.tiny.tokenizer import CORPUS, build_tokenizer

from . import ask, clip, frames, picture, save, text_config, words

SPECIAL = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
    "tile_11": "<row_1_col_1>",
    "tile_12": "<row_1_col_2>",
    "tile_21": "<row_2_col_1>",
    "tile_22": "<row_2_col_2>",
}
NEEDS = ("torchvision", "num2words")


def build(folder: Path) -> Path:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm import SmolVLMImageProcessor, SmolVLMVideoProcessor
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    tokenizer = build_tokenizer(SPECIAL, corpus=[*CORPUS, "Assistant: A Assistant: B Assistant: C " * 4])
    sizes = dict(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(
            **sizes, video_sampling={"max_frames": 4, "fps": 1, "video_size": {"longest_edge": 28}}
        ),
        image_seq_len=4,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    torch.manual_seed(0)
    config = SmolVLMConfig(
        text_config=text_config("llama", tokenizer),
        vision_config=dict(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=28,
            patch_size=7,
        ),
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return save(SmolVLMForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(video=clip(media, sound=False)), ask(image=picture(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import SmolVLMProcessor
    from transformers.image_utils import load_image

    processor, sample = SmolVLMProcessor.from_pretrained(folder), prompt.sample
    call = {"text": processor.apply_chat_template(words(prompt), add_generation_prompt=True), "return_tensors": "pt"}
    if sample.image:
        return dict(processor(**call, images=[[load_image(sample.image)]]))
    whole = frames(sample.video)
    meta = {"total_num_frames": len(whole), "fps": 12.0, "duration": 4.0}
    return dict(processor(**call, videos=[[whole]], do_sample_frames=True, video_metadata=[meta]))
