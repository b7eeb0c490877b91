"""A sweep over many samples as a folder, without a model: rows of made-up effects, and what every prompt is."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from avflow.report.write import report_together
from avflow.results.results import Results
from avflow.results.table import SCHEMA
from avflow.runs.told import FILE, line_of

SOURCES = ("video", "audio", "question_text", "option_correct", "option_incorrect", "last", "system")
PATHS = [f"{a}->{b}" for a in SOURCES for b in ("last", "question")][:15] + ["cross:video"]


def folder_of(folder, samples=200, layers=36, paths=15):
    """Rows and prompts.jsonl in `folder`: `samples` x `paths` x `layers`; prompts of 80 frames."""
    rng, names = np.random.default_rng(0), PATHS[:paths]
    prompt, path, layer = (a.ravel() for a in np.meshgrid(*map(np.arange, (samples, paths, layers)), indexing="ij"))
    change = rng.normal(0, 3, len(prompt)) - 40 * ((path == 1) & (abs(layer - 9) < 4)) * rng.random(samples)[prompt]
    change = np.clip(change, -99, 99)
    p = 0.5 * (1 + change / 100)
    same = {
        "prompt": [f"sample-{i:04d}" for i in prompt],
        "task": [("count", "place", "sound")[i % 3] for i in prompt],
        "knockout": [names[i] for i in path],
        "layer": layer,
        "window": np.full(len(p), 7),
        "first_layer": np.maximum(0, layer - 3),
        "last_layer": np.minimum(layers - 1, layer + 3),
        "answer": ["A"] * len(p),
        "p_clean": np.full(len(p), 0.5),
        "p_knockout": p,
        "logp_clean": np.full(len(p), np.log(0.5)),
        "logp_knockout": np.log(p),
        "change_percent": change,
        "status": ["ok"] * len(p),
        "kernel": ["cpu-avx2"] * len(p),
    }
    arrays = [pa.array(same[f.name], f.type) if f.name in same else pa.nulls(len(p), f.type) for f in SCHEMA]
    Results(pa.Table.from_arrays(arrays, schema=SCHEMA), {"experiment": "sweep"}).save(folder)
    (folder / FILE).write_text("".join(line_of(f"sample-{i:04d}", told(i)) + "\n" for i in range(samples)))
    return folder


def told(number):
    stretches = [["video", i, 9 * i, 9, ""] for i in range(80)] + [["question_text", -1, 720, 20, "What is seen here?"]]
    sample = {"id": f"sample-{number:04d}", "question": f"What is seen in clip {number}?", "options": ["red", "blue"]}
    sample |= {"answer": "A", "video": f"clip-{number}.mp4"}
    return {"sample": sample, "tokens": {"count": 741, "stretches": [*stretches, ["last", -1, 740, 1, "\n"]]}}


@functools.cache
def page() -> Path:
    """report.html of 200 samples, 36 layers and 15 paths; made once, in a folder that goes with this process."""
    folder = folder_of(Path(_kept().name) / "many")
    return report_together([folder], folder)


@functools.cache
def _kept() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()
