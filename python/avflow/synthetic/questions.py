"""The questions about a scene: their wording, their options, and their answers, which follow from the scene alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .scene import COLORS, DIRECTIONS, RHYTHMS, SHAPES, Scene

NUMBERS = ("one", "two", "three", "four")
PITCH = ("rising", "falling", "constant")


@dataclass(frozen=True)
class Task:
    """A kind of question. needs: "visual", "audio" or "both". pictures, sounds: of the scenes that it can be asked of.

    answers: all that there are; shown: how many of them stand as options.
    """

    name: str
    needs: str
    question: str
    answers: tuple[str, ...]
    pictures: tuple[str, ...] = ("single", "change", "crowd")
    sounds: tuple[str, ...] = ("pair", "beeps", "rhythm", "halves")
    shown: int = 3

    def fits(self, scene: Scene) -> bool:
        return scene.picture in self.pictures and scene.sound in self.sounds


TASKS = {
    task.name: task
    for task in (
        Task("color", "visual", "Which color is shown?", tuple(COLORS)),
        Task("shape", "visual", "Which shape is shown?", SHAPES, pictures=("single", "crowd")),
        Task("direction", "visual", "Which way does the shape move?", DIRECTIONS, pictures=("single", "change")),
        Task("number", "visual", "How many shapes are seen?", NUMBERS, pictures=("crowd",)),
        Task("pitch", "audio", "How does the pitch change?", PITCH, sounds=("pair",)),
        Task("rhythm", "audio", "How does the rhythm change?", RHYTHMS, sounds=("rhythm",)),
        Task("count", "audio", "How many beeps are heard?", NUMBERS, sounds=("beeps",)),
        Task(
            "tone_shape", "both", "Which shape is seen during the tone?", SHAPES,
            pictures=("change",), sounds=("halves",),
        ),
        Task(
            "match", "both", "Do the beeps match the shapes in number?", ("yes", "no"),
            pictures=("crowd",), sounds=("beeps",), shown=2,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One question with its options in the order shown; `answer` is one of them."""

    task: str
    text: str
    options: tuple[str, ...]
    answer: str


def answer(scene: Scene, task: str) -> str:
    """What is right, from the scene's description.

    Raises:
        InputError: an unknown task, or one that cannot be asked of this scene.
    """
    if task not in TASKS:
        raise InputError(f"task {task!r}: pass one of {', '.join(TASKS)}")
    if not TASKS[task].fits(scene):
        raise InputError(f"task {task!r} cannot be asked of a {scene.picture} picture with the sound {scene.sound}")
    if task == "color":
        return scene.color
    if task == "shape":
        return scene.shapes[0]
    if task == "direction":
        return scene.direction
    if task == "number":
        return NUMBERS[scene.number - 1]
    if task == "pitch":
        first, second = scene.levels
        return PITCH[0 if second > first else 1 if second < first else 2]
    if task == "rhythm":
        return scene.rhythm
    if task == "count":
        return NUMBERS[scene.beeps - 1]
    if task == "tone_shape":
        return scene.shapes[scene.half]
    return "yes" if scene.beeps == scene.number else "no"


def ask(scene: Scene, task: str, rng: np.random.Generator) -> Question:
    """The question with `shown` options in random order. Of two shapes on screen, both are among the options."""
    right = answer(scene, task)
    kind = TASKS[task]
    must = [right, *(s for s in scene.shapes if task == "tone_shape" and s != right)]
    rest = [a for a in kind.answers if a not in must]
    chosen = must + [str(a) for a in rng.permutation(rest)[: kind.shown - len(must)]]
    return Question(task, kind.question, tuple(str(o) for o in rng.permutation(chosen)), right)
