"""The page itself: what is text stands in it as text, charts are places that the scripts fill from the embedded JSON.

Nothing is fetched: style, scripts, numbers and pictures are in the file.
"""

from __future__ import annotations

import itertools
import json
from html import escape
from importlib.resources import files
from typing import Any

from ..plots.style import path_label
from .flow import lines_of
from .words import summary

SCRIPTS = tuple(f"js/{name}.js" for name in ("base", "lines", "heat", "bars", "sample", "schedule", "main"))


def page(found: dict[str, Any], title: str, note: str = "", first_layer: int = 0) -> str:
    """report.html of what `collect` found. note: a sentence for its head. first_layer: 0 or 1, where layers begin."""
    sweeps = found.get("sweeps", [])
    drawn = [sweep for sweep in sweeps if sweep["flow"]]
    parts = [*_notes(sweeps, note), *_tiles(found), *_words(found)]
    if sweeps and not drawn:
        parts.append("<p>No row has a value, so there is nothing to draw.</p>")
    parts.append('<div class="controls" id="controls"></div>')
    parts.append("<noscript><p>The charts need JavaScript; the text and the tables do not.</p></noscript>")
    if drawn:
        parts += _FLOW
    if any(_comparable(a["flow"], b["flow"]) for a, b in itertools.combinations(drawn, 2)):
        parts += _COMPARED
    for key, section in (("share", _SHARE), ("lens", _LENS), ("plan", _PLAN), ("shown", _SHOWN)):
        if key in found and (key != "shown" or found["shown"]["samples"]):
            parts += section
    parts += [*_tables(sweeps), *_folders(found["folders"])]
    # A sweep without a value has no chart: the scripts see those that have.
    numbers = embedded({**found, "sweeps": drawn})
    scripts = "\n".join(_file(name) for name in SCRIPTS)
    # The theme is known before anything is painted.
    dark = 'matchMedia("(prefers-color-scheme: dark)").matches'
    early = f'document.documentElement.dataset.theme = {dark} ? "dark" : "light"'
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en" data-theme="light" data-base="{first_layer}">',
            f'<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<link rel="icon" href="data:,"><title>{escape(title)}</title>',
            f"<style>\n{_file('page.css')}</style><script>{early}</script></head>",
            f'<body><header><h1>{escape(title)}</h1><button id="theme" type="button">Dark page</button></header>',
            "<main>",
            *parts,
            "</main>",
            "<footer>Layers are named by their number in the decoder. Bands are 95 % bootstrap intervals over samples. "
            "Every number can be read with the pointer, or with the arrow keys once a chart has the focus.</footer>",
            f'<script type="application/json" id="data">{numbers}</script>',
            f'<script>\n(() => {{\n"use strict";\n{scripts}}})();\n</script>',
            "</body></html>\n",
        ]
    )


def embedded(value: Any) -> str:
    """JSON for a <script> element: no "<" in it, so that nothing in a sample's text ends the element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def html_table(head: list[str], rows: list[list[str]]) -> str:
    """HTML of escaped cells; numbers stand right."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = "".join(f"<td{' class=number' if cell[:1] in '+-0123456789' else ''}>{cell}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _notes(sweeps: list[dict[str, Any]], note: str) -> list[str]:
    parts = [f'<p class="note"><strong>{escape(note)}</strong></p>'] if note else []
    for sweep in sweeps:
        name = f"{sweep['name']}: this" if len(sweeps) > 1 else "This"
        if not sweep["finished"]:
            told = f"{name} run is not finished: the numbers are those of the samples done so far."
            parts.append(f'<p class="note"><strong>{escape(told)}</strong></p>')
        counted = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in sweep["counts"].items())
        head = f"{sweep['name']}: " if len(sweeps) > 1 else ""
        counted = counted or f"{sweep['samples']} samples"
        parts.append(f'<p class="lead">{escape(head + counted)}; {sweep["rows"]} rows.</p>')
    return parts


def _tiles(found: dict[str, Any]) -> list[str]:
    """The few numbers that come first."""
    tiles = []
    for sweep in found.get("sweeps", [])[:1]:
        if sweep["flow"]:
            every = sweep["flow"][0]
            tasks = len(sweep["flow"]) - 1
            kinds = f" of {tasks} tasks" if tasks else ""
            tiles.append((str(every["samples"]), f"samples{kinds}, {sweep['layers']} layers"))
            if every["known"]:
                tiles.append((f"{100 * every['right'] / every['known']:.0f} %", "of them answered right"))
    if plan := found.get("plan"):
        if plan["schedule"]:
            figures = plan["figures"]
            tiles.append((f"{100 * figures['flops_saved']:.0f} %", "of the prefill's operations saved by the schedule"))
            bytes_ = f"{figures['kv_bytes_clean'] / 1e3:.0f} → {figures['kv_bytes_kept'] / 1e3:.0f} kB"
            tiles.append((f"{100 * figures['kv_saved']:.0f} %", f"of the cache saved, {bytes_} a sample"))
            tiles.append((f"{100 * figures['accuracy_change']:+.1f}", "points of accuracy with the schedule"))
        else:
            tiles.append(("none", "of the groups can leave without harm"))
    cells = [f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in tiles]
    return [f'<div class="tiles">{"".join(cells)}</div>'] if cells else []


