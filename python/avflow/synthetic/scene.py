"""A scene: what a synthetic clip shows and lets hear, in words; and which split it belongs to.

A scene pairs a picture (one shape crossing it; one that turns into another half way; one to four shapes) with a sound
(two tones, a glide; beeps; a rhythm; a tone in one half of the clip). `content` is all of it but `jitter`, the number
that sets place, size, shade, loudness and timing. The split follows from a hash of the content, so a held-out clip
shows and lets hear a combination that no training clip has, whatever its jitter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputError

SECONDS = 4.0
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 40),
    "purple": (170, 50, 200),
    "white": (235, 235, 235),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = ("left", "right", "up", "down")
LEVELS = (330.0, 550.0, 880.0, 1400.0, 2200.0)  # Hz; neighbours are 8 or 9 semitones apart
RHYTHMS = ("faster", "slower", "even")
OTHERS = ("noise", "sweep", "silence")  # what the half without the tone holds
PICTURES, SOUNDS, SPLITS = ("single", "change", "crowd"), ("pair", "beeps", "rhythm", "halves"), ("train", "heldout")
HELD_OUT = 10  # one content in so many is held out


@dataclass(frozen=True)
class Scene:
    """Picture and sound of one clip.

    picture "single": `shapes` (one) moves in `direction`. "change": the same, shapes[0] turns into shapes[1] at 2 s.
    "crowd": `number` copies of shapes[0], each in a quarter of its own, wobbling in place.
    sound "pair": a tone of LEVELS[levels[0]], then one of LEVELS[levels[1]]; with `glide`, one sliding between them.
    "beeps": `beeps` of them, evenly spaced. "rhythm": five beeps whose distances shrink, grow or stay (`rhythm`).
    "halves": a tone in half `half` (0 or 1) of the clip, `other` in the other half. All at LEVELS[levels[0]].
    """

    picture: str
    color: str
    shapes: tuple[str, ...]
    sound: str
    levels: tuple[int, ...]
    direction: str = ""
    number: int = 1
    glide: bool = False
    beeps: int = 0
    rhythm: str = ""
    half: int = 0
    other: str = ""
    jitter: int = 0

    @property
    def content(self) -> str:
        """The scene without its jitter, as canonical JSON."""
        values = asdict(self)
        del values["jitter"]
        return json.dumps(values, sort_keys=True)

    @property
    def split(self) -> str:
        """ "train" or "heldout", by a hash of the content alone."""
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        return SPLITS[int(digest[:8], 16) % HELD_OUT == 0]

    def rng(self, what: str) -> np.random.Generator:
        """Random numbers of the scene's jitter, a stream of its own for each purpose."""
        return np.random.default_rng([self.jitter, *what.encode()])


def make_scene(rng: np.random.Generator, split: str, picture: str | None = None, sound: str | None = None) -> Scene:
    """A random scene of `split`; with a picture or a sound of the kind that is asked for.

    Raises:
        InputError: an unknown split, picture or sound.
    """
    for name, value, known in (("split", split, SPLITS), ("picture", picture, PICTURES), ("sound", sound, SOUNDS)):
        if value not in known and not (value is None and name != "split"):
            raise InputError(f"{name} {value!r}: pass one of {', '.join(known)}")
    while True:
        scene = _draw(rng, picture or str(rng.choice(PICTURES)), sound or str(rng.choice(SOUNDS)))
        if scene.split == split:
            return scene


def _draw(rng: np.random.Generator, picture: str, sound: str) -> Scene:
    values: dict = {"picture": picture, "sound": sound, "color": str(rng.choice(list(COLORS)))}
    shapes = [str(s) for s in rng.permutation(SHAPES)]
    values["shapes"] = tuple(shapes[: 2 if picture == "change" else 1])
    if picture == "crowd":
        values["number"] = int(rng.integers(1, 5))
    else:
        values["direction"] = str(rng.choice(DIRECTIONS))
    level = int(rng.integers(len(LEVELS)))
    values["levels"] = (level,)
    if sound == "pair":
        way = int(rng.integers(3))  # rising, falling, the same: alike often
        low, high = sorted(int(i) for i in rng.choice(len(LEVELS), 2, replace=False))
        values["levels"] = ((low, high), (high, low), (level, level))[way]
        values["glide"] = bool(rng.integers(2))
    elif sound == "beeps":
        same = picture == "crowd" and rng.random() < 0.5  # "does the number match?": yes as often as no
        others = [n for n in range(1, 5) if n != values["number"]] if picture == "crowd" else range(1, 5)
        values["beeps"] = values["number"] if same else int(rng.choice(list(others)))
    elif sound == "rhythm":
        values["rhythm"] = str(rng.choice(RHYTHMS))
    else:
        values["half"], values["other"] = int(rng.integers(2)), str(rng.choice(OTHERS))
    return Scene(**values, jitter=int(rng.integers(2**31)))
