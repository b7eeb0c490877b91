"""A small Qwen2.5-Omni checkpoint folder with the files of a published one. Random, seeded weights; nothing is fetched.

It loads through transformers' own from_pretrained (Thinker of a full checkpoint) and through avflow.processing. The
answers of a random model mean nothing; what it shows is that every stage runs, on the layout of the real files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..compat import declare_torchvision

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
CORPUS = [
    SYSTEM,
    "Which color is the shape in the video? Which shape moves through the picture? How high is the tone in the clip?",
    "What is heard while the shape moves? In which direction does the shape move? left to right, right to left",
    "A. red\nB. green\nC. blue\nD. yellow\nA. circle\nB. square\nC. triangle\nA. low\nB. middle\nC. high",
    "Answer with the option's letter from the given choices directly.\nsystem user assistant",
]
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
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TinyOmni:
    """Sizes of the small model. head_dim = hidden // heads must be a multiple of 8."""

    layers: int = 8
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    seed: int = 0


def build_checkpoint(folder, size: TinyOmni | None = None) -> Path:
    """Write the checkpoint to `folder` (created if needed) and return it; about 3 s and 8 MB at the default size."""
    size, folder = size or TinyOmni(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    declare_torchvision()
    tokenizer = build_tokenizer()
    _save_tokenizer(tokenizer, folder)
    _save_preprocessors(folder)
    _save_model(tokenizer, size, folder)
    return folder


def build_tokenizer(vocab_size: int = 600):
    """Byte-level BPE trained on CORPUS, wrapped as the Qwen2Tokenizer that a published folder gives."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    # Words, single digits, punctuation with its newlines, newlines: the split that Qwen2's tokenizer uses.
    split = r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+[\r\n]*|\s*[\r\n]+|\s+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 2, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens={**MEDIA_TOKENS, "im_start_token": "<|im_start|>"},
        model_max_length=32768,
    )


def build_config(tokenizer, size: TinyOmni):
    """Qwen2_5OmniThinkerConfig of this size, with the tokenizer's ids."""
    from transformers import Qwen2_5OmniThinkerConfig

    half = size.hidden // size.heads // 2
    time = half // 4  # the published [16, 24, 24] of head_dim 128 in small: about a quarter of the pairs carry time
    height = (half - time) // 2
    ids = {name: getattr(tokenizer, f"{name}_id") for name in MEDIA_TOKENS}
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
                "mrope_section": [time, height, half - time - height],
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
        # Not declared fields of the Thinker's configuration, yet its position ids are computed from the first.
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        position_id_per_seconds=25,
        seconds_per_chunk=2,
    )


def _save_model(tokenizer, size: TinyOmni, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    config = build_config(tokenizer, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
        _scale_weights(thinker, size)
    # transformers >= 5.21 holds the Thinker's parts one level deeper than the published files name them.
    tensors = {f"thinker.{_published_name(k)}": v.contiguous() for k, v in thinker.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _full_config(config))
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    generation = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad], "do_sample": False}
    _write_json(folder / "generation_config.json", generation)


def _full_config(thinker) -> dict:
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


def _scale_weights(thinker, size: TinyOmni) -> None:
    """Make attention matter. With the usual std of 0.02 it is uniform, and a broken mask would go unnoticed."""
    import torch

    with torch.no_grad():
        for name, p in thinker.named_parameters():
            if p.ndim >= 2:
                fan_in = p[0].numel()
                gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
                p.normal_(0.0, gain / fan_in**0.5)
            elif name.endswith("proj.bias") and "layers" in name:
                p.normal_(0.0, 0.5 if ".q_proj." in name or ".k_proj." in name else 0.1)
        thinker.get_input_embeddings().weight.normal_(0.0, 0.5)
        thinker.lm_head.weight.normal_(0.0, 1.5 / size.hidden**0.5)


def _save_tokenizer(tokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    _write_json(folder / "vocab.json", backend["vocab"])
    merges = [m if isinstance(m, str) else " ".join(m) for m in backend["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    added = {t.content: i for i, t in sorted(tokenizer.added_tokens_decoder.items())}
    _write_json(folder / "added_tokens.json", added)
    special = {"eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token, **MEDIA_TOKENS}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def _save_preprocessors(folder: Path) -> None:
    picture = dict(
        min_pixels=4 * 784, max_pixels=64 * 784, patch_size=14, temporal_patch_size=2, merge_size=2,
        image_mean=MEAN, image_std=STD,
    )  # fmt: skip
    sound = dict(
        feature_extractor_type="WhisperFeatureExtractor", feature_size=128, sampling_rate=16000, hop_length=160,
        n_fft=400, chunk_length=300, n_samples=4_800_000, nb_max_frames=30_000, padding_side="right",
        padding_value=0.0, dither=0.0, return_attention_mask=True,
    )  # fmt: skip
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5OmniProcessor"}
    _write_json(folder / "preprocessor_config.json", {**picture, **sound, **processor})
    # Published folders have no such file (their videos follow the recipe's limits); here it keeps prompts short.
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "processor_class": "Qwen2_5OmniProcessor"}
    _write_json(folder / "video_preprocessor_config.json", {**picture, **video})


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
