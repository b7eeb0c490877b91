"""A small Qwen2.5-Omni checkpoint: the layout of a published folder, with its Thinker's weights only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Tiny
from .random_weights import PICTURE, mrope_section, scale_weights
from .tokenizer import build_tokenizer, save_tokenizer, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen2_5OmniThinkerConfig

MEDIA_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
}
# Same layout of turns and media as the published template: a default system turn, then role, content, end per turn.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif c['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, size: Tiny) -> None:
    """The whole checkpoint folder."""
    tokenizer = build_tokenizer(MEDIA_TOKENS)
    save_tokenizer(tokenizer, MEDIA_TOKENS, CHAT_TEMPLATE, folder)
    save_preprocessors(folder)
    _save_model(tokenizer, size, folder)


def build_config(tokenizer: PreTrainedTokenizerBase, size: Tiny) -> Qwen2_5OmniThinkerConfig:
    """Qwen2_5OmniThinkerConfig of this size, with the tokenizer's ids."""
    from transformers import Qwen2_5OmniThinkerConfig

    ids = {name: getattr(tokenizer, f"{name}_id") for name in MEDIA_TOKENS}
    # Not declared fields of the Thinker's configuration, yet its position ids are computed from the first.
    undeclared: dict[str, Any] = {
        "vision_start_token_id": ids["vision_bos_token"],
        "vision_end_token_id": ids["vision_eos_token"],
    }
    return Qwen2_5OmniThinkerConfig(
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            max_position_embeddings=32768,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": mrope_section(size),
            },
            tie_word_embeddings=False,
        ),
        vision_config=dict(
            depth=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=4,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
            window_size=112,
            out_hidden_size=size.hidden,
            fullatt_block_indexes=[1],
        ),
        audio_config=dict(
            num_mel_bins=128,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=128,
            d_model=64,
            n_window=100,
            output_dim=size.hidden,
            max_source_positions=1500,
        ),
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        **undeclared,
    )


def _save_model(tokenizer: PreTrainedTokenizerBase, size: Tiny, folder: Path) -> None:
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    config = build_config(tokenizer, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
        scale_weights(thinker, size)
    save_thinker(thinker, tokenizer, folder)


def save_thinker(
    thinker: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """model.safetensors, config.json and generation_config.json of a Thinker, named as in a folder of the full model.

    dtype: that the weights are stored in; None: as they are.
    """
    from safetensors.torch import save_file

    # transformers >= 5.21 holds the Thinker's parts one level deeper than the published files name them.
    tensors = {
        f"thinker.{_published_name(k)}": v.to(dtype or v.dtype).contiguous() for k, v in thinker.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", _full_config(thinker.config))
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    generation = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad], "do_sample": False}
    write_json(folder / "generation_config.json", generation)


def _full_config(thinker: PreTrainedConfig) -> dict[str, Any]:
    """config.json of the full model: the Thinker inside, and a speech half that is off and has no weights here."""
    speech = dict(vocab_size=64, embedding_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    names = "tts_text_start tts_text_end tts_text_pad tts_codec_start tts_codec_end tts_codec_pad tts_codec_mask"
    marks = "audio_start audio_end vision_start vision_end"
    ids = {f"{name}_token_id": i for i, name in enumerate([*names.split(), *marks.split()])}
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "enable_talker": False,
        "thinker_config": thinker.to_dict(),
        "talker_config": {"model_type": "qwen2_5_omni_talker", **speech, **ids},
    }


def _published_name(key: str) -> str:
    key = key.removeprefix("model.") if key.startswith(("model.audio_tower.", "model.visual.")) else key
    return key.replace("model.language_model.", "model.", 1)


def save_preprocessors(folder: Path, picture: dict = PICTURE, seconds: int = 300) -> None:
    """picture: settings of images and video frames. seconds: the longest sound that is heard."""
    sound = dict(
        feature_extractor_type="WhisperFeatureExtractor", feature_size=128, sampling_rate=16000, hop_length=160,
        n_fft=400, chunk_length=seconds, n_samples=seconds * 16_000, nb_max_frames=seconds * 100,
        padding_side="right", padding_value=0.0, dither=0.0, return_attention_mask=True,
    )  # fmt: skip
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5OmniProcessor"}
    write_json(folder / "preprocessor_config.json", {**picture, **sound, **processor})
    # Published folders have no such file (their videos follow the recipe's limits); here it keeps prompts short.
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "processor_class": "Qwen2_5OmniProcessor"}
    write_json(folder / "video_preprocessor_config.json", {**picture, **video})
