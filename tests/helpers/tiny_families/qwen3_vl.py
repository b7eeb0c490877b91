"""Qwen3-VL, dense: steps of a video with their times in words, 32-pixel tokens, deepstack."""

from __future__ import annotations

from pathlib import Path

import torch
from clips import Clip, write_clip, write_png

from avflow.prompts.sample import Sample
from avflow.tiny.checkpoint import Tiny
from avflow.tiny.random_weights import scale_weights
from avflow.tiny.tokenizer import build_tokenizer, save_tokenizer, write_json
from avflow.tiny.vision import CHAT_TEMPLATE, TOKENS

SIZE = Tiny(layers=3, hidden=64, intermediate=128)
CLIP = Clip(seconds=3.0, fps=10, width=112, height=84)
ASK = {"question": "Which color is the shape?", "options": ["red", "green", "blue"], "answer": "red"}
PICTURE = dict(patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
VIDEO_SIZE = {"shortest_edge": 4 * 1024, "longest_edge": 6 * 8 * 1024}  # of all frames: six frames of 8 tokens
IMAGE_SIZE = {"shortest_edge": 4 * 1024, "longest_edge": 16 * 1024}
# Qwen3's template adds no system turn of its own.
DEFAULT_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
TEMPLATE = CHAT_TEMPLATE.replace("{% if loop.first and m['role'] != 'system' %}" + DEFAULT_TURN + "{% endif %}", "")
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True, mlp_only_layers=[])


def build(folder: Path, moe: bool = False) -> Path:
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(TOKENS)
    save_tokenizer(tokenizer, TOKENS, TEMPLATE, folder)
    ids = {name: getattr(tokenizer, f"{name}_id") for name in TOKENS}
    config_class = Qwen3VLMoeConfig if moe else Qwen3VLConfig
    config = config_class(
        text_config=text_config(tokenizer) | (EXPERTS if moe else {}),
        vision_config=vision_config(),
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_start_token"],
        vision_end_token_id=ids["vision_end_token"],
        tie_word_embeddings=False,
    )
    model_class = Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SIZE.seed)
        hf = model_class(config).eval()
        scale_weights(hf, SIZE)
    hf.generation_config.pad_token_id = tokenizer.pad_token_id
    hf.save_pretrained(folder)
    image = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor"}
    write_json(folder / "preprocessor_config.json", {**PICTURE, "size": IMAGE_SIZE, **image})
    video = {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    write_json(folder / "video_preprocessor_config.json", {**PICTURE, "size": VIDEO_SIZE, **video})
    return folder


def text_config(tokenizer) -> dict:
    return dict(
        vocab_size=len(tokenizer),
        hidden_size=SIZE.hidden,
        intermediate_size=SIZE.intermediate,
        num_hidden_layers=SIZE.layers,
        num_attention_heads=SIZE.heads,
        num_key_value_heads=SIZE.kv_heads,
        head_dim=16,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    )


def vision_config() -> dict:
    return dict(
        depth=2,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=SIZE.hidden,
        deepstack_visual_indexes=[0, 1],
        num_position_embeddings=64,
    )


def samples(media: Path) -> list[Sample]:
    silent = write_clip(CLIP, media / "silent.mp4", sound=False)
    return [
        Sample(id="0", video=str(silent), **ASK),
        Sample(id="1", image=str(write_png(CLIP, media / "picture.png")), **ASK),
    ]


def processor(folder: Path):
    """Transformers' own, of the folder's files."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    return Qwen3VLProcessor(
        Qwen2VLImageProcessor.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        Qwen3VLVideoProcessor.from_pretrained(folder, cap_pixels_per_frame=False),
        chat_template=TEMPLATE,
    )


def published(folder: Path, prompt) -> dict:
    """Keyword arguments of the model's forward for the prompt's sample, by transformers' own processor."""
    import av
    from transformers.video_utils import VideoMetadata

    sample, call = prompt.sample, {}
    if sample.video:
        with av.open(sample.video) as file:
            every = [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in file.decode(video=0)]
            rate = float(file.streams.video[0].average_rate)
        count = int(len(every) / rate * 2.0 + 1e-6) // 2 * 2
        numbers = torch.linspace(0, len(every) - 1, count, dtype=torch.float64).round().long().tolist()
        meta = VideoMetadata(total_num_frames=len(every), fps=rate, frames_indices=numbers)
        call["videos"] = [torch.stack([every[n] for n in numbers])]
        call["videos_kwargs"] = dict(do_sample_frames=False, video_metadata=[meta])
    if sample.image:
        with av.open(sample.image) as file:
            picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
        call["images"] = [torch.from_numpy(picture).permute(2, 0, 1)]
    kinds = [{"type": kind} for kind in ("image", "video") if getattr(sample, kind)]
    chat = [{"role": "user", "content": [*kinds, {"type": "text", "text": _words(sample)}]}]
    own = processor(folder)
    text = own.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return own(text=[text], return_tensors="pt", **call)


def _words(sample: Sample) -> str:
    from avflow.models.wording import Wording

    return "".join(line for line, _, _ in Wording("").user_lines(sample))
