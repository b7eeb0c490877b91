"""Items of the question set: scene and question by number, in memory or as mp4 files with a JSONL file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..media import frame_count, resize
from ..sample import LETTERS, Sample
from . import picture, sound
from .questions import TASKS, Question, ask
from .scene import SECONDS, SPLITS, Scene, make_scene


@dataclass(frozen=True)
class Item:
    """A scene and a question about it."""

    id: str
    scene: Scene
    question: Question

    def sample(self, video) -> Sample:
        """As a sample whose clip is the file `video`."""
        q = self.question
        letter = LETTERS[q.options.index(q.answer)]
        return Sample(self.id, q.text, list(q.options), letter, video=str(video), task=q.task)


def make_items(split: str, count: int, seed: int = 0, tasks: Sequence[str] | None = None) -> list[Item]:
    """`count` items, the tasks in turn. Item i is the same whatever the count; any count can be asked for.

    Raises:
        InputError: an unknown split or task.
    """
    tasks = list(TASKS) if tasks is None else list(tasks)
    if unknown := [t for t in tasks if t not in TASKS]:
        raise InputError(f"task {unknown[0]!r}: pass one of {', '.join(TASKS)}")
    if split not in SPLITS:
        raise InputError(f"split {split!r}: pass one of {', '.join(SPLITS)}")
    items = []
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), i])
        task = TASKS[tasks[i % len(tasks)]]
        scene = make_scene(rng, split, str(rng.choice(task.pictures)), str(rng.choice(task.sounds)))
        items.append(Item(f"{split}-{seed}-{i:05d}-{task.name}", scene, ask(scene, task.name, rng)))
    return items


def frames_read(scene: Scene, side: int) -> torch.Tensor:
    """The frames that a model with pictures of `side` x `side` reads at 2 fps: uint8 [8, 3, side, side].

    The same frames, and the same resizing, as avflow.media takes from the clip's file, without the codec's noise.
    """
    times = picture.file_times()
    n = frame_count(SECONDS, len(times))
    kept = times[np.rint(np.round(np.linspace(0, len(times) - 1, n), 6)).astype(int)]
    pixels = torch.from_numpy(picture.frames(scene, kept)).permute(0, 3, 1, 2).contiguous()
    return resize(pixels, side, side)


def write_scene(scene: Scene, path) -> Path:
    """The scene as an mp4 file with sound."""
    from ..demo.clips import SAMPLE_RATE, write_media

    shown = picture.frames(scene, picture.file_times())
    return write_media(path, shown, picture.FPS, sound.waveform(scene, SAMPLE_RATE))


def write_items(items: Sequence[Item], folder) -> Path:
    """Write a clip per item (clips/<id>.mp4) and samples.jsonl; the JSONL's path. What a file holds is overwritten."""
    folder = Path(folder)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    lines = []
    for item in items:
        name = f"clips/{item.id}.mp4"
        write_scene(item.scene, folder / name)
        lines.append(item.sample(name).to_json())
    path = folder / "samples.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
