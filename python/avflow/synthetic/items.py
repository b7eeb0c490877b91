"""Items of the question set: scene and question by number, in memory or as mp4 files with a JSONL file."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..media.images import resize
from ..media.video import frame_count
from ..prompts.sample import LETTERS, Sample
from . import picture, sound
from .lineup import LINEUP_TASKS, Lineup, Sight, Tone, make_lineup
from .questions import TASKS, Question, ask
from .scene import SECONDS, SPLITS, Scene, make_scene


@dataclass(frozen=True)
class Item:
    """A scene and a question about it."""

    id: str
    scene: Scene
    question: Question

    def sample(self, video: str | Path) -> Sample:
        """As a sample whose clip is the file `video`."""
        q = self.question
        letter = LETTERS[q.options.index(q.answer)]
        return Sample(self.id, q.text, list(q.options), letter, video=str(video), task=q.task)

    def write(self, folder: Path) -> Sample:
        """The clip as media/<id>.mp4 in `folder`; the sample, with a path relative to it."""
        name = f"media/{self.id}.mp4"
        (folder / "media").mkdir(parents=True, exist_ok=True)
        write_scene(self.scene, folder / name)
        return self.sample(name)


@dataclass(frozen=True)
class LineupItem:
    """An interleaved item: all candidates of the lineup, and the reference that candidate `right` (from 0) matches."""

    id: str
    lineup: Lineup
    right: int

    def write(self, folder: Path) -> Sample:
        """Its files as media/<id>-A.png .. and media/<id>-reference.wav, or the reverse; the sample, paths relative."""
        (folder / "media").mkdir(parents=True, exist_ok=True)
        task, paths = LINEUP_TASKS[self.lineup.task], []
        shown = [*self.lineup.candidates, self.lineup.references[self.right]]
        for name, medium in zip((*LETTERS[: len(shown) - 1], "reference"), shown, strict=True):
            paths.append(f"media/{self.id}-{name}.{'png' if isinstance(medium, Sight) else 'wav'}")
            _write_medium(medium, folder / paths[-1])
        *candidates, reference = paths
        return Sample(
            self.id,
            task.question,
            answer=LETTERS[self.right],
            task=task.name,
            candidates=candidates,
            reference=reference,
        )


def make_items(split: str, count: int, seed: int = 0, tasks: Sequence[str] | None = None) -> list[Item | LineupItem]:
    """`count` items, the tasks in turn. Item i is the same whatever the count; any count can be asked for.

    Args:
        tasks: of TASKS (a clip each) and LINEUP_TASKS (interleaved items); None: all of TASKS.

    Raises:
        InputError: an unknown split or task.
    """
    tasks = list(TASKS) if tasks is None else list(tasks)
    if unknown := [t for t in tasks if t not in TASKS and t not in LINEUP_TASKS]:
        raise InputError(f"task {unknown[0]!r}: pass one of {', '.join([*TASKS, *LINEUP_TASKS])}")
    if split not in SPLITS:
        raise InputError(f"split {split!r}: pass one of {', '.join(SPLITS)}")
    items: list[Item | LineupItem] = []
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), i])
        name = tasks[i % len(tasks)]
        if name in LINEUP_TASKS:
            lineup = make_lineup(rng, split, name)
            right = int(rng.integers(len(lineup.candidates)))
            items.append(LineupItem(f"{split}-{seed}-{i:05d}-{name}", lineup, right))
            continue
        task = TASKS[name]
        scene = make_scene(rng, split, str(rng.choice(task.pictures)), str(rng.choice(task.sounds)))
        items.append(Item(f"{split}-{seed}-{i:05d}-{task.name}", scene, ask(scene, task.name, rng)))
    return items


def frame_numbers() -> list[int]:
    """Which of a clip's frames Qwen2.5-Omni reads: 8, at 2 fps, as avflow.media.video takes them from the file."""
    total = len(picture.file_times())
    return np.rint(np.round(np.linspace(0, total - 1, frame_count(SECONDS, total)), 6)).astype(int).tolist()


def frames_read(scene: Scene, side: int, numbers: Sequence[int] | None = None) -> torch.Tensor:
    """The frames that a model with pictures of `side` x `side` reads: uint8 [T, 3, side, side].

    The same resizing as avflow.media.video does with the clip's file, without the codec's noise.

    Args:
        numbers: which of the file's frames; None: `frame_numbers()`.
    """
    kept = picture.file_times()[frame_numbers() if numbers is None else list(numbers)]
    pixels = torch.from_numpy(picture.frames(scene, kept)).permute(0, 3, 1, 2).contiguous()
    return resize(pixels, side, side)


def write_scene(scene: Scene, path: str | Path) -> Path:
    """The scene as an mp4 file with sound."""
    from .files import SAMPLE_RATE, write_media

    shown = picture.frames(scene, picture.file_times())
    return write_media(path, shown, picture.FPS, sound.waveform(scene, SAMPLE_RATE))


def _write_medium(medium: Sight | Tone, path: Path) -> None:
    if isinstance(medium, Sight):
        from PIL import Image

        Image.fromarray(medium.draw()).save(path)
        return
    with wave.open(str(path), "wb") as out:  # 16-bit, mono, 16 kHz
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((medium.waveform() * 32767).astype("<i2").tobytes())


def write_items(items: Sequence[Item | LineupItem], folder: str | Path) -> Path:
    """Write every item's media and samples.jsonl; the JSONL's path. What a file holds is overwritten."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [item.write(folder).to_json() for item in items]
    path = folder / "samples.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
