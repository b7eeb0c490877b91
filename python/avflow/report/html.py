"""The pages as HTML, from the templates beside this file: the report, and the comparison of runs.

Nothing is fetched: style, scripts, numbers and pictures are in the file.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..models.proof import described
from ..plots.style import path_label
from .flow import lines_of
from .headline import headline, story
from .numbers import interval, p_text, plain, short, signed
from .words import measure_note, peak, summary

DRAWING = "vendor/plot.min.js"  # Observable Plot and what it needs of d3: tools/page_bundle makes it
ASKING = "served/ask.js"  # only of a page that `avflow view` serves: a file fetches nothing
_PARTS = ("base", "chart", "lines", "heat", "bars", "schedule", "sample", "samples", "save", "main")
SCRIPTS = tuple(f"js/{name}.js" for name in _PARTS)


def page(found: dict[str, Any], title: str, note: str = "", first_layer: int = 0, served: bool = False) -> str:
    """report.html of what `collect` found. note: a sentence for its head. first_layer: 0 or 1, where layers begin.
    served: the page asks its server for what it does not hold of a sample (view.py)."""
    sweeps = found.get("sweeps", [])
    # A sweep without a value has no chart: the scripts see those that have.
    drawn = [sweep for sweep in sweeps if sweep["flow"]]
    return _render(
        "report.html.j2",
        title=title,
        note=note,
        measure=measure_note(found),
        unit=drawn[0]["flow"][0]["unit"] if drawn else "%",
        first_layer=first_layer,
        sweeps=sweeps,
        tiles=_tiles(found),
        words=[(base, headline(found, base), summary(found, base)) for base in (0, 1)],
        about=_about(found),
        peaks=[(sweep["name"], _peaks(sweep)) for sweep in drawn],
        charts=_charts(found, drawn),
        patched=_peaks_of(found["patch"][0]) if found.get("patch") else [],
        folders=[{**folder, "rows": _settings(folder)} for folder in found["folders"]],
        numbers=Markup(embedded({**found, "sweeps": drawn, "story": story(found)})),
        drawing=Markup(_file(DRAWING)),
        scripts=Markup("\n".join(_file(name) for name in [*([ASKING] if served else []), *SCRIPTS])),
    )


def comparison_page(
    title: str,
    rows: Sequence[dict[str, Any]],
    unlike: Sequence[dict[str, Any]],
    figures: Sequence[tuple[str, Path]],
    unfinished: Sequence[str] = (),
    center: str = "mean",
) -> str:
    """comparison.html. rows: of comparison_rows. unlike: of difference_rows, by `center`. figures: (path's name, PNG
    file). unfinished: names of such runs.
    """
    return _render(
        "comparison.html.j2",
        title=title,
        unfinished=unfinished,
        figures=[(name, base64.b64encode(png.read_bytes()).decode()) for name, png in figures],
        strongest=_table(rows),
        differences=_table(unlike),
        unit="percentage points" if center == "mean" else "points of probability",
    )


def _table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]] | None:
    """Head and cells, low and high as one interval; None where there is no row."""
    if not rows:
        return None
    keys = [key for key in rows[0] if key != "high"]
    heads = {
        "low": "95 % interval",
        "p": "p, corrected",
        "change_percent": "change (%)",
        "change_points": "change (points)",
    }
    return [heads.get(key, key.replace("_", " ")) for key in keys], [[_cell(row, key) for key in keys] for row in rows]


def _cell(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if key == "low":
        return interval(value, row["high"])
    if key == "p" or value is None:
        return p_text(value)
    if key.startswith(("change", "difference")):
        return signed(value)
    return short(value) if isinstance(value, float) else str(value)


def embedded(value: Any) -> str:
    """JSON for a <script> element: no "<" in it, so that nothing in a sample's text ends the element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(style=Markup(_file("page.css")), **values)


@functools.cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a name that is misspelt raises, instead of leaving a hole in the page
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["path_label"] = path_label
    return found


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _charts(found: dict[str, Any], drawn: list[dict[str, Any]]) -> set[str]:
    """The sections with charts that the page gets."""
    charts: set[str] = {name for name in ("share", "lens", "tokens", "shift", "patch", "plan") if found.get(name)}
    if drawn:
        charts.add("flow")
    if any(_comparable(a["flow"], b["flow"]) for a, b in itertools.combinations(drawn, 2)):
        charts.add("compare")
    if found.get("samples", {}).get("samples") or found.get("text") or any(s["each"] for s in drawn):
        charts.add("samples")
    return charts


