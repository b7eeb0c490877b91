"""video-SALMONN 2+ as a composition of transformers' own modules.

Children are named as in the published checkpoints: `visual` (Qwen2.5-VL's tower), `audio` (Whisper's encoder, a
windowed Q-Former, a projection), `model` (Qwen2.5-VL's text decoder), `lm_head`. Architecture:
bytedance/video-SALMONN-2, folder video_SALMONN2_plus; "video-SALMONN 2", arXiv:2506.15220.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils.generic import can_return_tuple

from ...errors import InputError
from ..compat import cache_argument, cache_of
from .config import VideoSalmonn2PlusConfig
from .generation import MediaGenerationMixin
from .positions import rope_index

CACHE = cache_argument()  # a constant: compiled forwards read it


class AudioTower(nn.Module):
    """Mel spectrograms to audio tokens: each window of the encoder's frames is read by the Q-Former's queries."""

    def __init__(self, config: VideoSalmonn2PlusConfig) -> None:
        super().__init__()
        width = config.qformer_config.hidden_size
        self.mel_shape = (config.audio_config.num_mel_bins, 2 * config.audio_config.max_source_positions)
        self.frames_per_window = config.frames_per_window
        self.encoder = WhisperEncoder(config.audio_config)
        self.q_tokens = nn.Parameter(torch.empty(1, config.query_length, width))
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.audio_proj = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [pieces, mels, 3000] -> [tokens, hidden], 60 tokens a piece in the published models."""
        if features.dim() != 3 or features.shape[1:] != self.mel_shape:
            raise InputError(f"audio_features {tuple(features.shape)}: expected [pieces, *{self.mel_shape}]")
        frames = self.encoder(features.to(self.q_tokens.dtype)).last_hidden_state  # [pieces, 1500, d]
        windows = frames.reshape(-1, self.frames_per_window, frames.shape[-1])  # [pieces * 60, 25, d]
        heard = self.qformer(
            query_embeds=self.q_tokens.expand(len(windows), -1, -1), encoder_hidden_states=windows
        ).last_hidden_state  # [pieces * 60, queries, width]
        return self.audio_proj(heard).flatten(0, 1)


