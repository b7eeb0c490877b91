"""The sound of a scene: tones, glides, beeps and noise bursts, as spans of time and as a waveform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scene import LEVELS, SECONDS, Scene

BEEP = 0.2  # seconds
_DISTANCES = {"faster": (1.1, 0.85, 0.6, 0.35), "slower": (0.35, 0.6, 0.85, 1.1), "even": (0.7, 0.7, 0.7, 0.7)}


@dataclass(frozen=True)
class Span:
    """Sound from `start` to `stop` seconds: "tone" of `low` Hz, "sweep" from `low` to `high` Hz, or "noise"."""

    kind: str
    start: float
    stop: float
    low: float = 0.0
    high: float = 0.0


def spans(scene: Scene) -> list[Span]:
    """What is to be heard, in order of time."""
    rng = scene.rng("spans")
    detune = rng.uniform(0.97, 1.03)
    pitch = [LEVELS[i] * detune for i in scene.levels]
    if scene.sound == "pair":
        start, stop = rng.uniform(0.2, 0.6), rng.uniform(3.4, 3.8)
        if scene.glide:
            return [Span("sweep", start, stop, pitch[0], pitch[1])]
        gap = rng.uniform(0.1, 0.3)
        return [Span("tone", start, 2 - gap, pitch[0]), Span("tone", 2 + gap, stop, pitch[1])]
    if scene.sound == "beeps":
        step = rng.uniform(0.6, 0.8)
        first = rng.uniform(0.15, SECONDS - 0.35 - step * (scene.beeps - 1))
        return [Span("tone", first + i * step, first + i * step + BEEP, pitch[0]) for i in range(scene.beeps)]
    if scene.sound == "rhythm":
        starts = rng.uniform(0.1, 0.8) + np.concatenate([[0.0], np.cumsum(_DISTANCES[scene.rhythm])])
        return [Span("tone", float(s), float(s) + BEEP, pitch[0]) for s in starts]
    own = (2 * scene.half + rng.uniform(0.1, 0.4), 2 * scene.half + rng.uniform(1.6, 1.9))
    rest = (2 * (1 - scene.half) + rng.uniform(0.1, 0.4), 2 * (1 - scene.half) + rng.uniform(1.6, 1.9))
    out = [Span("tone", *own, pitch[0])]
    if scene.other == "noise":
        out.append(Span("noise", *rest))
    elif scene.other == "sweep":  # two octaves: nothing that could be taken for a tone
        low, high = (400.0, 1600.0) if rng.random() < 0.5 else (1600.0, 400.0)
        out.append(Span("sweep", *rest, low, high))
    return sorted(out, key=lambda span: span.start)


def waveform(scene: Scene, rate: int = 16000) -> np.ndarray:
    """float32 [SECONDS * rate] in -0.6..0.6."""
    return mix(spans(scene), scene.rng("waveform"), SECONDS, rate)


def mix(sounds: Sequence[Span], rng: np.random.Generator, seconds: float, rate: int = 16000) -> np.ndarray:
    """The spans over a floor of noise: float32 [seconds * rate]. rng: loudness, overtone and noise.

    Each span fades in and out over 15 ms, so that no codec hears a click.
    """
    noise = rng.standard_normal(round(seconds * 16000))  # made at 16 kHz, so that its loudness is the same at any rate
    if rate != 16000:
        n = round(seconds * rate)
        noise = np.interp(np.arange(n) / rate, np.arange(len(noise)) / 16000, noise)
    loud, overtone, floor = rng.uniform(0.2, 0.4), rng.uniform(0.0, 0.3), rng.uniform(0.0005, 0.004)
    out = floor * noise
    for span in sounds:
        first, last = int(np.ceil(span.start * rate)), int(span.stop * rate) + 1
        t = np.arange(first, last) / rate
        fade = np.clip(np.minimum(t - span.start, span.stop - t) / 0.015, 0.0, 1.0)
        if span.kind == "noise":
            out[first:last] += 0.5 * loud * fade * noise[first:last]
            continue
        share = (t - span.start) / (span.stop - span.start)
        frequency = span.low * (span.high / span.low if span.high else 1.0) ** share  # even in octaves
        phase = 2 * np.pi * np.cumsum(frequency) / rate
        out[first:last] += loud * fade * (np.sin(phase) + overtone * np.sin(2 * phase))
    return out.astype(np.float32)