def _words(found: dict[str, Any]) -> list[str]:
    """The sentences, with layers counted from 0 and from 1: the page shows the ones that its switch asks for."""
    parts = []
    for base in (0, 1):
        told = []
        for part in summary(found, base):
            items = "".join(f"<li>{escape(line)}</li>" for line in part["lines"])
            told.append(f'<h3>{escape(part["title"])}</h3><ul class="words">{items}</ul>')
        if told:
            parts.append(f'<section class="from-{base}"><h2>In words</h2>{"".join(told)}</section>')
    return parts


def _comparable(flow: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Have two sweeps a task and a path in common? Entry 0 is all tasks together, where there are several."""
    tasks, others = ({entry["task"] for entry in (f[1:] or f)} for f in (flow, other))
    paths, more = ({line["path"] for entry in f for line in lines_of(entry)} for f in (flow, other))
    return bool(tasks & others and paths & more)


def _section(title: str, lead: str, *places: str) -> list[str]:
    return [f"<section><h2>{title}</h2>", f'<p class="lead">{lead}</p>', *places, "</section>"]


_FLOW = [
    *_section(
        'Which paths the answer needs <span class="soft" id="flow-count"></span>',
        "Attention from one group of tokens to another is cut in a window of layers; the line shows how much the "
        "probability of the answer changes. The lower it goes, the more the answer needed that path there.",
        '<div class="panels" id="flow"></div>',
    ),
    *_section(
        "Path by layer",
        "The same means as a map: blue where cutting the path makes the answer less probable, red where more.",
        '<div class="chart" id="heat"></div>',
        '<details><summary>The numbers</summary><div id="numbers"></div></details>',
    ),
]
_COMPARED = _section(
    "Runs side by side",
    "One path in all runs, each with its band.",
    '<p><label>Path <select id="compare-path"></select></label></p><div id="compare"></div>',
)
_SHARE = _section(
    "Where the last token looks",
    "Share of the attention of the token that predicts the answer, mean over heads and samples.",
    '<div class="chart" id="share"></div><ul class="legend" id="share-legend"></ul>',
)
_LENS = _section(
    "When the answer is there",
    "Each layer's state at the last token, read through the model's own output head.",
    '<div class="chart" id="lens"></div><ul class="legend" id="lens-legend"></ul>',
)
_PLAN = _section(
    "What can leave, and when",
    "Every group is dropped after every layer. The dot is where the schedule drops it; the straight line is the run "
    "in which nothing leaves.",
    '<div class="panels"><div class="chart" id="plan-accuracy"></div><div class="chart" id="plan-p"></div></div>',
    '<ul class="legend" id="plan-legend"></ul><h3>The schedule</h3><div class="chart" id="schedule"></div>',
)
_SHOWN = _section(
    "A sample, as the model gets it",
    "The frames, the sound, and what each token is. A number on a block is its frame, segment or option.",
    '<p><label>Sample <select id="sample-choice"></select></label></p><div id="sample"></div>',
)


def _tables(sweeps: list[dict[str, Any]]) -> list[str]:
    """The strongest change of every path, and what failed, as plain tables."""
    parts = []
    for sweep in sweeps:
        name = f", {escape(sweep['name'])}" if len(sweeps) > 1 else ""
        if sweep["strongest"]:
            rows = [_strongest(path, found) for path, found in sweep["strongest"].items()]
            parts.append(f"<h2>Strongest mean change of every path{name}</h2>")
            parts.append(html_table(["path", "change (%)", "layer"], rows))
        if failed := sweep["failed"]:
            rows = [[escape(sample), escape(reason)] for sample, reason in failed.items()]
            parts.append(f"<h2>{len(failed)} samples failed{name}</h2>" + html_table(["sample", "reason"], rows))
    return parts


def _strongest(path: str, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [escape(path_label(path)), "no token", ""]
    layers = "".join(f'<span class="from-{base}">{found["layer"] + base}</span>' for base in (0, 1))
    change = f"{found['mean_change_percent']:+.2f}"
    return [escape(path_label(path)), change, layers]


def _folders(folders: list[dict[str, Any]]) -> list[str]:
    parts = ["<h2>Configuration and versions</h2>"]
    for folder in folders:
        values = {**folder["config"], **folder["versions"]}
        if folder.get("kernels"):
            values["kernels"] = folder["kernels"]
        if values:
            rows = [[escape(str(key)), escape(_text(value))] for key, value in values.items()]
            opened = " open" if len(folders) == 1 else ""
            parts.append(
                f"<details{opened}><summary>{escape(folder['name'])} ({escape(folder['kind'])})</summary>"
                f"<div>{html_table(['key', 'value'], rows)}</div></details>"
            )
    return parts if len(parts) > 1 else []


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
