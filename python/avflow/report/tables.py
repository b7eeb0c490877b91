"""What look and plan runs hold, for the page: attention shares, lenses, eviction curves."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..plots.attention import GROUP_STYLE, lens_means, share_means
from ..plots.eviction import group_looks
from ..plots.style import GREY, words
from ..plots.words import COLORS, shift_means, word_shares
from .colors import dashes, ink

LENS_STYLE = {"true option": ("blue", []), "false option": ("vermillion", [8.0, 3.0]), "answer": ("blue", [])}


def by_task(table: pa.Table) -> list[tuple[str, pa.Table]]:
    """All rows (task ""), then those of each task where there are several."""
    tasks = [t for t in pc.unique(table["task"]).to_pylist() if t]
    own = [(task, table.filter(pc.equal(table["task"], task))) for task in tasks] if len(tasks) > 1 else []
    return [("", table), *own]


def group_style(group: str) -> dict[str, Any]:
    """color and hatched of a token group, as in the figures."""
    color, hatch = GROUP_STYLE.get(group, (GREY, "xx"))
    return {"label": words(group), "color": ink(color), "hatched": bool(hatch)}


def tokens_of(told: dict[str, Any]) -> dict[str, Any]:
    """The tokens of `runs.told.told` as the page draws them: count, groups [{group, label, color, hatched, count}] and
    stretches, whose groups are numbers of these."""
    counts: dict[str, int] = {}
    for group, _, _, count, _ in told["stretches"]:
        counts[group] = counts.get(group, 0) + count
    number = {group: at for at, group in enumerate(counts)}
    groups = [{"group": group, **group_style(group), "count": count} for group, count in counts.items()]
    return {
        "count": told["count"],
        "groups": groups,
        "stretches": [[number[group], *rest] for group, *rest in told["stretches"]],
    }


def share_data(table: pa.Table) -> list[dict[str, Any]]:
    """Of the last token, per task: samples, layers, groups: [{group, label, color, hatched, values}], shares."""
    out = []
    for task, rows in by_task(table.filter(pc.equal(table["answer_token"], 0))):
        layers, groups = share_means(rows)
        stacked = [{"group": g, **group_style(g), "values": values.tolist()} for g, values in groups.items()]
        out.append({"task": task, "samples": len(pc.unique(rows["prompt"])), "layers": layers, "groups": stacked})
    return out


def lens_data(table: pa.Table) -> list[dict[str, Any]]:
    """Per task: samples, lines: [{label, color, dashes, points: [layer, mean, low, high]}], probabilities."""
    out = []
    for task, rows in by_task(table):
        lines = []
        for kind, points in lens_means(rows).items():
            color, pattern = LENS_STYLE[kind]
            lines.append({"label": kind, "color": color, "dashes": pattern, "points": points})
        out.append({"task": task, "samples": len(pc.unique(rows["prompt"])), "lines": lines})
    return out


def tokens_data(table: pa.Table) -> list[dict[str, Any]]:
    """Per task: samples, panels, one a group: [{title, lines: [{label, color, dashes, points: [layer, percent]}]}]."""
    out = []
    for task, rows in by_task(table):
        panels = []
        for group in pc.unique(rows["group"]).to_pylist():
            layers, said = word_shares(rows, group)
            lines = [
                {
                    "label": repr(word),
                    "color": ink(color),
                    "dashes": [],
                    "points": [[layer, 100 * share, None, None] for layer, share in zip(layers, shares, strict=True)],
                }
                for (word, shares), color in zip(said.items(), COLORS, strict=False)
            ]
            panels.append({"title": words(group), "lines": lines})
        out.append({"task": task, "samples": len(pc.unique(rows["prompt"])), "panels": panels})
    return out


def shift_data(table: pa.Table) -> list[dict[str, Any]]:
    """Per task: samples, panels: shifted tokens in percent, and KL in nats: [{title, lines}], a line a group.

    Points are [layer, mean, low, high]; low and high None for a lone sample.
    """
    out = []
    for task, rows in by_task(table):
        panels = []
        for value, title, scale in (("shifted", "shifted tokens (%)", 100), ("kl", "KL (nats)", 1)):
            lines = []
            for group in pc.unique(rows["group"]).to_pylist():
                columns = shift_means(rows.filter(pc.equal(rows["group"], group)), value)
                points = [
                    [int(layer), *(None if math.isnan(v) else scale * float(v) for v in values)]
                    for layer, *values in zip(*columns, strict=True)
                ]
                look = group_style(group)
                pattern = [8.0, 3.0] if look["hatched"] else []
                lines.append({"label": look["label"], "color": look["color"], "dashes": pattern, "points": points})
            panels.append({"title": title, "lines": lines})
        out.append({"task": task, "samples": len(pc.unique(rows["prompt"])), "panels": panels})
    return out


def plan_data(table: pa.Table, summary: dict[str, Any]) -> dict[str, Any]:
    """prompts, accuracy and p of the clean run, schedule {group: layer}, figures, and per group its curves.

    A point is [layer, accuracy, low, high, p, p_low, p_high]; the accuracy's band is that of its paired change, at the
    clean accuracy, as in the figure.
    """
    chosen = summary["schedule"]
    lines = []
    for group, look in group_looks(list(dict.fromkeys(table["group"].to_pylist()))).items():
        points = []
        for row in table.filter(pc.equal(table["group"], group)).sort_by("layer").to_pylist():
            clean, change = row["accuracy_clean"], (row["change_low"], row["change_high"])
            band = [None if value is None else clean + value for value in change]
            points.append([row["layer"], row["accuracy"], *band, row["p"], row["p_low"], row["p_high"]])
        style = {"color": ink(look["color"]), "dashes": dashes(look["linestyle"]), "leaves": chosen.get(group)}
        lines.append({"group": group, "label": words(group), **style, "points": points})
    first = table.slice(0, 1).to_pylist()[0]
    return {
        "prompts": first["prompts"],
        "accuracy": first["accuracy_clean"],
        "p": first["p_clean"],
        "schedule": chosen,
        "figures": summary["figures"],
        "lines": lines,
    }
