"""Interleaved items: four candidates, a question, a reference of the other sense, and the candidates' letters.

A color goes with a pitch (`PAIRS`): nothing in an item says so, it has to be learned. Which shape is shown, and whether
a tone is held or struck twice, varies and does not count.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputError
from . import picture, sound
from .scene import HELD_OUT, LEVELS, SHAPES, SPLITS, Scene

PAIRS = {"red": 2, "green": 0, "blue": 4, "yellow": 1, "purple": 3}  # color -> number of its pitch in scene.LEVELS
STRIKES = (1, 2)  # a tone that is held, or struck twice
SOUND_SECONDS = 0.48  # of one tone: 12 audio tokens
CANDIDATES = 4


@dataclass(frozen=True)
class LineupTask:
    """A kind of interleaved item. reference: "audio" or "image"; the candidates are of the other kind."""

    name: str
    reference: str
    question: str


LINEUP_TASKS = {
    task.name: task
    for task in (
        LineupTask("find_image", "audio", "Which shape does the tone match?"),
        LineupTask("find_sound", "image", "Which tone does the shape match?"),
    )
}


@dataclass(frozen=True)
class Sight:
    """An image: one shape at rest."""

    color: str
    shape: str
    jitter: int

    def draw(self) -> np.ndarray:
        """uint8 [112, 112, 3], RGB."""
        scene = Scene("single", self.color, (self.shape,), "beeps", (0,), direction="right", jitter=self.jitter)
        return picture.draw(scene, 4.0 * scene.rng("moment").random())


@dataclass(frozen=True)
class Tone:
    """A sound: a tone of the pitch that goes with `color`, struck `strikes` times."""

    color: str
    strikes: int
    jitter: int

    def waveform(self, rate: int = 16000) -> np.ndarray:
        """float32 [0.48 s * rate]"""
        rng = np.random.default_rng([self.jitter, *b"tone"])
        start, stop = rng.uniform(0.0, 0.05), rng.uniform(SOUND_SECONDS - 0.05, SOUND_SECONDS)
        pitch, each = LEVELS[PAIRS[self.color]] * rng.uniform(0.97, 1.03), (stop - start) / self.strikes
        gap = 0.04 * (self.strikes - 1)  # of silence at the end of each
        starts = [start + i * each for i in range(self.strikes)]
        return sound.mix([sound.Span("tone", s, s + each - gap, pitch) for s in starts], rng, SOUND_SECONDS, rate)


@dataclass(frozen=True)
class Lineup:
    """Four candidates of four colors, and for each of them a reference that it alone matches.

    The item of candidate i shows all candidates and references[i].
    """

    task: str
    candidates: tuple[Sight | Tone, ...]
    references: tuple[Sight | Tone, ...]

    @property
    def content(self) -> str:
        """What the candidates show or let hear, in order, without their jitter, as canonical JSON."""
        values = [{k: v for k, v in asdict(c).items() if k != "jitter"} for c in self.candidates]
        return json.dumps([self.task, values], sort_keys=True)

    @property
    def split(self) -> str:
        """ "train" or "heldout", by a hash of the content alone: no order of candidates is in both."""
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        return SPLITS[int(digest[:8], 16) % HELD_OUT == 0]


def make_lineup(rng: np.random.Generator, split: str, task: str) -> Lineup:
    """A random lineup of `split`.

    Raises:
        InputError: an unknown split or task.
    """
    for name, value, known in (("split", split, SPLITS), ("task", task, LINEUP_TASKS)):
        if value not in known:
            raise InputError(f"{name} {value!r}: pass one of {', '.join(known)}")

    def image(color: str) -> Sight:
        return Sight(color, str(rng.choice(SHAPES)), int(rng.integers(2**31)))

    def tone(color: str) -> Tone:
        return Tone(color, int(rng.choice(STRIKES)), int(rng.integers(2**31)))

    candidate, reference = (image, tone) if LINEUP_TASKS[task].reference == "audio" else (tone, image)
    while True:
        colors = [str(c) for c in rng.permutation(list(PAIRS))[:CANDIDATES]]
        made = Lineup(task, tuple(candidate(c) for c in colors), tuple(reference(c) for c in colors))
        if made.split == split:
            return made
