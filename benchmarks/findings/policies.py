"""Policies that keep a part, beside avflow's planned schedule: right answers against operations, on held-out clips.

    python benchmarks findings/policies [--models tiny-omni,tiny-salmonn] [--each 8] [--results FOLDER] [--figure FILE]

on tiny-omni and tiny-salmonn, in some minutes on one core. Layers of the papers are scaled from 32 to 12. The planned
schedules are chosen on other clips. Operations are the decoder's in closed form; what ranking by the next layer, or by
embeddings, costs is not in them.
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
from avflow import Changed, EveryNth, EvictionSchedule, Step, TopK
from avflow.eviction.recipes import evs, fastv, pyramiddrop, vtw
from avflow.planning.savings import eviction_cost
from avflow.plots.information_flow import STYLE
from avflow.prompts.correct import answers_correctly
from avflow.synthetic import TASKS
from benchmarks.findings.measure import FOUND, ROOT, TESTED, prepare
from benchmarks.lib.marks import markdown_table, put
from benchmarks.lib.report import machine, write_json

MEDIA = "video+audio"
RESULTS = ROOT / "benchmarks" / "results"
MODELS = ("tiny-omni", "tiny-salmonn")
MARKERS = "*oDosXD^v<>Pdh"
RING = {"fillstyle": "none", "markersize": 14, "zorder": 5}  # around others
COLORS = ["#000000", *mpl.rcParamsDefault["axes.prop_cycle"].by_key()["color"], "#9DBF16"]
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
        "half of each second": [
            (f"after {k - 1}", EvictionSchedule([Step(MEDIA, k - 1, TopK(0.5), per="second")])) for k in (2, 4, 6)
        ],
        "every second item": [
            (f"after {k - 1}" if k else "before 0", EvictionSchedule([Step(MEDIA, k - 1, EveryNth(2))]))
            for k in (0, 1, 4, 6)
        ],
        "EVS, video alone": [(f"q = {q:.0%}".replace("%", " %"), evs(q)) for q in (0.25, 0.5, 0.75)],
        "changed, video alone": [
            (f"a quarter after {after}", EvictionSchedule([Step("video", after, Changed(0.25))])) for after in (0, 1, 3)
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


def planned(
    model: avflow.Model, drop: float, chosen_on: Sequence[avflow.Prompt], prompts: Sequence[avflow.Prompt]
) -> dict[str, Any]:
    """The row of avflow's own schedule, for a drop of accuracy that it may cost."""
    layers = range(-1, model.n_layers - 1)
    schedule = avflow.plan_eviction(model, chosen_on, ["video", "audio"], max_accuracy_drop=drop, layers=layers)
    steps = ", ".join(f"{step.group} {step.when.replace('layer ', '')}" for step in schedule.steps) or "none leave"
    family = f"planned, {100 * drop:g} points" if drop else "planned"
    return {"family": family, "name": steps, **judged(model, schedule, prompts)}


def measure(name: str, each: int) -> dict[str, Any]:
    """each: clips of every task, in the set that is chosen on and in the one that is measured on."""
    model = avflow.load(name)
    chosen_on, prompts = (prepare(model, TASKS, each, seed) for seed in (FOUND, TESTED))
    rows = [{"family": "plain", "name": "", **judged(model, None, prompts)}]
    rows += [planned(model, drop, chosen_on, prompts) for drop in (0.0, 0.05)]
    for family, members in candidates().items():
        rows += [{"family": family, "name": label, **judged(model, one, prompts)} for label, one in members]
    return {"machine": machine(), "model": name, "each": each, "results": rows}


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Right answers in percent against operations left; a panel per model, a line per family."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for ax, one in zip(panels, found, strict=True):
            families = dict.fromkeys(row["family"] for row in one["results"])
            for number, (family, marker) in enumerate(zip(families, MARKERS, strict=False)):
                rows = sorted((r for r in one["results"] if r["family"] == family), key=lambda r: r["flops_left"])
                x = [100 * r["flops_left"] for r in rows]
                y = [100 * r["right"] / r["prompts"] for r in rows]
                look = RING if family.startswith("planned") else {}
                color = COLORS[number % len(COLORS)]
                ax.plot(x, y, marker=marker, ls=":", lw=0.8, label=family, color=color, **look)
            ax.set_title(one["model"], fontsize=9)
            ax.set_xlabel("operations of the decoder left (%)")
        panels[0].set_ylabel("right answers (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        figure.savefig(path, dpi=120)


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line per policy; right, mean p and FLOPs left of every model."""
    head = ["policy", ""]
    for one in found:
        head += [f"{one['model']}: right", "mean p", "FLOPs left"]
    lines = []
    for rows in zip(*(one["results"] for one in found), strict=True):
        names = {one["model"]: row["name"] for one, row in zip(found, rows, strict=True)}
        same = len(set(names.values())) == 1
        line = [rows[0]["family"], rows[0]["name"] if same else "; ".join(f"{m}: {n}" for m, n in names.items())]
        for row in rows:
            line += [f"{row['right']} of {row['prompts']}", f"{row['p']:.3f}", f"{100 * row['flops_left']:.1f} %"]
        lines.append(line)
    return markdown_table(head, lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="with commas (default: %(default)s)")
    parser.add_argument("--each", type=int, default=8, help="clips of each task (default: %(default)s)")
    parser.add_argument("--results", metavar="FOLDER", default=str(RESULTS), help="gets MODEL/policies.json")
    parser.add_argument("--figure", metavar="FILE", default=str(PICTURE))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.no_grad():
        found = [measure(name, given.each) for name in given.models.split(",")]
    for one in found:
        write_json(str(Path(given.results) / one["model"] / "policies.json"), one)
    draw(found, Path(given.figure))
    print(table(found))
    if given.results == str(RESULTS):
        put(PAGE, "policies", table(found))
