"""The two architectures that the question set is trained in, and all that differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from avflow.models.video_salmonn2_plus import VideoSalmonn2PlusConfig, VideoSalmonn2PlusForConditionalGeneration
from avflow.models.video_salmonn2_plus import processor as processing
from avflow.models.video_salmonn2_plus.positions import rope_index
from avflow.synthetic import frame_numbers
from avflow.synthetic.picture import FPS, file_times
from avflow.synthetic.scene import SECONDS
from avflow.tiny import omni, salmonn
from avflow.tiny.checkpoint import Tiny
from avflow.tiny.random_weights import PICTURE
from avflow.tiny.tokenizer import save_tokenizer

SIDE = 56  # pixels of a frame as the models read it: 2 x 2 tokens
FRAME = PICTURE | {"min_pixels": SIDE**2, "max_pixels": SIDE**2}
TEXTS = {"system": "You see and hear.", "instruction": "Answer with the letter."}


class Omni:
    """Qwen2.5-Omni's Thinker: 2 fps, a token for every 40 ms of sound."""

    tokens = omni.MEDIA_TOKENS
    before_text = ""  # between the end of the media and the question
    towers = ("visual", "audio_tower")  # in the names of their parameters
    frames = frame_numbers()  # of the clip's file
    step_times = [0.5, 1.5, 2.5, 3.5]  # of the video's temporal steps, seconds
    slots = 1  # labelled times per audio token
    sound_times = 0.04 * np.arange(100) + 0.02

    def build(self, tokenizer, sizes: dict) -> nn.Module:
        """The model as transformers makes it; `network.make_model` gives it weights."""
        decoder = decoder_of(sizes)
        config = omni.build_config(tokenizer, decoder).to_dict()
        config["text_config"]["rope_parameters"] |= {"rope_theta": 100.0, "mrope_section": even_section(decoder)}
        config["vision_config"] |= {"hidden_size": sizes["towers"], "intermediate_size": 2 * sizes["towers"]}
        config["audio_config"] |= {"d_model": sizes["towers"], "encoder_ffn_dim": 2 * sizes["towers"]}
        config["prompt_texts"] = TEXTS
        return Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**config))

    def save(self, hf: nn.Module, tokenizer, sizes: dict, folder: Path) -> None:
        """A checkpoint folder that avflow.load and transformers' from_pretrained read; weights as bfloat16."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tokenizer(tokenizer, self.tokens, omni.CHAT_TEMPLATE, folder)
        omni.save_preprocessors(folder, FRAME, seconds=8)
        omni.save_thinker(hf, tokenizer, folder, torch.bfloat16)

    def positions(self, model, prompt) -> torch.Tensor:
        """[3, N] of the prompt of a clip or of an interleaved item: t, h, w."""
        inputs = prompt.model_inputs
        positions, _ = owner_of(model.hf, "get_rope_index").get_rope_index(
            input_ids=inputs["input_ids"],
            image_grid_thw=inputs.get("image_grid_thw"),
            video_grid_thw=inputs.get("video_grid_thw"),
            attention_mask=inputs["attention_mask"],
            use_audio_in_video="video_grid_thw" in inputs,
            audio_seqlens=inputs["feature_attention_mask"].sum(-1),
            second_per_grids=inputs.get("video_second_per_grid"),
        )
        return positions[:, 0].long()

    def mel(self, extractor, sounds: Sequence[np.ndarray]) -> torch.Tensor:
        """[sounds, mels, frames] of clips' sounds, as model.prepare gives them."""
        mel = extractor(sounds, sampling_rate=16000, padding="max_length", return_tensors="pt")["input_features"]
        return mel[..., : round(100 * SECONDS)].contiguous()

    def see(self, hf: nn.Module, patches: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """[tokens of all media, hidden]"""
        return owner_of(hf, "audio_tower").visual(patches, grid_thw=grid).pooler_output

    def hear(self, hf: nn.Module, mel: torch.Tensor) -> torch.Tensor:
        """[tokens of all sounds, hidden]"""
        lengths = torch.full((len(mel),), mel.shape[-1])
        tower = owner_of(hf, "audio_tower").audio_tower
        return tower(mel.transpose(0, 1).flatten(1), feature_lens=lengths, aftercnn_lens=lengths // 2).last_hidden_state


class Salmonn:
    """video-SALMONN 2+: 4 fps, a token for every half second of sound, and silence up to the end of a piece of 6 s."""

    tokens = salmonn.SOUND_TOKENS
    before_text = "\n"
    towers = ("visual", "hf.audio.")
    piece = 6  # seconds
    sampling = {"fps": 4.0, "max_frames": 16, "min_pixels": SIDE**2, "max_pixels": SIDE**2}
    frames = processing.frame_numbers(len(file_times()), SECONDS, sampling["fps"])
    step_times = (np.reshape(frames, (-1, 2)).mean(1) / FPS).tolist()
    slots = 12
    sound_times = (0.5 * np.arange(2 * piece)[:, None] + 0.04 * np.arange(slots) + 0.02).ravel()

    def build(self, tokenizer, sizes: dict) -> nn.Module:
        hf = VideoSalmonn2PlusForConditionalGeneration(
            VideoSalmonn2PlusConfig.from_published(self._config(tokenizer, sizes))
        )
        # Whisper's positions are a fixed table, which its own class would have filled in.
        from transformers.models.whisper.modeling_whisper import sinusoids

        table = hf.audio.encoder.embed_positions.weight
        table.data.copy_(sinusoids(*table.shape))
        return hf

    def save(self, hf: nn.Module, tokenizer, sizes: dict, folder: Path) -> None:
        """A checkpoint folder with the files and names of a published one; weights as bfloat16."""
        settings = FRAME | {"chunk_length": self.piece}
        salmonn.save(folder, self._config(tokenizer, sizes), hf, tokenizer, torch.bfloat16, settings)

    def _config(self, tokenizer, sizes: dict) -> dict[str, Any]:
        decoder, towers = decoder_of(sizes), sizes["towers"]
        config = salmonn.build_config(tokenizer, decoder)
        config |= {"prompt_texts": TEXTS, "video_sampling": self.sampling, "torch_dtype": "bfloat16"}
        config |= {"rope_theta": 100.0, "rope_scaling": {"type": "mrope", "mrope_section": even_section(decoder)}}
        config["vision_config"] |= {"hidden_size": towers, "intermediate_size": 2 * towers}
        sound = config["audio_config"]
        sound |= {"d_model": towers, "encoder_ffn_dim": 2 * towers, "max_source_positions": 50 * self.piece}
        sound["qformer_config"] |= {"hidden_size": towers, "encoder_width": towers, "intermediate_size": 2 * towers}
        return config

    def positions(self, model, prompt) -> torch.Tensor:
        inputs = prompt.model_inputs
        media = {name: inputs[name] for name in ("video_grid_thw", "video_second_per_grid")}
        positions, _ = rope_index(inputs["input_ids"], model.hf.config, **media)
        return positions[:, 0]

    def mel(self, extractor, sounds: Sequence[np.ndarray]) -> torch.Tensor:
        return extractor(sounds, sampling_rate=16000, return_tensors="pt")["input_features"]

    def see(self, hf: nn.Module, patches: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return hf.get_visual_features(patches, grid)

    def hear(self, hf: nn.Module, mel: torch.Tensor) -> torch.Tensor:
        return hf.get_audio_features(mel)


FAMILIES = {"qwen2_5_omni": Omni(), "video_salmonn2_plus": Salmonn()}


def decoder_of(sizes: dict) -> Tiny:
    return Tiny(**{k: v for k, v in sizes.items() if k not in ("towers", "family")})


def even_section(decoder: Tiny) -> list[int]:
    """As many pairs of a head for time as for height and width.

    With it goes a base of 100: the published 1e6 turns by under 0.001 per row and column at this head size, which the
    decoder could not tell apart.
    """
    half = decoder.hidden // decoder.heads // 2
    part = half // 3
    return [half - 2 * part, part, part]


def owner_of(hf: nn.Module, name: str) -> nn.Module:
    """The module that has this part: up to transformers 5.20 the Thinker itself, since then one inside it."""
    return next(module for module in hf.modules() if hasattr(module, name))
