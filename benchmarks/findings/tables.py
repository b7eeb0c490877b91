"""Tables and pictures of docs/findings.md, from what findings/measure.py measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from avflow.knockouts.presets import PRESETS
from avflow.plots import attention as plots_attention
from avflow.plots import information_flow as plots
from benchmarks.lib.marks import markdown_table, put

# Of arXiv 2606.10147, on Qwen2.5-Omni-3B (36 layers, window 7), read off its figures and tables: approximate.
STUDY_VIDEO = {
    "cross:video": "-5 .. -11 (10-22)", "cross:audio": "-1 .. -5", "audio<->video": "-2 .. -10 (14-22)",
    "video->question": "-39 (10-24); speech tasks -6 .. -10", "audio->question": "-30 (20) on speech, else -6 .. -13",
    "question->last": "-30 .. -46 (24-30)", "video->last": "about 0", "audio->last": "about 0",
}  # fmt: skip
STUDY_ITEMS = {  # path -> image reference, audio reference
    "cross:candidates": ("-31", "-40"), "candidates->reference": ("-25", "-35"),
    "question_text->reference": ("-22", "-27"), "candidates->question_text": ("-8", "-5"),
    "reference->last": ("-11 (23-29)", "-8 (23-29)"), "candidates->last": ("+2.5", "+3"),
    "question_text->last": ("about 0", "about 0"), "candidate_correct->option_correct": ("-22 (17-25)", "-40 (17-25)"),
    "option_correct->last": ("-16 (29-35)", "-10 (29-35)"), "option_incorrect->last": ("+13", "+7"),
}  # fmt: skip
STUDY_EVICTED = "26 (video), 26 (audio), 29 (question) of 36"
TITLES = {
    "visual": "questions about the picture", "audio": "about the sound", "both": "about both",
    "find_sound": "image reference", "find_image": "sound reference",
}  # fmt: skip


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def fall(row: dict[str, Any] | None, where: bool = True) -> str:
    """A mean change, its interval, and, where there are several, the centre of the window where it is strongest."""
    if row is None:
        return "-"
    if abs(row["mean"]) < 0.5:
        return "0"
    return f"{row['mean']:.0f} [{row['low']:.0f}, {row['high']:.0f}]" + f" ({row['layer']})" * where


def video_table(found: dict[str, Any]) -> str:
    flow, names = found["flow"], ("visual", "audio", "both")
    rows = [
        [f"`{path}`", *(fall(flow[n].get(path)) for n in names), STUDY_VIDEO.get(path, "-")]
        for path in PRESETS["av_video"]
    ]
    return markdown_table(["path cut", *(TITLES[n] for n in names), "the study, 3B"], rows)


def whole_table(found: dict[str, Any], names: Sequence[str] = ("visual", "audio", "both"), what: str = "whole") -> str:
    paths = found[what][names[0]]
    rows = [[f"`{path}`", *(fall(found[what][n].get(path), where=False) for n in names)] for path in paths]
    return markdown_table(["path cut in all layers", *(TITLES[n] for n in names)], rows)


def whole_items_table(found: dict[str, Any]) -> str:
    return whole_table(found, ("find_sound", "find_image"), "whole_items")


def items_table(found: dict[str, Any]) -> str:
    names, rows = ("find_sound", "find_image"), []
    for path in PRESETS["interleaved"]:
        study = STUDY_ITEMS.get(path, ("-", "-"))
        cells = [cell for n, s in zip(names, study, strict=True) for cell in (fall(found["lineup"][n].get(path)), s)]
        rows.append([f"`{path}`", *cells])
    return markdown_table(["path cut", TITLES[names[0]], "the study", TITLES[names[1]], "the study"], rows)


def random_table(found: dict[str, Any]) -> str:
    rows = [
        [f"`{r['path']}`", r["needs"], str(r["layer"]), f"{r['path_mean']:.1f}", f"{r['random_mean']:.1f}"]
        for r in found["random"]
    ]
    return markdown_table(["path cut", "tasks", "layer", "its edges, %", "as many random edges, %"], rows)


def attention_table(found: dict[str, Any]) -> str:
    """Shares of the last token's attention in the first, a middle and the last quarter of the layers."""
    quarter, rows = found["layers"] // 4, []
    parts = ((0, quarter), (quarter, 3 * quarter), (3 * quarter, 4 * quarter))
    for needs in TITLES:
        groups = found["attention"][needs]
        media = [g for g in groups if g in ("video", "audio", "reference") or g.startswith("candidate")]
        options = [g for g in groups if g.startswith("option")]
        cells = []
        for low, high in parts:
            for names in (media, ["question_text"], options):
                values = [sum(groups[g][layer] for g in names if g in groups) for layer in range(low, high)]
                cells.append(f"{100 * sum(values) / len(values):.0f}")
        rows.append([TITLES[needs], *(" / ".join(cells[3 * i : 3 * i + 3]) for i in range(3))])
    heads = [f"layers {low}-{high - 1}" for low, high in parts]
    return markdown_table(["media / question / options, %", *heads], rows)


