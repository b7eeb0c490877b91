"""video-SALMONN 2+: which frames, how large, which sound, and in which order their tokens stand.

The rules of the published data code (bytedance/video-SALMONN-2, folder video_SALMONN2_plus), tested against its output.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...errors import InputError, MediaError
from ...media.audio import SAMPLE_RATE
from .. import vision_processor as vision
from . import config

FPS, MIN_FRAMES, MAX_FRAMES = 10.0, 16, 768  # inference.py; scripts/test.sh takes at least 64 frames and 784 pixels
MIN_PIXELS, MAX_PIXELS = 3136, 61250
SAMPLING = dict(zip(config.SAMPLING, (FPS, MIN_FRAMES, MAX_FRAMES, MIN_PIXELS, MAX_PIXELS), strict=True))
PIECE_SECONDS = 30  # that the audio encoder hears at once
PIECE = PIECE_SECONDS * SAMPLE_RATE
TOKENS_PER_SECOND = 2
PIECE_TOKENS = PIECE_SECONDS * TOKENS_PER_SECOND  # of each piece, padded or not
PLACEHOLDERS = {"image": "<|image_pad|>", "video": "<|video_pad|>", "audio": "<|audio_pad|>"}


def frame_numbers(
    total: int, seconds: float, fps: float = FPS, min_frames: int = MIN_FRAMES, max_frames: int = MAX_FRAMES
) -> list[int]:
    """Which of a video's `total` frames are kept: rising numbers, evenly spread from the first to the last."""
    count = min(max(round(seconds / (1 / fps)), min_frames), max_frames)
    return np.unique(np.linspace(0, total - 1, count).astype(int)).tolist()


def pixel_cap(frames: int, max_frames: int = MAX_FRAMES, max_pixels: int = MAX_PIXELS) -> float:
    """Pixels that a frame may have: fewer frames than `max_frames` share the budget of the full number."""
    return max_pixels if frames >= max_frames else 0.95 * max_frames / frames * max_pixels


def audio_pieces(samples: int, piece: int = PIECE) -> int:
    """How many pieces of `piece` samples (30 s) hear this much sound."""
    return max(1, math.ceil(samples / piece))


def audio_counts(steps: int, seconds_per_step: float, audio_tokens: int, what: str = "the sound") -> list[int]:
    """Audio tokens that follow each of a video's temporal steps: those of its own time; the last has all that is left.

    Step k ends at token floor(2 s (k + 1)), in float32 as published: float64 gives other counts for some s.

    Raises:
        MediaError: less sound than the steps before the last one take. The published code fails there, too.
    """
    ends = _token_ends(steps, seconds_per_step)
    counts = ends.diff().tolist()
    counts[-1] = audio_tokens - int(ends[-2])
    if counts[-1] < 0:
        raise MediaError(
            f"{what} has {audio_tokens} tokens ({audio_tokens / TOKENS_PER_SECOND:.0f} s with its padding), the video "
            f"of {steps * seconds_per_step:.1f} s needs {int(ends[-2])}: lengthen the sound with silence, cut the "
            "video, or leave the sound out (use_audio_in_video=False)"
        )
    return counts


def audio_needed(steps: int, seconds_per_step: float) -> int:
    """Audio tokens that the steps before the last one take: the fewest for which the published layout exists."""
    return int(_token_ends(steps, seconds_per_step)[-2])


def _token_ends(steps: int, seconds_per_step: float) -> torch.Tensor:
    """Audio tokens up to each step's end, from 0 on: int64 [steps + 1], of a float32 product."""
    return (torch.arange(steps + 1) * seconds_per_step * TOKENS_PER_SECOND).long()


def _span(kind: str) -> str:
    return f"<|vision_start|>{PLACEHOLDERS[kind]}<|vision_end|>"


