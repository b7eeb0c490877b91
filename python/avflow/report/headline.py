"""The page's first sentence, and the paths of the chart beside it: what the first sweep found over all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..plots.style import PANELS
from .flow import LEAST, lines_of
from .numbers import signed
from .words import MEDIA, absent, extent, lens_sentence, peak, share_sentence, sure_peak, when

MOST = 4  # paths that the chart tells of


def story(found: dict[str, Any]) -> dict[str, Any] | None:
    """{sweep: its number among those with values, paths: those that mattered, the strongest first, or else the largest
    changes}; None without a sweep that has a value."""
    drawn = [sweep for sweep in found.get("sweeps", []) if sweep["flow"]]
    if not drawn:
        return None
    lines = sorted(lines_of(drawn[0]["flow"][0]), key=lambda line: -abs(peak(line)[1]))
    chosen = [line for line in lines if sure_peak(line, len(drawn))] or [line for line in lines if not absent(line)]
    return {"sweep": 0, "paths": [line["path"] for line in chosen[:MOST]]}


def headline(found: dict[str, Any], base: int = 0) -> str:
    """One sentence, or two; "" where there is nothing to tell. base: the number of the first layer, 0 or 1."""
    drawn = [sweep for sweep in found.get("sweeps", []) if sweep["flow"]]
    if drawn:
        return _of_flow(drawn[0]["flow"][0], len(drawn), base)
    if "plan" in found:
        return _of_plan(found["plan"], base)
    if "share" in found:
        return share_sentence(found["share"][0], base)
    return lens_sentence(found["lens"][0], base) if "lens" in found else ""


def _of_flow(entry: dict[str, Any], looks: int, base: int) -> str:
    panels = {panel["title"]: panel["lines"] for panel in entry["panels"]}
    lines, last = lines_of(entry), panels.get(PANELS[2], [])
    sure = sorted((line for line in lines if sure_peak(line, looks)), key=lambda line: -abs(_top(line, looks)[1]))[
        :MOST
    ]
    if not sure:
        return _none_sure(entry)
    late = [line for line in sure if line in last]
    early = [line for line in sure if line not in last]
    unit = entry["unit"]
    text = "The answer needs " + ", and then ".join(_hop(part, looks, base, unit) for part in (early, late) if part)
    straight = [line for line in last if _from_media(line["path"])]
    if straight and all(map(absent, straight)):
        names = _joined([line["label"].split(" → ")[0] for line in straight])
        text += f"; nothing passes from {names} straight to the last token"
        if not late and not all(map(absent, last)):
            top = max((line for line in last if not absent(line)), key=lambda line: abs(peak(line)[1]))
            text += f". Which path goes on to it is not sure (largest: {top['label']}, {_change(peak(top)[1], unit)})"
    return f"{text}."


def _hop(lines: Sequence[dict[str, Any]], looks: int, base: int, unit: str) -> str:
    """ "a → b (−41 % when cut) and c → d (−16 %) in layers 0–3" """
    ends = [extent(line, _top(line, looks)) for line in lines]
    first, last = min(a for a, _ in ends) + base, max(b for _, b in ends) + base
    where = f"layer {first}" if first == last else f"layers {first}–{last}"
    told = [f"{line['label']} ({_change(_top(line, looks)[1], unit)})" for line in lines]
    told[0] = f"{told[0][:-1]} when cut)"
    return f"{_joined(told)} in {where}"


def _none_sure(entry: dict[str, Any]) -> str:
    lines, n, unit = lines_of(entry), entry["samples"], entry["unit"]
    count = f"{n} sample{'s' if n != 1 else ''}"
    if all(map(absent, lines)):
        return f"No path that was cut changes the answer's probability by {LEAST:g} {unit} or more, over {count}."
    top = max(lines, key=lambda line: abs(peak(line)[1]))
    return (
        f"No path is sure to have mattered, over {count}; the largest change is {_change(peak(top)[1], unit)}, "
        f"when {top['label']} is cut."
    )


def _of_plan(plan: dict[str, Any], base: int) -> str:
    if not plan["schedule"]:
        return "No group of tokens can leave within the drop in accuracy that is allowed."
    labels = {line["group"]: line["label"] for line in plan["lines"]}
    leave = _joined([f"{labels[group]} {when(layer, base)}" for group, layer in plan["schedule"].items()])
    figures = plan["figures"]
    text = f"{leave[0].upper()}{leave[1:]} can leave: it saves {100 * figures['flops_saved']:.0f} % of the prefill's "
    return text + f"operations and {100 * figures['kv_saved']:.0f} % of the cache."


def _top(line: dict[str, Any], looks: int) -> list:
    return sure_peak(line, looks) or peak(line)


def _from_media(path: str) -> bool:
    return path.startswith(MEDIA) and "->" in path


def _change(value: float, unit: str) -> str:
    return f"{signed(value, 0 if abs(value) >= 10 else 1)}\u00a0{unit}"


def _joined(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