def sinks_line(found: dict[str, Any]) -> str:
    sinks = found["sinks"]
    return (
        f"Media tokens whose state is more than 10 times as long as their median, in any layer of {found['clips']} "
        f"clips: {sinks['rows']};\nthe longest is {sinks['longest']:.1f} times the median."
    )


def masks_table(found: dict[str, Any]) -> str:
    masks = found["masks"]
    cells = [percent(masks[k]["accuracy"]) for k in ("none", "video->last", "video->text", "video+audio->text")]
    first = f"tiny-omni, layers {masks['first_layer']}-{found['layers'] - 1} of {found['layers']}"
    study = ["the study, 3B, layers 31-35 of 36", "42.24", "42.24", "42.31", "42.52"]
    return markdown_table(
        ["masked", "nothing", "video -> last", "video -> text", "video + audio -> text"], [[first, *cells], study]
    )


def random_cell(runs: dict[str, Any]) -> str:
    """Accuracy with each of the random choices."""
    return ", ".join(percent(r["correct"]) for name, r in runs.items() if name.startswith("random"))


def pathways_table(found: dict[str, Any]) -> str:
    rows = []
    for name, runs in (("clips", found["pathways"]), *found["streams"].items()):
        rows.append(
            [
                name if name == "clips" else f"items: {name}",
                percent(runs["pathways"]["edges_kept"]),
                percent(runs["full"]["correct"]),
                percent(runs["pathways"]["correct"]),
                random_cell(runs),
            ]
        )
    rows.append(["Map the Flow: LLaVA-NeXT-7B-Video-FT, TVBench", "42 %", "51.5", "51.2", "40.1"])
    rows.append(["Map the Flow: VideoLLaMA3-7B, TVBench", "58 %", "55.2", "57.2", "22.2"])
    return markdown_table(
        ["samples, pathways", "edges kept", "full model", "pathways alone", "as many random edges"], rows
    )


def evicted_table(found: dict[str, Any]) -> str:
    rows = []
    for name, key in (("clips", "evicted"), ("items", "evicted_items")):
        r = found[key]
        steps = ", ".join(f"{group} {after}" for group, after in r["schedule"].items()) or "nothing can leave"
        saved = [percent(r["saved"][k]) for k in ("flops", "kv_bytes")]
        rows.append([name, steps, percent(r["clean"]["accuracy"]), percent(r["kept"]["accuracy"]), *saved])
    return markdown_table(
        ["samples", "leaves after layer", "accuracy before", "after", "FLOPs saved", "KV bytes saved"], rows
    )


def counts(found: dict[str, Any]) -> str:
    t, e = found["pathways"]["samples"], found["streams"]["both streams"]["samples"]
    return (
        f"{found['clips']} clips and {found['items']} interleaved items to find with, {t} and {e} others to test on; "
        f"window {found['window']} of {found['layers']} layers."
    )


