"""Qwen2-Audio: a Qwen2 decoder. The chat template is the processor's own default."""

from __future__ import annotations

from pathlib import Path

import torch

from avflow.tiny.tokenizer import build_tokenizer

from . import ask, samples_of, save, text_config, tone, words

SPECIAL = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}


def build(folder: Path) -> Path:
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokenizer = build_tokenizer(SPECIAL)
    extractor = WhisperFeatureExtractor(feature_size=32, chunk_length=6)
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        text_config=text_config("qwen2", tokenizer),
        audio_config=dict(
            model_type="qwen2_audio_encoder",
            num_mel_bins=32,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            d_model=32,
            max_source_positions=300,
        ),
        audio_token_index=tokenizer.audio_token_id,
    )
    processor = Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    return save(Qwen2AudioForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(audio=tone(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import Qwen2AudioProcessor

    processor = Qwen2AudioProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(words(prompt), add_generation_prompt=True)
    sound = samples_of(prompt.sample.audio)
    return dict(processor(text=text, audio=[sound], sampling_rate=16000, return_tensors="pt"))
