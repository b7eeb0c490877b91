"""A row of a sweep's table."""

from __future__ import annotations

import numpy as np


def row(prompt="a", knockout="video->question", layer=0, change=-10.0, **other):
    p = 0.5
    p_knockout = None if change is None else p * (1 + change / 100)
    return {
        "prompt": prompt,
        "task": "color",
        "knockout": knockout,
        "layer": layer,
        "window": 7,
        "first_layer": max(0, layer - 3),
        "last_layer": layer + 3,
        "answer": "B",
        "p_clean": p,
        "p_knockout": p_knockout,
        "logp_clean": float(np.log(p)),
        "logp_knockout": None if change is None else float(np.log(p_knockout)),
        "change_percent": change,
        "top_clean": "B",
        "top_knockout": None if change is None else "B",
        "correct": True,
        "correct_knockout": None if change is None else True,
        "status": "ok" if change is not None else "no token: video",
        "kernel": "cpu-avx2",
        **other,
    }
