"""What the small trained models show of the study's findings (arXiv 2606.10147), on held-out clips and items.

    python benchmarks findings/measure [tiny-omni] [tiny-salmonn]      # default: both

writes benchmarks/results/<model>/findings.json, the pictures docs/findings-*.png and docs/experiments.png, and the
tables of docs/findings.md, in some five minutes on one core. Whatever is chosen from measurements (a path's strongest
layer for the random control, pathways, an eviction schedule) is chosen on one set of samples and measured on another.
Interleaved items are tiny-omni's alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

import avflow
from avflow.experiments.pathways import count_edges
from avflow.experiments.sinks import sinks
from avflow.knockouts.presets import PRESETS
from avflow.planning.savings import eviction_cost
from avflow.prompts.correct import answers_correctly
from avflow.results.change import mean_change
from avflow.synthetic import LINEUP_TASKS, TASKS, make_items, write_items
from benchmarks.findings.tables import PAGES, draw_flow, draw_looks, write_tables

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 3  # of 12 layers, as 7 is of 28 or 36
EACH, EACH_ITEMS = 12, 30  # samples of each task, in either set
FOUND, TESTED = 101, 202  # seeds of the set that is chosen on, and of the one that is measured on
NEEDS = {name: task.needs for name, task in TASKS.items()} | {name: name for name in LINEUP_TASKS}
STUDY_PATHS = PRESETS["av_video"][:8]
# Edges that stay, read off sweeps of the set FOUND. Edges within a group stay too, but those between frames and between
# segments only where a "cross" path says so.
EARLY = range(0, 3)
PATHWAYS = {
    "cross:video": range(0, 1), "cross:audio": EARLY, "audio->video": EARLY, "video->audio": EARLY,
    "media->options": range(0, 5), "question_text->options": range(0, 6), "options->last": None,
}  # fmt: skip
# The study's two streams of interleaved items, in all layers; and the way through the question's words, which
# another training of tiny-omni took: these are the question before the reference and the line after the letters.
REFERENCE = {
    "candidates->candidates": None, "candidates->reference": None, "question_text->reference": None,
    "candidates->question_text": None, "reference->last": None,
}  # fmt: skip
LETTERS = {
    "candidates->candidates": None, "candidates->options": None, "reference->options": None, "options->options": None,
    "options->last": None,
}  # fmt: skip
WORDS = {
    "reference->question_text": None, "question_text->options": None, "options->question_text": None,
    "question_text->last": None,
}  # fmt: skip
MARKS = {"candidates->template": None, "reference->template": None, "question->template": None}
STREAMS = {
    "the study's stream by the reference": REFERENCE,
    "the study's stream by the letters": LETTERS,
    "both streams": REFERENCE | LETTERS,
    "both, and the question's words": REFERENCE | LETTERS | WORDS,
    "all that, and the marks and words around media": REFERENCE | LETTERS | WORDS | MARKS,
}
# In all layers.
WHOLE = ("video->question", "audio->question", "question->last", "video+audio->last")
WHOLE_ITEMS = (
    "candidates->reference", "candidates->options", "candidates->question_text", "candidates->last",
    "reference->options", "reference->question_text", "reference->last", "options->last", "question_text->last",
)  # fmt: skip
MASKS = ("video->last", "video->text", "video+audio->text")  # in the last layers


def prepare(model: avflow.Model, tasks: Iterable[str], each: int, seed: int) -> list[avflow.Prompt]:
    """`each` held-out samples of every task."""
    tasks = list(tasks)
    with tempfile.TemporaryDirectory() as folder:
        path = write_items(make_items("heldout", each * len(tasks), seed, tasks), folder)
        return [model.prepare(sample) for sample in avflow.Sample.read_jsonl(path)]


def by_needs(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of visual tasks, of audio ones, of those for both; of either task of interleaved items."""
    needs = pa.array([NEEDS[task] for task in table["task"].to_pylist()])
    return {name: table.filter(pc.equal(needs, name)) for name in sorted(set(needs.to_pylist()))}


