"""The pictures of a scene: flat shapes on a dark ground."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .scene import COLORS, SECONDS, Scene

SIDE = 112  # pixels of a clip's picture; the small model reads it at half that
FPS = 8  # of a clip's file
_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "": (0, 0)}


def places(scene: Scene, t: float) -> list[tuple[str, float, float, float]]:
    """What is to be seen at `t` seconds: (shape, x, y, radius) of each, in pixels of a SIDE x SIDE picture."""
    rng = scene.rng("places")
    if scene.picture == "crowd":
        quarters, out = rng.permutation(4)[: scene.number], []
        for quarter in quarters:
            x, y = 28 + 56 * (quarter % 2), 28 + 56 * (quarter // 2)
            turn, (dx, dy), radius = rng.uniform(0, 6.28), rng.uniform(-4, 4, 2), rng.uniform(16, 19)
            angle = turn + 2 * np.pi * t / SECONDS
            out.append((scene.shapes[0], x + dx + 3 * np.cos(angle), y + dy + 3 * np.sin(angle), radius))
        return out
    dx, dy = _STEPS[scene.direction]
    aside, reach, radius = rng.uniform(-10, 10), rng.uniform(26, 34), rng.uniform(19, 23)
    way = reach * (2 * t / SECONDS - 1)  # from -reach to reach, through the middle
    x = SIDE / 2 + (dx * way if dx else aside)
    y = SIDE / 2 + (dy * way if dy else aside)
    return [(scene.shapes[min(int(2 * t / SECONDS), len(scene.shapes) - 1)], x, y, radius)]


def draw(scene: Scene, t: float) -> np.ndarray:
    """The picture at `t` seconds: uint8 [SIDE, SIDE, 3], RGB."""
    rng = scene.rng("shades")
    ground, shade = rng.uniform(10, 40, 3), rng.uniform(0.88, 1.06)
    picture = np.broadcast_to(ground.astype(np.uint8), (SIDE, SIDE, 3)).copy()
    color = np.clip(np.array(COLORS[scene.color]) * shade, 0, 255).astype(np.uint8)
    for shape, cx, cy, r in places(scene, t):
        left, top = max(int(cx - r), 0), max(int(cy - r), 0)
        part = picture[top : int(cy + r) + 2, left : int(cx + r) + 2]  # all that the shape can cover
        y, x = np.ogrid[: part.shape[0], : part.shape[1]]
        part[_inside(shape, x + (left - cx), y + (top - cy), r)] = color
    return picture


def _inside(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    if shape == "circle":
        return x * x + y * y <= r * r
    if shape == "square":
        return (abs(x) <= 0.86 * r) & (abs(y) <= 0.86 * r)
    if shape == "triangle":  # point up: its half width grows from 0 at the top to r at the foot
        return (abs(y) <= r) & (abs(x) <= (y + r) / 2)
    return ((abs(x) <= 0.33 * r) & (abs(y) <= r)) | ((abs(y) <= 0.33 * r) & (abs(x) <= r))  # cross


def file_times() -> np.ndarray:
    """Seconds of the file's frames: [SECONDS * FPS]."""
    return np.arange(round(SECONDS * FPS)) / FPS


def frames(scene: Scene, times: Iterable[float] | np.ndarray) -> np.ndarray:
    """uint8 [T, SIDE, SIDE, 3] at `times` (seconds)."""
    return np.stack([draw(scene, float(t)) for t in times])