def _comparable(flow: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Have two sweeps a task and a path in common? Entry 0 is all tasks together, where there are several."""
    tasks, others = ({entry["task"] for entry in (f[1:] or f)} for f in (flow, other))
    paths, more = ({line["path"] for entry in f for line in lines_of(entry)} for f in (flow, other))
    return bool(tasks & others and paths & more)


def _about(found: dict[str, Any]) -> str:
    """What the page is made of, in a few words: the models and the runs."""
    models = dict.fromkeys(Path(str(f["config"]["model"])).name for f in found["folders"] if f["config"].get("model"))
    names = [f"{folder['name']} ({folder['kind']})" for folder in found["folders"] if folder["kind"] != "samples"]
    return " · ".join([", ".join(models), ", ".join(names)] if models else names)


def _tiles(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that come first, each with what it is."""
    drawn = [sweep for sweep in found.get("sweeps", []) if sweep["flow"]]
    return [*_counted(drawn), *(_saved(found["plan"]) if "plan" in found else [])]


def _counted(drawn: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Samples, tasks and right answers of all sweeps of the page. A sample that several sweeps hold counts once."""
    if not drawn:
        return []
    samples = {name for sweep in drawn for name in sweep["ids"]}
    tasks = {entry["task"] for sweep in drawn for entry in (sweep["flow"][1:] or sweep["flow"]) if entry["task"]}
    layers = sorted({sweep["layers"] for sweep in drawn})
    kinds = f" of {len(tasks)} tasks" if len(tasks) > 1 else ""
    runs = f", in {len(drawn)} sweeps" if len(drawn) > 1 else ""
    told = f"sample{'s' if len(samples) != 1 else ''}{kinds}{runs}, {' and '.join(map(str, layers))} layers"
    tiles = [(str(len(samples)), told)]
    right, known = (sum(sweep["flow"][0][key] for sweep in drawn) for key in ("right", "known"))
    if known:
        tiles.append((f"{100 * right / known:.0f}\u00a0%", "of them answered right"))
    return tiles


def _saved(plan: dict[str, Any]) -> list[tuple[str, str]]:
    if not plan["schedule"]:
        return [("none", "of the groups can leave without harm")]
    figures = plan["figures"]
    bytes_ = f"{plain(figures['kv_bytes_clean'] / 1e3, 0)} → {plain(figures['kv_bytes_kept'] / 1e3, 0)} kB"
    time = f"measured here, it takes {figures['prefill_time_ratio']:.2f} of the time"
    tiles = [
        (f"{100 * figures['flops_saved']:.0f}\u00a0%", f"of the prefill's operations saved by the schedule; {time}"),
        (f"{100 * figures['kv_saved']:.0f}\u00a0%", f"of the cache saved, {bytes_} a sample"),
    ]
    if figures.get("measure") == "kl":
        return [*tiles, (short(figures["kl_median"]), "nats of KL with the schedule, median")]
    change = signed(100 * figures["accuracy_change"])
    return [*tiles, ("±0" if change == "0.0" else change, "points of accuracy with the schedule")]


def _peaks(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Every path of a sweep where its mean change is strongest, as the table shows it."""
    entry = sweep["flow"][0]
    drawn = {line["path"] for line in lines_of(entry)}
    without = [path for path in sweep["strongest"] if path not in drawn]
    return _peaks_of(entry) + [{"path": path_label(path), "change": None} for path in without]


def _peaks_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for line in lines_of(entry):
        layer, mean, low, high, samples, p = peak(line)
        row = {"path": line["label"], "change": signed(mean), "interval": interval(low, high), "layer": layer}
        rows.append({**row, "p": p_text(p), "samples": samples})
    return rows


def _settings(folder: dict[str, Any]) -> list[tuple[str, str]]:
    """A run's configuration and versions, as (key, value)."""
    values = {**folder["config"], **folder["versions"]}
    if folder.get("check"):
        values["clean run and the model's own forward differ by"] = described(folder["check"])
    if folder.get("kernels"):
        values["kernels"] = folder["kernels"]
    if isinstance(found := values.get("fingerprint"), dict):
        whole = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
        values["fingerprint"] = f"{whole}, over {len(found)} files of the model"
    text = {key: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in values.items()}
    return [(str(key), value) for key, value in text.items()]
