"""A tiny checkpoint folder of every model family, and samples with real media files for it: a module each.

A module has
    build(folder: Path) -> Path             writes a checkpoint of random fp32 weights: config, weights, processor files
    samples(media: Path) -> list[Sample]    one per kind of prompt, with short files in the folder `media`
    published(folder, prompt) -> dict       what transformers' own processor makes of the prompt's sample: keyword
                                            arguments of the model's forward; None where transformers has none
    OPTIONS                                 of `model.prepare`, if any

tests/models/test_family_matrix.py runs every module that is here through every entry point.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import torch
from clips import Clip, write_clip, write_png, write_wav

from avflow.prompts.sample import Sample

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