class SalmonnProcessor(vision.VisionProcessor):
    """Tokenizer and picture settings of a checkpoint folder; template and sound are the published code's own.

    A preprocessor_config.json with `chunk_length` says how many seconds a piece of sound has, for a model whose audio
    encoder has other than the published 1,500 positions. Published folders have no such field.
    """

    @classmethod
    def _template(cls, folder: str, tokenizer: Any) -> None:
        return None  # the data code has its own ChatML and ignores the tokenizer's, see apply_chat_template

    @property
    def piece_seconds(self) -> int:
        seconds = self.settings.get("chunk_length", PIECE_SECONDS)
        if not isinstance(seconds, int) or seconds < 1:
            raise InputError(f"preprocessor_config.json: chunk_length is {seconds!r}, expected whole seconds from 1 on")
        return seconds

    @property
    def piece_tokens(self) -> int:
        """Audio tokens of one piece of sound."""
        return self.piece_seconds * TOKENS_PER_SECOND

    def pieces(self, sound: np.ndarray) -> int:
        """How many pieces hear `sound` [samples]."""
        return audio_pieces(len(sound), self.piece_seconds * SAMPLE_RATE)

    @cached_property
    def feature_extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(
            feature_size=128, sampling_rate=SAMPLE_RATE, hop_length=160, chunk_length=self.piece_seconds, n_fft=400
        )

    def apply_chat_template(self, chat: list[dict], tokenize: bool = False, add_generation_prompt: bool = True) -> str:
        """The chat text; each medium is a span of its own on a line of its own."""
        text = ""
        for turn in chat:
            parts = [part["text"] if part["type"] == "text" else _span(part["type"]) for part in turn["content"]]
            text += f"<|im_start|>{turn['role']}\n" + "\n".join(parts) + "<|im_end|>\n"
        return text + "<|im_start|>assistant\n" * add_generation_prompt

    def audio_features(self, sound: np.ndarray) -> torch.Tensor:
        """float32 [samples] at 16 kHz -> log-mel float32 [pieces, 128, 3000], each piece normalised by itself.

        The data code pads to 1 s first; padding to 30 s, which follows, makes that of no effect.
        """
        n = self.piece_seconds * SAMPLE_RATE
        pieces = [sound[i * n : (i + 1) * n] for i in range(self.pieces(sound))]
        return self.feature_extractor(pieces, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]


def encode(
    processor: Any,
    text: str,
    frames: torch.Tensor | None = None,
    seconds_per_frame: float = 0.1,
    sound: np.ndarray | None = None,
    image: torch.Tensor | None = None,
    image_pixels: tuple[int, int] | None = None,
) -> dict[str, torch.Tensor]:
    """Chat text and media in, keyword arguments for the model's forward out.

    Args:
        text: from `apply_chat_template`, one placeholder per medium. frames: uint8 [T, 3, H, W] at their final size.
        sound: float32 [samples] at 16 kHz; it stands within the video if there is one. image: uint8 [3, H, W].

    Returns:
        input_ids, attention_mask [1, N]; pixel_values_videos [patches, 1176], video_grid_thw [1, 3],
        video_second_per_grid float32 [1]; audio_features [pieces, 128, 3000]; pixel_values, image_grid_thw.
    """
    inputs = vision.pixels(processor, frames, image, image_pixels)
    pad = {kind: processor.tokenizer.convert_tokens_to_ids(token) for kind, token in PLACEHOLDERS.items()}
    merge = processor.video_processor.merge_size
    runs: dict[int, list[list[int]]] = {}
    audio_tokens = 0
    if sound is not None:
        inputs["audio_features"] = processor.audio_features(sound)
        audio_tokens = processor.piece_tokens * len(inputs["audio_features"])
    if image is not None:
        runs[pad["image"]] = [[pad["image"]] * math.prod(vision.tokens(inputs["image_grid_thw"][0], merge))]
    if frames is not None:
        steps, each = vision.tokens(inputs["video_grid_thw"][0], merge)
        seconds = seconds_per_frame * processor.video_processor.temporal_patch_size
        counts = audio_counts(steps, seconds, audio_tokens) if sound is not None else [0] * steps
        runs[pad["video"]] = [[i for n in counts for i in [pad["video"]] * each + [pad["audio"]] * n]]
        inputs["video_second_per_grid"] = torch.tensor([seconds], dtype=torch.float32)
    elif sound is not None:
        runs[pad["audio"]] = [[pad["audio"]] * audio_tokens]
    return vision.fill(processor.tokenizer, text, runs) | inputs
