"""Policies that keep a part, beside avflow's planned schedule: right answers against operations, on held-out clips.

    python benchmarks findings/policies [--each 4] [--json FILE] [--figure FILE]

on tiny-omni, in a minute or two on one core. Layers of the papers are scaled from 32 to 12. The planned schedule is
chosen on other clips. Operations are the decoder's in closed form; what ranking by the next layer costs is not in them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import avflow
from avflow import EveryNth, EvictionSchedule, Step, TopK
from avflow.eviction.recipes import fastv, pyramiddrop, vtw
from avflow.planning.savings import eviction_cost
from avflow.plots.information_flow import STYLE
from avflow.prompts.correct import answers_correctly
from avflow.synthetic import TASKS
from benchmarks.findings.measure import FOUND, ROOT, TESTED, prepare
from benchmarks.lib.marks import markdown_table, put
from benchmarks.lib.report import machine, write_json

MEDIA = "video+audio"
RESULTS = ROOT / "benchmarks" / "results" / "tiny-omni" / "policies.json"
PICTURE = ROOT / "docs" / "policies.png"
PAGE = ROOT / "docs" / "eviction.md"


def candidates() -> dict[str, list[tuple[str, EvictionSchedule]]]:
    """{family: [(name, schedule)]}"""
    return {
        "FastV, R = 50 %": [(f"K = {k}", fastv(k, 0.5, MEDIA)) for k in (1, 2, 4, 6, 8)],
        "FastV, R = 75 %": [(f"K = {k}", fastv(k, 0.75, MEDIA)) for k in (1, 2, 4, 6, 8)],
        "PyramidDrop": [
            (f"layers {', '.join(map(str, layers))}", pyramiddrop(layers, group=MEDIA))
            for layers in ((3, 6, 9), (4, 7, 10), (5, 8, 10))
        ],
        "VTW": [(f"K = {k}", vtw(k, MEDIA)) for k in (2, 3, 4, 6, 8, 10)],
        "by the question": [
            (f"half after {k - 1}", EvictionSchedule([Step(MEDIA, k - 1, TopK(0.5, by="question"))])) for k in (2, 4, 6)
        ],
        "every second item": [
            (f"after {k - 1}", EvictionSchedule([Step(MEDIA, k - 1, EveryNth(2))])) for k in (1, 4, 6)
        ],
    }


def judged(model: avflow.Model, schedule: EvictionSchedule | None, prompts: Sequence[avflow.Prompt]) -> dict[str, Any]:
    """Accuracy, the mean probability of the right answer, and the decoder's operations over the plain run's."""
    right, p, costs = [], [], []
    for prompt in prompts:
        if schedule is None:
            logits = model.hf(**prompt.model_inputs).logits[0, -1]
        else:
            with avflow.evict(model, schedule, groups=prompt):
                logits = model.hf(**prompt.model_inputs).logits[0, -1]
            costs.append(eviction_cost(model, schedule, prompt))
        right.append(answers_correctly(prompt, logits[None]))
        p.append(float(torch.softmax(logits.float(), -1)[prompt.answer_ids[0]]))
    left = sum(c["flops"] for c in costs) / sum(c["clean_flops"] for c in costs) if costs else 1.0
    return {"right": int(np.sum(right)), "prompts": len(prompts), "p": float(np.mean(p)), "flops_left": left}


def measure(each: int) -> dict[str, Any]:
    """each: clips of every task, in the set that is chosen on and in the one that is measured on."""
    model = avflow.load("tiny-omni")
    chosen_on, prompts = (prepare(model, TASKS, each, seed) for seed in (FOUND, TESTED))
    planned = avflow.plan_eviction(model, chosen_on, ["video", "audio"])
    rows = [{"family": "plain", "name": "", **judged(model, None, prompts)}]
    steps = ", ".join(f"{step.group} after {step.after}" for step in planned.steps)
    rows.append({"family": "planned", "name": steps, **judged(model, planned, prompts)})
    for family, members in candidates().items():
        rows += [{"family": family, "name": name, **judged(model, one, prompts)} for name, one in members]
    return {"machine": machine(), "model": "tiny-omni", "each": each, "results": rows}


def draw(found: dict[str, Any], path: Path) -> None:
    """Right answers in percent against operations left; a line per family."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        families = dict.fromkeys(row["family"] for row in found["results"])
        for family, marker in zip(families, "*oosXD^v", strict=False):
            rows = sorted((r for r in found["results"] if r["family"] == family), key=lambda r: r["flops_left"])
            x = [100 * r["flops_left"] for r in rows]
            y = [100 * r["right"] / r["prompts"] for r in rows]
            ring = {"fillstyle": "none", "markersize": 14, "zorder": 5} if family == "planned" else {}  # around others
            ax.plot(x, y, marker=marker, ls=":", lw=0.8, label=family, **ring)
        ax.set_xlabel("operations of the decoder left (%)")
        ax.set_ylabel("right answers (%)")
        ax.legend(fontsize=8)
        figure.savefig(path, dpi=120)


def table(found: dict[str, Any]) -> str:
    head = ["policy", "", "right", "mean p", "FLOPs left"]
    return markdown_table(
        head,
        [
            [
                r["family"],
                r["name"],
                f"{r['right']} of {r['prompts']}",
                f"{r['p']:.3f}",
                f"{100 * r['flops_left']:.1f} %",
            ]
            for r in found["results"]
        ],
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=4, help="clips of each task (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", default=str(RESULTS))
    parser.add_argument("--figure", metavar="FILE", default=str(PICTURE))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.no_grad():
        found = measure(given.each)
    write_json(given.json, found)
    draw(found, Path(given.figure))
    print(table(found))
    if given.json == str(RESULTS):
        put(PAGE, "policies", table(found))
