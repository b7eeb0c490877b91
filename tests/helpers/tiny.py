"""Tiny models with random weights, of transformers' own classes, and audio-visual prompts for them; no processor."""

from __future__ import annotations

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import avflow

VOCAB = 512
AUDIO, AUDIO_BOS, AUDIO_EOS, VISION_BOS, VISION_EOS, IMAGE, VIDEO = range(500, 507)
TOKENS_PER_FRAME = 6  # a grid of 4 x 6 patches, merged 2 x 2
SEGMENT = 10  # audio tokens that the tests call one segment


def _sharpen(hf: torch.nn.Module, layers: torch.nn.Module) -> None:
    """Enlarges the decoder's matrices: with transformers' init attention is uniform, and wrong kernels pass."""
    with torch.no_grad():
        for name, p in layers.named_parameters():
            if p.dim() == 2:
                p.mul_(8.0)
            elif name.endswith("proj.bias"):
                p.normal_(0, 0.5)
        hf.lm_head.weight.mul_(6.0)
    hf.generation_config.eos_token_id = None
    hf.generation_config.pad_token_id = 0


def thinker(layers: int = 4, heads: int = 4, kv_heads: int = 2, head_dim: int = 16, seed: int = 0):
    """A Qwen2.5-Omni Thinker: audio tower, vision tower and decoder."""
    torch.manual_seed(seed)
    hidden, half = heads * head_dim, head_dim // 2
    section = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    config = Qwen2_5OmniThinkerConfig(
        text_config=dict(
            vocab_size=VOCAB,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        ),
        vision_config=dict(
            depth=1,
            hidden_size=32,
            intermediate_size=64,
            num_heads=2,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
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
            n_window=100,
            output_dim=hidden,
        ),
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        audio_token_index=AUDIO,
        audio_start_token_id=AUDIO_BOS,
        audio_end_token_id=AUDIO_EOS,
        vision_start_token_id=VISION_BOS,  # read by get_rope_index although no declared field
        vision_end_token_id=VISION_EOS,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
    )
    hf = Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
    _sharpen(hf, avflow.models.compat.find_text_model(hf).layers)
    return hf


def decoder(kind: str = "qwen3", layers: int = 4, heads: int = 4, kv_heads: int = 2, head_dim: int = 16, seed: int = 0):
    """A text-only decoder."""
    torch.manual_seed(seed)
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
    }[kind]
    more = {"sliding_window": None} if kind == "mistral" else {}
    config = config_class(
        vocab_size=VOCAB,
        hidden_size=heads * head_dim,
        intermediate_size=2 * heads * head_dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        **more,
    )
    hf = model_class(config).eval()
    _sharpen(hf, hf.model.layers)
    return hf


def _audio_tokens(mel_frames: int) -> int:
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


