"""A Qwen2.5-Omni Thinker of the 3B model's sizes with random weights and its towers, and a clip with sound for it."""

from __future__ import annotations

from typing import Any

import torch

import avflow
from avflow.models.compat import declare_torchvision
from benchmarks.lib.decoders import made_on

# The published model's ids, and those of a vocabulary of 512.
IDS = {
    "3b": dict(audio=151646, audio_bos=151647, audio_eos=151648, vision_bos=151652, vision_eos=151653, video=151656),
    "tiny": dict(audio=500, audio_bos=501, audio_eos=502, vision_bos=503, vision_eos=504, video=506),
}
TEXT = {
    "3b": dict(vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36),
    "tiny": dict(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=3),
}
HEADS = {"3b": (16, 2, [16, 24, 24]), "tiny": (2, 1, [8, 12, 12])}
VISION = {
    "3b": dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, fullatt_block_indexes=[7, 15, 23, 31]),
    "tiny": dict(depth=2, hidden_size=64, intermediate_size=128, num_heads=4, fullatt_block_indexes=[1]),
}
AUDIO = {
    "3b": dict(encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, d_model=1280),
    "tiny": dict(encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128, d_model=64),
}
# Seconds of video at 2 fps, and its frames in patches of 14 x 14: 20 x 28 is 280 x 392 pixels, 140 tokens a second.
CLIP = {"3b": (60, 20, 28), "tiny": (4, 4, 6)}


def make_thinker(size: str, device: str) -> avflow.Model:
    """size: "3b" or "tiny"."""
    declare_torchvision()
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    (heads, kv_heads, section), ids = HEADS[size], IDS[size]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
    text = dict(num_attention_heads=heads, num_key_value_heads=kv_heads, rope_parameters=rope, **TEXT[size])
    hidden = TEXT[size]["hidden_size"]
    patches = dict(patch_size=14, spatial_merge_size=2, temporal_patch_size=2, window_size=112, out_hidden_size=hidden)
    config = Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config={**VISION[size], **patches},
        audio_config={**AUDIO[size], "num_mel_bins": 128, "n_window": 100, "output_dim": hidden},
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        audio_token_index=ids["audio"],
        audio_start_token_id=ids["audio_bos"],
        audio_end_token_id=ids["audio_eos"],
        vision_start_token_id=ids["vision_bos"],
        vision_end_token_id=ids["vision_eos"],
        image_token_index=ids["video"] - 1,
        video_token_index=ids["video"],
        attn_implementation="sdpa",
    )
    return avflow.wrap(made_on(device, lambda: Qwen2_5OmniThinkerForConditionalGeneration(config).eval()))


def make_av_prompt(size: str) -> avflow.Prompt:
    """Sound and video alternate in chunks of 2 s, then a question with four options; media of random values."""
    seconds, height, width = CLIP[size]
    ids, rng = IDS[size], torch.Generator().manual_seed(1)
    per_second, mel = height * width // 4, 100 * seconds  # tokens; frames of the spectrogram
    tokens: list[tuple[int, str, int]] = []  # id, group, item

    def text(group: str, count: int, item: int = -1) -> None:
        tokens.extend((int(i), group, item) for i in torch.randint(10, 400, (count,), generator=rng))

    text("system", 12)
    tokens += [(ids["vision_bos"], "template", -1), (ids["audio_bos"], "template", -1)]
    for at in range(0, seconds, 2):
        for second in range(at, min(at + 2, seconds)):
            tokens += [(ids["video"], "video", second)] * per_second
        tokens += [(ids["audio"], "audio", at // 2)] * 50
    tokens += [(ids["audio_eos"], "template", -1), (ids["vision_eos"], "template", -1)]
    text("question_text", 34)
    for option in range(4):
        text("option_correct" if option == 1 else "option_incorrect", 4, option)
    text("template", 3)
    text("last", 1)
    input_ids, groups, items = (list(column) for column in zip(*tokens, strict=True))
    inputs: dict[str, Any] = dict(
        input_ids=torch.tensor([input_ids]),
        attention_mask=torch.ones(1, len(input_ids), dtype=torch.long),
        pixel_values_videos=torch.randn(seconds * height * width, 1176, generator=rng),
        video_grid_thw=torch.tensor([[seconds, height, width]]),
        video_second_per_grid=torch.tensor([1.0]),
        use_audio_in_video=True,
        input_features=torch.randn(1, 128, mel, generator=rng),
        feature_attention_mask=torch.ones(1, mel, dtype=torch.long),
    )
    return avflow.Prompt(
        input_ids=torch.tensor(input_ids), model_inputs=inputs, groups=groups, items=items, answer_ids=[7], id="clip"
    )
