"""Qwen2.5-VL: images, and video without sound."""

from __future__ import annotations

from pathlib import Path

from avflow.tiny.checkpoint import Tiny
from avflow.tiny.checkpoint import build as build_tiny

from . import ask, clip, frames, picture, video_call, words

OPTIONS = {"fps": 1.0}


def build(folder: Path) -> Path:
    return build_tiny(folder, "qwen2_5_vl", Tiny(layers=3))


def samples(media: Path):
    return [ask(video=clip(media, sound=False)), ask(image=picture(media))]


def published(folder: Path, prompt) -> dict:
    from transformers import AutoProcessor
    from transformers.image_utils import load_image

    processor = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}, *words(prompt)]
    call = {"text": [processor.apply_chat_template(chat, add_generation_prompt=True)], "return_tensors": "pt"}
    if prompt.sample.image:
        call["images"] = [load_image(prompt.sample.image)]
    else:  # 4 of 48 frames, evenly from the first to the last
        call |= video_call(frames(prompt.sample.video, [0, 16, 31, 47]), 1.0)
        call["videos_kwargs"]["video_metadata"] = [{"total_num_frames": 4, "fps": 1.0, "frames_indices": [0, 1, 2, 3]}]
    # Positions are by the rule that the checkpoints were published with: tests/models/test_qwen2_5_vl.py.
    return {**processor(**call), "position_ids": prompt.model_inputs["position_ids"]}