class VideoSalmonn2PlusForConditionalGeneration(MediaGenerationMixin, PreTrainedModel):
    """Reads text, video, images and sound; predicts text.

    Tested with eager and sdpa attention. The Q-Former has no flash attention: set that one by part, with
    `set_attn_implementation({"text_config": "flash_attention_2"})`.

    Attributes:
        rope_deltas: int64 [batch, 1], what the last prefill found: the token after n tokens stands at n + delta.
    """

    if TYPE_CHECKING:
        config: VideoSalmonn2PlusConfig

    config_class = VideoSalmonn2PlusConfig
    base_model_prefix = "model"
    # A tuple, as transformers' own models have it, although the base class declares a list.
    input_modalities = ("image", "video", "audio", "text")  # type: ignore[assignment]
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock", "WhisperEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: VideoSalmonn2PlusConfig) -> None:
        super().__init__(config)
        self.visual = Qwen2_5_VisionTransformerPretrainedModel(config.vision_config)
        self.audio = AudioTower(config)
        self.model = Qwen2_5_VLTextModel(config.text_config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.rope_deltas: torch.Tensor | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioTower):
            init.normal_(module.q_tokens, std=self.config.qformer_config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    def get_visual_features(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """Patches [sum T H W, 1176] and grids [media, 3] of images or videos -> [tokens, hidden]."""
        return self.visual(pixel_values.to(self.visual.dtype), grid_thw=grid_thw).pooler_output

    def get_audio_features(self, audio_features: torch.Tensor) -> torch.Tensor:
        """Mel spectrograms [pieces, mels, frames] -> [tokens, hidden]."""
        return self.audio(audio_features)

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings [B, N, hidden] of ids [B, N], those of media in the media tokens' places, in order.

        Raises:
            InputError: the number of media tokens is not the number of embeddings; patches without their grids.
        """
        embeds = self.get_input_embeddings()(input_ids)
        found: list[tuple[str, torch.Tensor]] = []
        seen = (("image", pixel_values, image_grid_thw), ("video", pixel_values_videos, video_grid_thw))
        for name, patches, grid in seen:
            if patches is None:
                continue
            if grid is None:
                raise InputError(f"{name} patches without {name}_grid_thw: pass the grids int [media, 3] with them")
            found.append((name, self.get_visual_features(patches, grid)))
        if audio_features is not None:
            found.append(("audio", self.get_audio_features(audio_features)))
        for name, features in found:
            place = input_ids == getattr(self.config, f"{name}_token_id")  # [B, N]
            if int(place.sum()) != len(features):
                held = f"input_ids hold {int(place.sum())} {name} tokens"
                raise InputError(f"{held}, the {name}s given {len(features)}: prepare both together")
            embeds = embeds.masked_scatter(place[..., None], features.to(embeds))
        return embeds

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        video_second_per_grid: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, N or logits_to_keep, vocab].

        Args:
            input_ids: int64 [B, N], media as runs of their tokens. attention_mask: [B, N], 0 for padding.
            position_ids: [3, B, N], or [4, B, N] with text positions first. None: by `positions.rope_index` from ids
                and grids; counted on with `rope_deltas` after a cache; one by one where there are only inputs_embeds.
            pixel_values, pixel_values_videos: patches [sum T H W, 1176].
            image_grid_thw, video_grid_thw: int [media, 3].
            video_second_per_grid: [videos], seconds; position layout "trained" only.
            audio_features: [pieces, mels, 3000], pieces of 30 s in the order of the batch.
            inputs_embeds: [B, N, hidden] in place of input_ids and media; see `embed`.
            past_key_values, cache: the same, by transformers' older and newer name.
            kwargs: for the decoder.

        Raises:
            InputError: media, ids, grids that do not fit together; media after a cache without position_ids.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InputError("pass either input_ids or inputs_embeds")
        cache = past_key_values if cache is None else cache
        media = (pixel_values, pixel_values_videos, audio_features)
        if position_ids is None:
            position_ids = self._positions(
                input_ids,
                given,
                attention_mask,
                cache,
                image_grid_thw,
                video_grid_thw,
                video_second_per_grid,
                any(m is not None for m in media),
            )
        if inputs_embeds is None:
            self._check_media(given, cache, media)
            inputs_embeds = self.embed(
                given, pixel_values, image_grid_thw, pixel_values_videos, video_grid_thw, audio_features
            )
        outputs = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{CACHE: cache},
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: cache_of(outputs)},
        )

    def _positions(
        self,
        input_ids: torch.Tensor | None,
        given: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Any,
        image_grid_thw: torch.Tensor | None,
        video_grid_thw: torch.Tensor | None,
        video_second_per_grid: torch.Tensor | None,
        has_media: bool,
    ) -> torch.Tensor:
        """Positions [3, B, N] where the caller gives none. given: the ids [B, N], or embeddings [B, N, hidden]."""
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = attention_mask if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2 else None
        if past == 0 and input_ids is not None:
            positions, self.rope_deltas = rope_index(
                input_ids, self.config, image_grid_thw, video_grid_thw, video_second_per_grid, mask
            )
            return positions
        if has_media:
            raise InputError("media after a cache: their positions follow from the whole prompt; pass position_ids")
        batch, n = given.shape[:2]
        if past == 0:
            self.rope_deltas = torch.zeros(batch, 1, dtype=torch.int64, device=given.device)
        if mask is None:
            line = torch.arange(past, past + n, device=given.device).expand(batch, -1)  # [B, N]
        else:
            line = (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -n:]
        if self.rope_deltas is not None:
            deltas = self.rope_deltas.to(line.device)
            line = line + deltas.repeat_interleave(batch // len(deltas), 0)
        return line.expand(3, -1, -1)

    def _check_media(self, input_ids: torch.Tensor, cache: Any, media: tuple) -> None:
        """Media tokens whose media were not given would be read as words."""
        one = input_ids.shape[1] == 1
        if one or None not in media or (cache is not None and int(cache.get_seq_length())):
            return
        for name, given in zip(("image", "video", "audio"), media, strict=True):
            count = 0 if given is not None else int((input_ids == getattr(self.config, f"{name}_token_id")).sum())
            if count:
                raise InputError(
                    f"input_ids hold {count} {name} tokens, but no {name} is given: pass what the processor gave"
                )
