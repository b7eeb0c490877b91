"""Qwen2.5-Omni's Thinker: video with its sound, sound, images."""

from __future__ import annotations

from pathlib import Path

from avflow.tiny.checkpoint import Tiny
from avflow.tiny.checkpoint import build as build_tiny

from . import ask, clip, frames, picture, samples_of, tone, video_call, words

OPTIONS = {"fps": 1.0, "system": "You are a helpful assistant."}


def build(folder: Path) -> Path:
    return build_tiny(folder, "qwen2_5_omni", Tiny(layers=3))


def samples(media: Path):
    return [ask(video=clip(media)), ask(image=picture(media), audio=tone(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import AutoProcessor
    from transformers.image_utils import load_image

    from avflow.media.audio import read_audio

    processor, sample = AutoProcessor.from_pretrained(folder), prompt.sample
    chat = [{"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}, *words(prompt)]
    call = {"text": [processor.apply_chat_template(chat, add_generation_prompt=True)], "return_tensors": "pt"}
    if sample.image:
        return dict(processor(**call, images=[load_image(sample.image)], audio=[samples_of(sample.audio)]))
    whole = hasattr(type(processor), "load_audio_from_video")  # transformers >= 5.23
    more = {"load_audio_from_video": True, "audio_from_video_indices": [0]} if whole else {"use_audio_in_video": True}
    videos = video_call(frames(sample.video, [0, 16, 31, 47]), 1.0)
    inputs = processor(**call, **videos, audio=[read_audio(sample.video, seconds=4.0)], **more)
    return {**inputs, "use_audio_in_video": True}
