"""Qwen3-Omni's Thinker in a folder of the full model: experts, deepstack, sound step by step within its video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from clips import Clip, write_clip, write_png, write_wav

from avflow.models.wording import Wording
from avflow.prompts.sample import Sample
from avflow.tiny import omni
from avflow.tiny.random_weights import scale_weights
from avflow.tiny.tokenizer import build_tokenizer, save_tokenizer, write_json
from tiny_families.qwen3_vl import DEFAULT_TURN, EXPERTS, PICTURE, SIZE, text_config, vision_config

CLIP = Clip(seconds=3.0, fps=10, width=112, height=84)
ASK = {"question": "Which color is the shape?", "options": ["red", "green", "blue"], "answer": "red"}
TEMPLATE = omni.CHAT_TEMPLATE.replace(
    "{% if loop.first and m['role'] != 'system' %}" + DEFAULT_TURN + "{% endif %}", ""
)
LIMITS = {"min_pixels": 4 * 1024, "max_pixels": 6 * 1024}


def build(folder: Path, alone: bool = False) -> Path:
    """alone: a folder of the Thinker itself, as transformers saves it."""
    from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(omni.MEDIA_TOKENS)
    save_tokenizer(tokenizer, omni.MEDIA_TOKENS, TEMPLATE, folder)
    omni.save_preprocessors(folder, {**PICTURE, **LIMITS})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SIZE.seed)
        hf = Qwen3OmniMoeThinkerForConditionalGeneration(config(tokenizer)).eval()
        scale_weights(hf, SIZE)
    hf.generation_config.pad_token_id = tokenizer.pad_token_id
    hf.save_pretrained(folder)
    if not alone:
        _as_published(folder, hf)
    return folder


def config(tokenizer):
    from transformers import Qwen3OmniMoeThinkerConfig

    ids = {name: getattr(tokenizer, f"{name}_id") for name in omni.MEDIA_TOKENS}
    marks = {"vision_start_token_id": ids["vision_bos_token"], "vision_end_token_id": ids["vision_eos_token"]}
    return Qwen3OmniMoeThinkerConfig(
        text_config=text_config(tokenizer) | EXPERTS,
        vision_config=vision_config(),
        audio_config=dict(
            num_mel_bins=128,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            d_model=32,
            output_dim=SIZE.hidden,
            n_window=50,
            n_window_infer=400,
            downsample_hidden_size=16,
        ),
        audio_token_id=ids["audio_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        position_id_per_seconds=13,
        **marks,
    )


def _as_published(folder: Path, hf) -> None:
    """thinker.* tensors with each expert's matrices for themselves, and config.json of the full model around them."""
    from safetensors.torch import load_file, save_file

    saved = load_file(folder / "model.safetensors")
    named = {f"thinker.{_published_name(name)}": value for name, value in saved.items()}
    speech = {"talker.model.norm.weight": torch.zeros(8), "code2wav.post.weight": torch.zeros(8)}
    save_file(named | speech, folder / "model.safetensors", metadata={"format": "pt"})
    whole = {
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "model_type": "qwen3_omni_moe",
        "enable_audio_output": False,
        "thinker_config": hf.config.to_dict(),
    }
    write_json(folder / "config.json", whole)


def _published_name(key: str) -> str:
    key = key.removeprefix("model.") if key.startswith(("model.audio_tower.", "model.visual.")) else key
    return key.replace("model.language_model.", "model.", 1)


def samples(media: Path) -> list[Sample]:
    clip = write_clip(CLIP, media / "clip.mp4")
    return [
        Sample(id="0", video=str(clip), **ASK),
        Sample(id="1", video=str(clip), use_audio_in_video=False, **ASK),
        Sample(id="2", image=str(write_png(CLIP, media / "picture.png")), **ASK),
        Sample(id="3", audio=str(write_wav(CLIP, media / "tone.wav")), **ASK),
    ]


def published(folder: Path, prompt) -> dict:
    """Keyword arguments of the model's forward for the prompt's sample, by transformers' own processor."""
    import av
    from transformers import Qwen3OmniMoeProcessor

    processor, sample = Qwen3OmniMoeProcessor.from_pretrained(folder), prompt.sample
    call: dict = {"return_tensors": "pt"}
    both = bool(sample.video) and sample.use_audio_in_video is not False
    if sample.video:
        with av.open(sample.video) as file:
            every = [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in file.decode(video=0)]
        numbers = np.rint(np.linspace(0, len(every) - 1, 6)).astype(int)
        limits = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
        call["videos"] = [torch.stack([every[n] for n in numbers])]
        call["videos_kwargs"] = dict(do_sample_frames=False, fps=2.0, size=limits)
    if both or sample.audio:
        from avflow.media.audio import align_sound, read_audio

        sound = read_audio(sample.video if both else sample.audio)
        call["audio"] = [align_sound(sound, CLIP.seconds, "clip")[0] if both else sound]
        call["audio_kwargs"] = {"sampling_rate": 16000}
    if both:
        call |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    if sample.image:
        with av.open(sample.image) as file:
            call["images"] = [torch.from_numpy(next(file.decode(video=0)).to_ndarray(format="rgb24")).permute(2, 0, 1)]
    kinds = [{"type": kind} for kind in ("image", "video", "audio") if getattr(sample, kind)]
    words = "".join(line for line, _, _ in Wording("").user_lines(sample))
    chat = [{"role": "user", "content": [*kinds, {"type": "text", "text": words}]}]
    inputs = dict(processor(text=[processor.apply_chat_template(chat, add_generation_prompt=True)], **call))
    if "video_second_per_grid" in inputs:
        inputs["video_second_per_grid"] = torch.as_tensor(inputs["video_second_per_grid"])
        inputs["use_audio_in_video"] = both
    return inputs
