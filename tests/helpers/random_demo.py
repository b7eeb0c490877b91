"""Clips, questions about them with one right answer each, and a checkpoint of random weights, as files.

It shows that every stage runs, on real files, and answers nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clips import COLORS, DIRECTIONS, PITCHES, SHAPES, Clip, write_clip

from avflow.prompts.sample import LETTERS, Sample
from avflow.tiny.checkpoint import Tiny, build

VERSION = 3  # raise it when what is made changes: older folders are then made again
QUESTIONS = {
    "color": ("Which color is the shape?", tuple(COLORS)),
    "shape": ("Which shape moves through the picture?", SHAPES),
    "pitch": ("How high is the tone?", tuple(PITCHES)),
    "direction": ("In which direction does the shape move?", DIRECTIONS),
}


def make_clips(count: int = 6, seconds: float = 4.0) -> list[Clip]:
    """`count` different clips: color, shape, pitch and direction run through their values at different paces."""
    colors, pitches = list(COLORS), list(PITCHES)
    most = len(colors) * len(SHAPES) * len(pitches) * len(DIRECTIONS)
    if not 1 <= count <= most:
        raise ValueError(f"{count} clips: there are 1 to {most} different ones")
    clips = []
    for i in range(count):
        # i in mixed radix: every value of one property before the next property's value repeats a clip
        a, b, c, d = i % 4, i // 4 % 3, i // 12 % 3, i // 36 % 2
        clips.append(
            Clip(
                color=colors[a],
                shape=SHAPES[(a + b) % 3],
                pitch=pitches[(a + 2 * b + c) % 3],
                direction=DIRECTIONS[(a + b + c + d) % 2],
                seconds=seconds,
            )
        )
    return clips


def make_samples(clips: list[Clip], paths: list[Path], tasks: tuple[str, ...] = tuple(QUESTIONS)) -> list[Sample]:
    """Two questions per clip, one about what is seen or heard after the other, so that all `tasks` come in turn."""
    samples = []
    for i, (clip, path) in enumerate(zip(clips, paths, strict=True)):
        for j in (2 * i, 2 * i + 1):
            task = tasks[j % len(tasks)]
            question, options = QUESTIONS[task]
            # The right letter goes round: 0, 1, 2 .. from one sample of a task to its next.
            turn = (options.index(getattr(clip, task)) - j // len(tasks) - j) % len(options)
            shown = [*options[turn:], *options[:turn]]
            samples.append(
                Sample(
                    id=f"{clip.name}-{task}",
                    question=question,
                    options=shown,
                    answer=LETTERS[shown.index(getattr(clip, task))],
                    video=str(path),
                    task=task,
                )
            )
    return samples


def make(
    folder, clips: int = 6, seconds: float = 4.0, size: Any = None, family: str = "qwen2_5_omni"
) -> dict[str, Any]:
    """Write the demo's files to `folder` and tell where they are. What is already there, and the same, is kept.

    Args:
        clips: how many; each has two samples. seconds: length of each. size: a checkpoint.Tiny.
        family: of the checkpoint, one of checkpoint.FAMILIES.

    Returns:
        checkpoint: its folder. samples: the JSONL file. clips: list of mp4 files. All are paths as text.
    """
    size, folder = size or Tiny(), Path(folder)
    wanted = make_clips(clips, seconds)
    paths = [folder / "clips" / f"{clip.name}.mp4" for clip in wanted]
    found: dict[str, Any] = {"checkpoint": str(folder / "checkpoint"), "samples": str(folder / "samples.jsonl")}
    found |= {"clips": [str(path) for path in paths]}
    state = {
        "version": VERSION,
        "clips": [asdict(clip) for clip in wanted],
        "checkpoint": asdict(size),
        "family": family,
    }
    stamp = folder / "demo.json"  # written last: a folder without it was left half way
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == json.dumps(state) and _all_there(found):
        return found
    stamp.unlink(missing_ok=True)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for clip, path in zip(wanted, paths, strict=True):
        write_clip(clip, path)
    relative = [path.relative_to(folder) for path in paths]
    lines = [sample.to_json() for sample in make_samples(wanted, relative)]
    Path(found["samples"]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    build(found["checkpoint"], family, size)
    stamp.write_text(json.dumps(state), encoding="utf-8")
    return found


def _all_there(found: dict[str, Any]) -> bool:
    files = [*found["clips"], found["samples"], str(Path(found["checkpoint"]) / "model.safetensors")]
    return all(Path(file).is_file() for file in files)
