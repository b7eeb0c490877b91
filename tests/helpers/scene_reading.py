"""Reads answers back from a clip's pixels and sound alone, by plain image and signal processing."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, signal

from avflow.synthetic.scene import COLORS

RATE = 16000


def shapes_in(frame: np.ndarray) -> list[np.ndarray]:
    """Masks of the connected bright parts of a picture uint8 [H, W, 3]."""
    labels, n = ndimage.label(frame.max(-1) > 90)
    return [labels == i for i in range(1, n + 1) if (labels == i).sum() > 30]


def color(frame: np.ndarray) -> str:
    pixel = np.median(frame[shapes_in(frame)[0]], axis=0)
    return min(COLORS, key=lambda name: np.abs(pixel - COLORS[name]).sum())


def shape(mask: np.ndarray) -> str:
    """By how much of its box it fills, and whether its upper half is as full as its lower half."""
    rows, columns = np.nonzero(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    half = box.shape[0] // 2
    if box[:half].sum() < 0.6 * box[-half:].sum():
        return "triangle"
    fill = box.mean()
    return "square" if fill > 0.9 else "circle" if fill > 0.67 else "cross"


def centre(mask: np.ndarray) -> np.ndarray:
    """(x, y)"""
    return np.array(ndimage.center_of_mass(mask))[::-1]


def direction(first: np.ndarray, last: np.ndarray) -> str:
    dx, dy = centre(shapes_in(last)[0]) - centre(shapes_in(first)[0])
    return ("left", "right")[int(dx > 0)] if abs(dx) > abs(dy) else ("up", "down")[int(dy > 0)]


def bursts(sound: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) sample of every loud stretch."""
    loud = np.sqrt(ndimage.uniform_filter1d(sound.astype(np.float64) ** 2, 320)) > 0.05
    labels, n = ndimage.label(loud)
    return [(s.start, s.stop) for (s,) in ndimage.find_objects(labels)[:n]]


def frequency(sound: np.ndarray) -> float:
    """Hz of the strongest component."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 16))
    return float(spectrum.argmax() * RATE / (1 << 16))


def is_tone(sound: np.ndarray) -> bool:
    """One steady frequency: nearly all power close to one line, or to it and its octave."""
    f, power = signal.periodogram(sound, RATE, window="hann")
    peak = f[power.argmax()]
    near = (abs(f - peak) < 20) | (abs(f - 2 * peak) < 20)
    return bool(power[near].sum() > 0.8 * power.sum())


def pitch(sound: np.ndarray) -> str:
    parts = bursts(sound)
    first, last = parts[0][0] + 400, parts[-1][1] - 400
    low, high = frequency(sound[first : first + 2000]), frequency(sound[last - 2000 : last])
    return "rising" if high > 1.2 * low else "falling" if low > 1.2 * high else "constant"


def rhythm(sound: np.ndarray) -> str:
    starts = np.array([a for a, _ in bursts(sound)])
    gaps = np.diff(starts)
    return "faster" if gaps[-1] < 0.7 * gaps[0] else "slower" if gaps[0] < 0.7 * gaps[-1] else "even"
