"""A sample as the report shows it: its frames and waveforms, what each token is, and the answers with and without a
schedule. report/samples.py writes such samples."""

from __future__ import annotations

import base64
import io
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..media.audio import SAMPLE_RATE, read_audio
from ..media.images import resize
from ..media.stills import read_image
from ..media.video import read_video
from ..models.base import Model
from ..prompts.prompt import Prompt
from ..prompts.sample import LETTERS, Sample
from ..report.tables import group_style
from ..runtime.generating import Generated

MOST_FRAMES, LARGEST = 16, 144  # of a strip; pixels of a frame's longer side
COLUMNS = 480  # of a waveform


def sample_view(prompt: Prompt, model: Model) -> dict[str, Any]:
    """The sample of a prompt that `model.prepare` made, as JSON values.

    id, task, question, options [[letter, text]], answer, media (see `media_of`), tokens: count, groups [{group, label,
    color, hatched, count}] and stretches [[group number, item, first token, tokens, text]]; text is "" for media.

    Raises:
        InputError: the prompt was built by hand, from no sample.
    """
    if (sample := prompt.sample) is None:
        raise InputError(
            "this prompt comes from no sample, so there is nothing to show: make it by model.prepare(sample)"
        )
    groups, ids = list(dict.fromkeys(prompt.groups)), prompt.input_ids
    items = prompt.items if prompt.items is not None else [-1] * len(prompt)
    stretches, at = [], 0
    for (group, item), members in itertools.groupby(zip(prompt.groups, items, strict=True)):
        count = len(list(members))
        media = group in model.groups.members("media")
        text = "" if media or ids is None else model.text(ids[at : at + count].tolist())
        stretches.append([groups.index(group), item, at, count, text[:200]])
        at += count
    counts = [{"group": g, **group_style(g), "count": list(prompt.groups).count(g)} for g in groups]
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "options": [[letter, text] for letter, text in zip(LETTERS, sample.options or [], strict=False)],
        "answer": sample.answer,
        "media": media_of(sample),
        "tokens": {"count": len(prompt), "groups": counts, "stretches": stretches},
    }


def media_of(sample: Sample) -> list[dict[str, Any]]:
    """Strips of pictures {label, pictures: [data URI], times: [s] or None} and sounds {label, low, high, seconds}."""
    found: list[dict[str, Any]] = []
    if sample.video:
        video = read_video(sample.video, size=_small)
        keep = np.unique(np.linspace(0, len(video.times) - 1, MOST_FRAMES).round().astype(int))
        times = [round(video.times[i], 2) for i in keep]
        found.append({"label": "video", "pictures": [_uri(video.frames[i]) for i in keep], "times": times})
        if video.has_sound and sample.use_audio_in_video is not False and not sample.audio:
            found.append(_sound("sound of the video", sample.video))
    pictures, sounds = [sample.image] if sample.image else [], [sample.audio] if sample.audio else []
    for path in [*(sample.candidates or []), *([sample.reference] if sample.reference else [])]:
        (pictures if sample._kind("a medium", path) == "image" else sounds).append(path)
    if pictures:
        found.append({"label": "images", "pictures": [_uri(_shrunk(read_image(p))) for p in pictures], "times": None})
    return found + [_sound(Path(path).name, path) for path in sounds]


def answers(clean: Generated, evicted: Generated) -> dict[str, Any]:
    """The answers of one prompt without and with a schedule, and what they took."""
    return {"clean": asdict(clean), "evicted": asdict(evicted), "same": clean.ids == evicted.ids}


def _small(frames: int, height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LARGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shrunk(pixels: torch.Tensor) -> torch.Tensor:
    return resize(pixels, *_small(1, *pixels.shape[-2:]))


def _uri(pixels: torch.Tensor) -> str:
    """uint8 [3, H, W] as a data URI."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(out, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _sound(label: str, path: str) -> dict[str, Any]:
    """The waveform's lowest and highest value in each of COLUMNS equal stretches, -1..1."""
    sound = read_audio(path)
    stretches = np.array_split(sound, min(COLUMNS, len(sound)))
    low, high = ([round(float(f(s)), 3) for s in stretches] for f in (np.min, np.max))
    return {"label": label, "low": low, "high": high, "seconds": round(len(sound) / SAMPLE_RATE, 3)}
