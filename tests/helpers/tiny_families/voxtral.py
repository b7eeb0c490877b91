"""Voxtral: a Llama decoder. Its tokenizer is a small tekken.json of the published form, read by mistral-common."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from avflow.tiny.tokenizer import build_tokenizer, write_json

from . import ask, save, text_config, tone, words

NEEDS = ("mistral_common", "soundfile")
# The published ranks; what stands between them is filled up by mistral-common.
SPECIAL = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", *(f"<SPECIAL_{n}>" for n in range(20, 24)), "[AUDIO]",
    "[BEGIN_AUDIO]", *(f"<SPECIAL_{n}>" for n in range(26, 34)), "[TRANSCRIBE]",
]  # fmt: skip


def write_tekken(folder: Path) -> None:
    """tekken.json of the small tokenizer's merges: bytes first, then what they merge to, in their order."""
    back = {character: byte for byte, character in bytes_to_unicode().items()}
    merges = json.loads(build_tokenizer({}).backend_tokenizer.to_str())["model"]["merges"]
    merged = dict.fromkeys(bytes(back[c] for c in "".join(pair)) for pair in merges)
    tokens = [bytes([n]) for n in range(256)] + list(merged)
    vocab = [{"rank": n, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for n, t in enumerate(tokens)]
    config = {
        "pattern": r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+[\r\n]*|\s*[\r\n]+|\s+",
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) + 40,
        "default_num_special_tokens": 40,
        "version": "v7",
    }
    audio = {
        "sampling_rate": 16000,
        "frame_rate": 12.5,
        "chunk_length_s": 30.0,
        "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
    }
    special = [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(SPECIAL)]
    folder.mkdir(exist_ok=True)
    write_json(folder / "tekken.json", {"config": config, "vocab": vocab, "special_tokens": special, "audio": audio})


def build(folder: Path) -> Path:
    from transformers import (
        MistralCommonBackend,
        VoxtralConfig,
        VoxtralForConditionalGeneration,
        VoxtralProcessor,
        WhisperFeatureExtractor,
    )

    write_tekken(folder)
    tokenizer = MistralCommonBackend.from_pretrained(folder)
    torch.manual_seed(0)
    config = VoxtralConfig(
        text_config=text_config("llama", tokenizer),
        audio_config=dict(
            model_type="voxtral_encoder",
            num_mel_bins=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            hidden_size=16,
        ),
        audio_token_id=24,
    )
    processor = VoxtralProcessor(feature_extractor=WhisperFeatureExtractor(feature_size=32), tokenizer=tokenizer)
    return save(VoxtralForConditionalGeneration(config), processor, folder)


def samples(media: Path):
    return [ask(audio=tone(media))]


def file_chat(prompt) -> list[dict]:
    """The prompt's sample as a chat of transformers, with the file's own bytes.

    A file that is given by its path is written anew by transformers, and its samples rounded once more.
    """
    chat = words(prompt)
    chat[0]["content"][0]["base64"] = base64.b64encode(Path(prompt.sample.audio).read_bytes()).decode()
    return chat


def published(folder: Path, prompt) -> dict:
    from transformers import VoxtralProcessor

    return dict(VoxtralProcessor.from_pretrained(folder).apply_chat_template(file_chat(prompt)))
