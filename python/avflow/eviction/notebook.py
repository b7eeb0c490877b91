"""What a notebook shows of a schedule: who leaves when, and what it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def as_html(steps: Sequence[Any], model: Mapping[str, Any] | None, figures: Mapping[str, Any] | None) -> str:
    """A line per step, and the figures of the plan that it comes from, if any; text is escaped.

    Args:
        steps, model, figures: of an EvictionSchedule.
    """
    layers = f" of a model of {model['layers']} layers" if model and "layers" in model else ""
    lines = []
    for step in steps:
        until = "" if step.until is None else f", back after layer {step.until}"
        lines.append([step.group, f"{step.when}{until}", str(step.keep)])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    head = "<tr><th>Group</th><th>Leaves</th><th>What stays</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>" if lines else "<p>Nothing leaves.</p>"
    told = "; ".join(_promises(figures or {}))
    note = f"<p><small>{escape(told)}.</small></p>" if told else ""
    return f"<div><p><b>avflow.EvictionSchedule{escape(layers)}</b></p>{table}{note}</div>"


def _promises(figures: Mapping[str, Any]) -> list[str]:
    """In words, what a plan found; a schedule made by hand has none of it, and a file may hold anything."""
    number = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    found = []
    if {"accuracy_drop_bound", "prompts", "confidence"} <= number.keys():
        what = {"kl": "prompts further off", "metric": "score lost"}.get(str(figures.get("measure")), "accuracy lost")
        found.append(
            f"{what} below {100 * number['accuracy_drop_bound']:.1f} points with {100 * number['confidence']:g} % "
            f"confidence, on {number['prompts']} prompts"
        )
    if "kv_saved" in number:
        found.append(f"{100 * number['kv_saved']:.0f} % of the cache saved")
    if "flops_saved" in number:
        found.append(f"{100 * number['flops_saved']:.0f} % of the operations of a prefill")
    return found