def salmonn_table(found: dict[str, Any]) -> str:
    """All but the flow, in a few lines."""
    random, masks, runs = found["random"], found["masks"], found["pathways"]
    rows = [
        [f"`{r['path']}` ({r['needs']}, layer {r['layer']}): its edges, as many random ones",
         f"{r['path_mean']:.0f} %, {r['random_mean']:.0f} %"]
        for r in random
    ]  # fmt: skip
    last = f"layers {masks['first_layer']}-{found['layers'] - 1} without video + audio -> text: accuracy"
    rows.append([last, f"{percent(masks['video+audio->text']['accuracy'])} of {percent(masks['none']['accuracy'])}"])
    kept = f"the pathways of tiny-omni alone, {percent(runs['pathways']['edges_kept'])} of the edges: accuracy"
    rows.append([f"{kept}; as many random ones", f"{percent(runs['pathways']['correct'])}; {random_cell(runs)}"])
    rows.append(["media tokens ten times as long as their median", str(found["sinks"]["rows"])])
    e = found["evicted"]
    steps = ", ".join(f"{group} {after}" for group, after in e["schedule"].items()) or "nothing can leave"
    saved = " and ".join(percent(e["saved"][k]) for k in ("flops", "kv_bytes"))
    change = f"{percent(e['clean']['accuracy'])} to {percent(e['kept']['accuracy'])}"
    rows.append([f"planned eviction ({steps}): accuracy; FLOPs and KV bytes saved", f"{change}; {saved}"])
    return markdown_table(["measured", "tiny-salmonn"], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "counts": counts, "video": video_table, "whole": whole_table, "items": items_table,
    "items-whole": whole_items_table, "random": random_table,
    "attention": attention_table, "sinks": sinks_line, "masks": masks_table,
    "pathways": pathways_table, "evicted": evicted_table,
}  # fmt: skip
# Model -> what of docs/findings.md is its.
PAGES: dict[str, dict[str, Any]] = {
    "tiny-omni": {"picture": "video", "tables": TABLES},
    "tiny-salmonn": {
        "picture": "salmonn",
        "tables": {"salmonn-video": video_table, "salmonn-whole": whole_table, "salmonn": salmonn_table},
    },
}


def write_tables(found: dict[str, Any], page: Path, tables: dict[str, Callable[[dict[str, Any]], str]]) -> None:
    for name, make in tables.items():
        put(page, name, make(found))


def draw_flow(parts: dict[str, pa.Table], paths: Sequence[str], path: Path) -> None:
    """A panel per kind of task, a line per path, bands as in the tables. parts: {needs: rows of a sweep}."""
    order = [needs for needs in TITLES if needs in parts]
    with mpl.rc_context(plots.STYLE):
        figure, panels = _panels(len(order), (3.3 * len(order) + 2.2, 3.2), sharey=True)
        for ax, needs in zip(panels, order, strict=True):
            plots.flow(parts[needs], paths=list(paths), title=TITLES[needs], interval="percentile", ax=ax)
            if ax is not panels[0]:
                ax.set_ylabel("")
            if ax is not panels[-1]:
                ax.get_legend().remove()
        _save(figure, path)


def draw_looks(share: pa.Table, lens: pa.Table, paths: pa.Table, path: Path) -> None:
    """Attention allocation, answer lens and effective pathways, side by side."""
    with mpl.rc_context(plots.STYLE):
        figure, panels = _panels(3, (13.3, 3.0))
        plots_attention.share_bars(share, token=0, title="Attention of the last token", ax=panels[0])
        plots_attention.lens_lines(lens, ax=panels[1])
        plots_attention.pathway_bars(paths, ax=panels[2])
        _save(figure, path)


def _panels(count: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, **options))


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colors: a third of the bytes."""
    figure.savefig(path, dpi=120)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
