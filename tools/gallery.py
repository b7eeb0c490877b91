"""Draws docs/gallery/: every figure that avflow makes, from runs of tiny-omni: `python tools/gallery.py`, two minutes.

The page, docs/gallery.md, has the command of each; a test holds the two together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

import avflow
from avflow import plots
from avflow.report.comparison import ComparedRun, compare_path
from avflow.runs.look_shift import silent
from avflow.synthetic import make_items, write_items

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "gallery"
DPI = 90
TITLE = "tiny-omni"


def drawings(model: avflow.Model, samples: list[avflow.Sample]) -> dict[str, Callable[[], Any]]:
    """Name of the file -> what draws it."""
    swept = avflow.sweep(model, samples, "after_media", window=3)
    mixed = avflow.sweep(model, samples, ["video->question", "question->last", "media->last"], window=3, select="all")
    several = avflow.sweep(model, samples, ["video->question"], window=[1, 3, 5])
    share, lens = avflow.attention_share(model, samples), avflow.answer_lens(model, samples)
    heads = avflow.attention_share(model, samples, heads=True)
    words = avflow.token_lens(model, samples, "options")
    deaf = avflow.load("tiny-omni")  # the same model, which is given no sound
    shift = avflow.lens_shift(
        model, deaf, samples, "question+options+last", ask=lambda prompt: deaf.prepare(silent(prompt))
    )
    kept = avflow.pathways(
        model,
        samples,
        keep={"video->question": range(4), "audio->question": range(4), "question->last": range(3, 9)},
        random=3,
    )
    patched = avflow.patch(model, samples, "silence+black", ["media", "options", "last"], direction="denoise")
    plan = avflow.plan_eviction(model, samples, groups=["video", "audio"], layers=range(-1, 11))
    attention = avflow.attention_map(model, samples[0], layers=[1])
    paths = ["video->question", "audio->question", "question->last", "video->last"]
    asked = {task: swept.table.filter(pc.field("task") == task) for task in ("color", "pitch")}
    tasks = [ComparedRun(task, "tiny-omni", rows, [], True) for task, rows in asked.items()]
    return {
        "flow": lambda: plots.flow(swept, paths=paths, title=TITLE),
        "flow_panels": lambda: plots.flow_panels(swept, title=TITLE),
        "heat_map": lambda: plots.heat_map(swept, title=TITLE),
        "widths": lambda: plots.widths(several, "video->question", title=TITLE),
        "accuracy": lambda: plots.accuracy(mixed, title=TITLE),
        "share_bars": lambda: plots.share_bars(share, title="Attention of the last token"),
        "share_heads": lambda: plots.share_heads(heads, title="Attention of the last token"),
        "map_image": lambda: plots.map_image(attention, layer=1),
        "lens_lines": lambda: plots.lens_lines(lens),
        "word_lines": lambda: plots.word_lines(words, "option_correct"),
        "shift_lines": lambda: plots.shift_lines(shift, title="With sound and without"),
        "pathway_bars": lambda: plots.pathway_bars(kept),
        "patch": lambda: plots.flow(patched, title="Own states put back", center="difference", interval="bca"),
        "eviction_lines": lambda: plots.eviction_lines(plan.results(), {step.group: step.after for step in plan.steps}),
        "compare_path": lambda: compare_path(tasks, "video->question"),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        items = make_items("heldout", 20, tasks=["color", "pitch"])
        samples = avflow.Sample.read_jsonl(write_items(items, folder))
        for name, draw in drawings(avflow.load("tiny-omni"), samples).items():
            figure = draw()[0]
            figure.savefig(FOLDER / f"{name}.png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
