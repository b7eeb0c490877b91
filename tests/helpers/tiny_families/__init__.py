"""A tiny checkpoint folder of every model family, and samples with real media files for it: a module each.

A module has
    build(folder: Path) -> Path             writes a checkpoint of random fp32 weights: config, weights, processor files
    samples(media: Path) -> list[Sample]    one per kind of prompt, with short files in the folder `media`
    published(folder, prompt) -> dict       what transformers' own processor makes of the prompt's sample: keyword
                                            arguments of the model's forward; None where transformers has none
    OPTIONS                                 of `model.prepare`, if any
    NEEDS                                   packages without which its processor does not load, if any

tests/models/test_family_matrix.py runs every module that is here through every entry point.
"""

from __future__ import annotations

import importlib
import pkgutil
import wave
from pathlib import Path

import numpy as np
import torch
from clips import Clip, write_clip, write_png, write_wav

from avflow.prompts.sample import Sample
from avflow.tiny.checkpoint import Tiny
from avflow.tiny.random_weights import scale_weights

SIZE = Tiny(layers=3, hidden=64, intermediate=128)
CLIP = Clip(seconds=4.0, fps=12, width=112, height=84)
ASK = {"id": "0", "question": "Which color is the shape?", "options": ["red", "green", "blue"], "answer": "red"}


def names() -> list[str]:
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def family(name: str):
    return importlib.import_module(f"{__name__}.{name}")


def ask(**media) -> Sample:
    """The question about files: video, audio, image."""
    return Sample(**(ASK | {name: str(path) if isinstance(path, Path) else path for name, path in media.items()}))


def clip(media: Path, sound: bool = True) -> Path:
    return write_clip(CLIP, media / ("clip.mp4" if sound else "silent.mp4"), sound=sound)


def picture(media: Path) -> Path:
    return write_png(CLIP, media / "picture.png")


def tone(media: Path) -> Path:
    return write_wav(CLIP, media / "tone.wav")


def frames(path: str, numbers: list[int] | None = None) -> torch.Tensor:
    """All frames of a file, or those of some numbers, as PyAV gives them: uint8 [T, 3, H, W]."""
    import av

    with av.open(path) as file:
        found = [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in file.decode(video=0)]
    return torch.stack(found if numbers is None else [found[n] for n in numbers])


def samples_of(path: str) -> np.ndarray:
    """A 16-bit wav file's sound, float32 [samples]."""
    with wave.open(path) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def video_call(found: torch.Tensor, fps: float) -> dict:
    """Arguments of a Qwen processor's call for frames [T, 3, H, W] that are sampled, and have their size, already."""
    area = found.shape[-2] * found.shape[-1]
    own = {"do_sample_frames": False, "fps": fps, "size": {"shortest_edge": area, "longest_edge": area}}
    return {"videos": [found], "videos_kwargs": own}


def words(prompt) -> list[dict]:
    """The sample's system and user turn as a chat of transformers, its text in one piece after the medium."""
    from avflow.models.wording import Wording

    sample = prompt.sample
    text = "".join(line for line, _, _ in Wording("").user_lines(sample))
    kinds = [kind for kind in ("image", "video", "audio") if getattr(sample, kind)]
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def text_config(kind: str, tokenizer, **more) -> dict:
    """A small decoder of this model_type: 3 layers, 4 / 2 heads of 16."""
    sizes = dict(
        model_type=kind,
        vocab_size=len(tokenizer),
        hidden_size=SIZE.hidden,
        intermediate_size=SIZE.intermediate,
        num_hidden_layers=SIZE.layers,
        num_attention_heads=SIZE.heads,
        num_key_value_heads=SIZE.kv_heads,
        head_dim=SIZE.hidden // SIZE.heads,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    return sizes | more


def save(hf: torch.nn.Module, processor, folder: Path) -> Path:
    """Weights that make attention matter, and the processor's files, as transformers writes them."""
    scale_weights(hf, SIZE)
    hf.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
