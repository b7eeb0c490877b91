"""Audio Flamingo 3: a Qwen2 decoder. The chat template is written in the form of Qwen's."""

from __future__ import annotations

from pathlib import Path

import torch

from avflow.tiny.tokenizer import build_tokenizer

from . import ask, samples_of, save, text_config, tone, words

TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'audio' %}<sound>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path) -> Path:
    from transformers import (
        AudioFlamingo3Config,
        AudioFlamingo3ForConditionalGeneration,
        AudioFlamingo3Processor,
        WhisperFeatureExtractor,
    )

    tokenizer = build_tokenizer({"audio_token": "<sound>"})
    processor = AudioFlamingo3Processor(
        feature_extractor=WhisperFeatureExtractor(feature_size=32, chunk_length=2, return_attention_mask=True),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
        max_audio_len=6,
    )
    torch.manual_seed(0)
    config = AudioFlamingo3Config(
        text_config=text_config("qwen2", tokenizer),
        audio_config=dict(
            num_mel_bins=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            hidden_size=32,
            max_source_positions=100,
        ),
        audio_token_id=tokenizer.audio_token_id,
    )
    return save(AudioFlamingo3ForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(audio=tone(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import AudioFlamingo3Processor

    processor = AudioFlamingo3Processor.from_pretrained(folder)
    text = processor.apply_chat_template(words(prompt), add_generation_prompt=True)
    return dict(processor(text=[text], audio=[samples_of(prompt.sample.audio)]))