def strongest(table: pa.Table) -> dict[str, dict[str, dict[str, Any]]]:
    """{needs: {path: the row of mean_change at the layer where the mean is lowest}}, with the studies' intervals."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for needs, part in by_needs(table).items():
        for row in mean_change(part, interval="percentile").to_pylist():
            best = out.setdefault(needs, {}).get(row["knockout"])
            if best is None or row["mean"] < best["mean"]:
                out[needs][row["knockout"]] = row
    return out


def accuracy(right: list[bool]) -> dict[str, Any]:
    return {"accuracy": float(np.mean(right)), "samples": len(right)}


def random_control(
    model: avflow.Model, prompts: Sequence[avflow.Prompt], path: str, layer: int, needs: str
) -> dict[str, Any]:
    """The path cut around `layer`, against as many random edges there (three seeds): mean change in percent."""
    edge, changes = avflow.Knockout.parse(path), {"path": [], "random": []}
    for prompt in prompts:
        if NEEDS[prompt.task] != needs:
            continue
        n, group = len(prompt), model.groups.ids(prompt.groups)
        gone = count_edges(edge.cuts(model.groups), group, np.array(prompt.items))
        share = gone / (n * (n - 1) / 2)
        others = [avflow.Knockout("all", "all", random_share=share, seed=s, name=f"random {s}") for s in range(3)]
        rows = avflow.sweep(model, prompt, [edge, *others], WINDOW, layers=[layer]).table.to_pylist()
        for row in rows:
            changes["path" if row["knockout"] == edge.name else "random"].append(row["change_percent"])
    means = {f"{k}_mean": float(np.mean(v)) for k, v in changes.items()}
    return {"path": path, "layer": layer, "needs": needs, **means}


def masked_last_layers(model: avflow.Model, prompts: Sequence[avflow.Prompt], layers: int) -> dict[str, Any]:
    """Accuracy with media hidden from the last token or from all text in the last `layers` layers."""
    first = model.n_layers - layers
    table = avflow.sweep(model, prompts, list(MASKS), style="top_down", layers=[first], select="all").table
    rows = table.to_pylist()
    clean = [r["correct"] for r in rows if r["knockout"] == MASKS[0]]
    out: dict[str, Any] = {"first_layer": first, "none": accuracy(clean)}
    for path in MASKS:
        out[path] = accuracy([r["correct_knockout"] for r in rows if r["knockout"] == path])
    return out


def kept_edges(table: pa.Table) -> dict[str, Any]:
    """Accuracy and mean probability with only the pathways left, beside the full model and random edges."""
    out: dict[str, Any] = {}
    for run in dict.fromkeys(table["run"].to_pylist()):
        rows = table.filter(pc.equal(table["run"], run))
        out[run] = {name: float(np.mean(rows[name].to_pylist())) for name in ("edges_kept", "correct", "p")}
    return out | {"samples": len(set(table["prompt"].to_pylist()))}


@torch.no_grad()
def evicted(model: avflow.Model, schedule: avflow.EvictionSchedule, prompts: Sequence[avflow.Prompt]) -> dict[str, Any]:
    """Accuracy with and without the schedule, and what it saves, on prompts that it was not chosen on."""
    right: dict[str, list[bool]] = {"clean": [], "kept": []}
    costs = []
    for prompt in prompts:
        clean = model.hf(**prompt.model_inputs).logits[0, -1]
        with avflow.evict(model, schedule, groups=prompt.groups, items=prompt.items):
            kept = model.hf(**prompt.model_inputs).logits[0, -1]
        for name, logits in (("clean", clean), ("kept", kept)):
            right[name].append(answers_correctly(prompt, logits[None]))
        costs.append(eviction_cost(model, schedule, prompt))
    saved = {k: 1 - sum(c[k] for c in costs) / sum(c[f"clean_{k}"] for c in costs) for k in ("flops", "kv_bytes")}
    steps = {step.group: step.after for step in schedule.steps}
    return {"schedule": steps, **{k: accuracy(v) for k, v in right.items()}, "saved": saved}


def attention(table: pa.Table, layers: int) -> dict[str, dict[str, list[float]]]:
    """{needs: {group: share of the last token's attention in each layer}}, mean over prompts."""
    out: dict[str, dict[str, list[float]]] = {}
    for needs, part in by_needs(table).items():
        found: dict[str, np.ndarray] = {}
        count = len(set(part["prompt"].to_pylist()))
        for row in part.to_pylist():
            found.setdefault(row["group"], np.zeros(layers))[row["layer"]] += row["share"] / count
        out[needs] = {group: values.tolist() for group, values in found.items()}
    return out


def measure_clips(model: avflow.Model) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """What clips show; and the tables that are drawn: "flow", "share", "lens", "pathways"."""
    clips, fresh = (prepare(model, TASKS, EACH, seed) for seed in (FOUND, TESTED))
    tables = {
        "flow": avflow.sweep(model, clips, "av_video", WINDOW, progress=True).table,
        "share": avflow.attention_share(model, clips).table,
        "lens": avflow.answer_lens(model, clips).table,
        "pathways": avflow.pathways(model, fresh, PATHWAYS, random=3).table,
    }
    found: dict[str, Any] = {
        "window": WINDOW,
        "clips": len(clips),
        "layers": model.n_layers,
        "flow": strongest(tables["flow"]),
    }
    whole = avflow.sweep(model, clips, list(WHOLE), style="top_down", layers=[0]).table
    found["whole"] = strongest(whole)
    found["random"] = [
        random_control(model, fresh, path, found["flow"][needs][path]["layer"], needs)
        for path, needs in (("video->question", "visual"), ("audio->question", "audio"), ("question->last", "both"))
    ]
    found["attention"] = attention(tables["share"], model.n_layers)
    long = sinks(model, clips, times=1.01).table["ratio"].to_pylist()
    found["sinks"] = {"rows": sum(ratio > 10 for ratio in long), "longest": max(long)}
    found["masks"] = masked_last_layers(model, fresh, 2)
    found["pathways"] = kept_edges(tables["pathways"])
    plan = avflow.plan_eviction(model, clips, ["video", "audio", "question_text"], holdout=0, margin=None)
    return found | {"evicted": evicted(model, plan, fresh)}, tables


def measure_items(model: avflow.Model, found: dict[str, Any]) -> pa.Table:
    """What interleaved items show, into `found`; the sweep's table."""
    items, fresh = (prepare(model, LINEUP_TASKS, EACH_ITEMS, seed) for seed in (FOUND, TESTED))
    lineup = avflow.sweep(model, items, "interleaved", WINDOW, progress=True).table
    found["items"], found["lineup"] = len(items), strongest(lineup)
    whole = avflow.sweep(model, items, list(WHOLE_ITEMS), style="top_down", layers=[0]).table
    found["whole_items"] = strongest(whole)
    found["attention"] |= attention(avflow.attention_share(model, items).table, model.n_layers)
    found["streams"] = {
        name: kept_edges(avflow.pathways(model, fresh, keep, random=2).table) for name, keep in STREAMS.items()
    }
    plan = avflow.plan_eviction(model, items, ["candidates", "reference", "question_text"], holdout=0, margin=None)
    found["evicted_items"] = evicted(model, plan, fresh)
    return lineup


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=PAGES, help=f"of {', '.join(PAGES)}; all of them if left out")
    torch.set_num_threads(1)
    for name in parser.parse_args(arguments).models:
        model = avflow.load(name)
        found, tables = measure_clips(model)
        lineup = measure_items(model, found) if model.family.takes_candidates else None
        file = ROOT / "benchmarks" / "results" / name / "findings.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draw_flow(by_needs(tables["flow"]), STUDY_PATHS, ROOT / "docs" / f"findings-{PAGES[name]['picture']}.png")
        if lineup is not None:
            draw_flow(by_needs(lineup), PRESETS["interleaved"], ROOT / "docs" / "findings-interleaved.png")
            draw_looks(tables["share"], tables["lens"], tables["pathways"], ROOT / "docs" / "experiments.png")
        write_tables(found, ROOT / "docs" / "findings.md", PAGES[name]["tables"])
