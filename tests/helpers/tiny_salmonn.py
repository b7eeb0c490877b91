"""A tiny video-SALMONN 2+ with random weights, and audio-visual prompts for it; as tests/tiny.py for Qwen2.5-Omni."""

from __future__ import annotations

import tiny
import torch

import avflow
from avflow.models.video_salmonn2_plus import VideoSalmonn2PlusConfig, VideoSalmonn2PlusForConditionalGeneration

PIECE = 20  # audio tokens of a piece: 10 s where the published model has 60 and 30 s
MEL = 1000  # mel frames of a piece


def thinker(
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    seed: int = 0,
    position_layout: str = "released",
) -> VideoSalmonn2PlusForConditionalGeneration:
    """The whole model: vision tower, audio tower, decoder. The decoder is that of `tiny.thinker`, biases included."""
    torch.manual_seed(seed)
    hidden, half = heads * head_dim, head_dim // 2
    section = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    config = VideoSalmonn2PlusConfig(
        text_config=dict(
            vocab_size=tiny.VOCAB,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            bos_token_id=0,
            eos_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": section},
        ),
        vision_config=dict(
            depth=1,
            hidden_size=32,
            intermediate_size=64,
            num_heads=2,
            window_size=112,
            out_hidden_size=hidden,
            fullatt_block_indexes=[0],
        ),
        audio_config=dict(
            num_mel_bins=128,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            d_model=32,
            max_source_positions=MEL // 2,
        ),
        qformer_config=dict(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            encoder_hidden_size=32,
            cross_attention_frequency=1,
        ),
        position_layout=position_layout,
        image_token_id=tiny.IMAGE,
        video_token_id=tiny.VIDEO,
        audio_token_id=tiny.AUDIO,
        vision_start_token_id=tiny.VISION_BOS,
        vision_end_token_id=tiny.VISION_EOS,
    )
    hf = VideoSalmonn2PlusForConditionalGeneration(config).eval()
    tiny._sharpen(hf, hf.model.layers)
    return hf


def audio_counts(steps: int, seconds: float, tokens: int) -> list[int]:
    """Audio tokens after each video step: those of its time, the last step has the rest."""
    ends = [int(2 * seconds * (k + 1)) for k in range(steps - 1)]
    ends = [0, *ends, tokens]
    return [b - a for a, b in zip(ends, ends[1:], strict=False)]


def av_prompt(
    layout: str = "interleaved",
    seconds: int = 4,
    seed: int = 1,
    answer_ids: tuple[int, ...] = (7,),
    id: str = "0",
    options: bool = True,
    cells: tuple[int, int] = (2, 3),
    **more,
) -> avflow.Prompt:
    """A video with sound, a question and options, for `thinker`; steps of 1 s, PIECE audio tokens for each 10 s.

    layout: "interleaved" (each step followed by its audio, the last by the padding, too), "separate" (video, then
    audio), "question_first", "silent" (video only), or "sound" (audio only).
    cells: rows and columns of tokens of a step.
    """
    per_step = cells[0] * cells[1]
    script = tiny._Script(seed)
    pieces = -(-seconds // 10)
    tokens = PIECE * pieces
    script.text("system", 4)
    if layout == "question_first":
        script.question(options)
    script.put("template", [-1], tiny.VISION_BOS)
    if layout in ("interleaved", "question_first"):
        for step, count in enumerate(audio_counts(seconds, 1.0, tokens)):
            script.put("video", [step] * per_step, tiny.VIDEO)
            script.put("audio", [step] * count, tiny.AUDIO)
    elif layout != "sound":
        script.put("video", [i for i in range(seconds) for _ in range(per_step)], tiny.VIDEO)
    if layout == "separate":
        script.put("template", [-1], tiny.VISION_EOS)
        script.put("template", [-1], tiny.VISION_BOS)
    if layout in ("separate", "sound"):
        script.put("audio", [i // 4 for i in range(tokens)], tiny.AUDIO)
    script.put("template", [-1], tiny.VISION_EOS)
    if layout != "question_first":
        script.question(options)
    script.text("template", 2)
    script.text("last", 1)
    inputs: dict[str, torch.Tensor] = dict(
        input_ids=torch.tensor([script.ids]),
        attention_mask=torch.ones(1, len(script.ids), dtype=torch.long),
    )
    if layout != "sound":
        grid = torch.tensor([[seconds, 2 * cells[0], 2 * cells[1]]])
        inputs["pixel_values_videos"] = torch.randn(int(grid.prod()), 1176, generator=script.rng)
        inputs["video_grid_thw"] = grid
        inputs["video_second_per_grid"] = torch.tensor([1.0])
    if layout != "silent":
        inputs["audio_features"] = torch.randn(pieces, 128, MEL, generator=script.rng)
    return avflow.Prompt(
        input_ids=torch.tensor(script.ids),
        model_inputs=inputs,
        groups=script.groups,
        items=script.items,
        answer_ids=answer_ids,
        id=id,
        task="tiny",
        **more,
    )
