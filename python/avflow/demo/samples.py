"""The demo's questions: several tasks over generated clips, each with one right answer that can be seen or heard."""

from __future__ import annotations

from pathlib import Path

from ..sample import LETTERS, Sample
from .clips import COLORS, DIRECTIONS, PITCHES, SHAPES, Clip

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