class _Script:
    """A prompt under construction: ids, groups and items grow together."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.groups: list[str] = []
        self.items: list[int] = []

    def put(self, group: str, items: list[int], token: int | None = None) -> None:
        for item in items:
            new = int(torch.randint(10, 400, (1,), generator=self.rng)) if token is None else token
            self.ids.append(new)
            self.groups.append(group)
            self.items.append(item)

    def text(self, group: str, count: int, item: int = -1) -> None:
        self.put(group, [item] * count)

    def question(self, options: bool = True) -> None:
        self.text("question_text", 6)
        if options:
            for item, name in enumerate(("option_incorrect", "option_correct", "option_incorrect")):
                self.text(name, 2, item)


def av_prompt(
    layout: str = "interleaved",
    seconds: int = 4,
    seed: int = 1,
    answer_ids: tuple[int, ...] = (7,),
    id: str = "0",
    options: bool = True,
    **more,
) -> avflow.Prompt:
    """A video with sound, a question and options, for `thinker`.

    layout: "interleaved" (audio and video alternate in 2 s chunks), "separate" (video, then audio), "question_first",
    or "silent" (video only).
    """
    script = _Script(seed)
    frames, mel = seconds, 100 * seconds  # a temporal patch is 2 frames, at 2 fps
    video = [i for i in range(frames) for _ in range(TOKENS_PER_FRAME)]
    audio = [i // SEGMENT for i in range(_audio_tokens(mel))]
    script.text("system", 4)
    if layout == "question_first":
        script.question(options)
    script.put("template", [-1], VISION_BOS)
    if layout in ("interleaved", "question_first"):
        script.put("template", [-1], AUDIO_BOS)
        for at in range(0, seconds, 2):
            script.put("video", video[at * TOKENS_PER_FRAME : (at + 2) * TOKENS_PER_FRAME], VIDEO)
            script.put("audio", audio[at * 25 : (at + 2) * 25], AUDIO)
        script.put("template", [-1], AUDIO_EOS)
        script.put("template", [-1], VISION_EOS)
    else:
        script.put("video", video, VIDEO)
        script.put("template", [-1], VISION_EOS)
        if layout == "separate":
            script.put("template", [-1], AUDIO_BOS)
            script.put("audio", audio, AUDIO)
            script.put("template", [-1], AUDIO_EOS)
    if layout != "question_first":
        script.question(options)
    script.text("template", 2)
    script.text("last", 1)
    grid = torch.tensor([[frames, 4, 6]])
    inputs = dict(
        input_ids=torch.tensor([script.ids]),
        attention_mask=torch.ones(1, len(script.ids), dtype=torch.long),
        pixel_values_videos=torch.randn(int(grid.prod()), 1176, generator=script.rng),
        video_grid_thw=grid,
        video_second_per_grid=torch.tensor([1.0]),
        use_audio_in_video=layout in ("interleaved", "question_first"),
    )
    if layout != "silent":
        inputs["input_features"] = torch.randn(1, 128, mel, generator=script.rng)
        inputs["feature_attention_mask"] = torch.ones(1, mel, dtype=torch.long)
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


def interleaved_prompt(reference: str = "image", candidates: int = 4, seed: int = 1, id: str = "0") -> avflow.Prompt:
    """Candidates, question, reference and option letters for `thinker`; the candidates are of the other kind."""
    script = _Script(seed)
    grids, mels = [], []

    def medium(kind: str, group: str, item: int) -> None:
        begin, end = (VISION_BOS, VISION_EOS) if kind == "image" else (AUDIO_BOS, AUDIO_EOS)
        script.put("template", [-1], begin)
        if kind == "image":
            grids.append([1, 4, 6])
            script.put(group, [item] * TOKENS_PER_FRAME, IMAGE)
        else:
            mels.append(60 + 20 * item)
            script.put(group, [item] * _audio_tokens(mels[-1]), AUDIO)
        script.put("template", [-1], end)

    script.text("system", 4)
    for item in range(candidates):
        script.text("template", 2)
        role = "candidate_correct" if item == 1 else "candidate_incorrect"
        medium("audio" if reference == "image" else "image", role, item)
    script.text("question_text", 6)
    medium(reference, "reference", 0)
    for item in range(candidates):
        script.text("option_correct" if item == 1 else "option_incorrect", 1, item)
    script.text("template", 2)
    script.text("last", 1)
    width = max(mels)
    features = torch.randn(len(mels), 128, width, generator=script.rng)
    heard = (torch.arange(width)[None] < torch.tensor(mels)[:, None]).long()
    inputs = dict(
        input_ids=torch.tensor([script.ids]),
        attention_mask=torch.ones(1, len(script.ids), dtype=torch.long),
        pixel_values=torch.randn(24 * len(grids), 1176, generator=script.rng),
        image_grid_thw=torch.tensor(grids),
        input_features=features,
        feature_attention_mask=heard,
    )
    return avflow.Prompt(
        input_ids=torch.tensor(script.ids),
        model_inputs=inputs,
        groups=script.groups,
        items=script.items,
        answer_ids=(7,),
        id=id,
        task=f"{reference} reference",
    )


def text_prompt(
    width: int,
    tokens: int = 40,
    seed: int = 1,
    answer_ids: tuple[int, ...] = (7,),
    id: str = "0",
    ids: bool = True,
    **more,
) -> avflow.Prompt:
    """A prompt for `decoder` whose groups are given to plain tokens; embeddings instead of ids with ids=False."""
    script = _Script(seed)
    script.text("system", 3)
    for item in range((tokens - 16) // 4):
        script.text("video", 3, item)
        script.text("audio", 1, item)
    script.question()
    script.text("last", 1)
    n = len(script.ids)
    if ids:
        given = dict(input_ids=torch.tensor(script.ids))
    else:
        given = dict(inputs_embeds=0.02 * torch.randn(n, width, generator=script.rng))
    return avflow.Prompt(
        groups=script.groups, items=script.items, answer_ids=answer_ids, id=id, task="text", **given, **more
    )
