"""What a report's numbers say, in sentences made from them alone.

A path counts as one that matters if in one of its layers the answer's probability changes by at least LEAST percent
(points, where the page shows points, and of a site of patching) and p there, corrected for all paths, layers, tasks and
sweeps of the page, is below 0.05. The sentences give the number of samples. The strongest of many (path, layer) pairs
still looks somewhat larger than it is.
"""

from __future__ import annotations

from typing import Any

from ..results.default_center import SMALL
from .flow import LEAST, lines_of, quiet
from .numbers import plain, short, signed

SURE = 0.05  # largest p of a finding
MEASURES = {
    "ratio_of_means": "Changes are those of the mean probability, in percent",
    "log_ratio": "Changes are those of the geometric mean probability, in percent",
    "difference": "Changes are in points of probability (one point: 0.01)",
}
FEW = 10  # prompts of a plan; fewer than this, and the sentence says so
MEDIA = ("video", "audio", "image", "candidate", "reference")


def summary(found: dict[str, Any], base: int = 0) -> list[dict[str, Any]]:
    """[{title, lines: [sentence]}] of what `collect` found. base: the number of the first layer, 0 or 1."""
    parts = []
    looks = sum(bool(sweep["flow"]) for sweep in found.get("sweeps", [])) + bool(found.get("patch"))
    for sweep in found.get("sweeps", []):
        title = "Information flow" if len(found["sweeps"]) == 1 else f"Information flow, {sweep['name']}"
        entries = sweep["flow"][1:] or sweep["flow"]
        if entries:
            lines = [flow_sentence(entry, base, looks) for entry in entries]
            parts.append({"title": title, "lines": [*lines, *sweep.get("thinned", [])]})
    if "share" in found:
        parts.append({"title": "Attention", "lines": [share_sentence(found["share"][0], base)]})
    if "lens" in found:
        parts.append({"title": "Answer lens", "lines": [lens_sentence(found["lens"][0], base)]})
    if found.get("patch"):
        entries = found["patch"][1:] or found["patch"]
        parts.append({"title": "Patching", "lines": [patch_sentence(entry, base, looks) for entry in entries]})
    if "plan" in found:
        parts.append({"title": "Eviction", "lines": plan_sentences(found["plan"], base)})
    if "samples" in found and (line := answer_sentence(found["samples"]["samples"])):
        parts.append({"title": "Answers", "lines": [line]})
    return parts


def peak(line: dict[str, Any]) -> list:
    """The point of a line's strongest mean change."""
    return max(line["points"], key=lambda point: abs(point[1]))


def matters(point: list, looks: int = 1) -> bool:
    """Is the change at this point large, and sure after correction for all that was looked at?

    looks: how many sweeps and runs of patching the page tells of (Bonferroni); within one, p is corrected already.
    """
    p = point[5]
    return abs(point[1]) >= LEAST and p is not None and p * looks < SURE


def sure_peak(line: dict[str, Any], looks: int = 1) -> list | None:
    """The point of a line's strongest change that matters; None where none does."""
    sure = [point for point in line["points"] if matters(point, looks)]
    return max(sure, key=lambda point: abs(point[1])) if sure else None


def absent(line: dict[str, Any]) -> bool:
    """Is every change of a line small, its interval included?"""
    return quiet(line["points"])


def extent(line: dict[str, Any], top: list | None = None) -> tuple[int, int]:
    """First and last layer of the stretch round a point (None: the peak) where the change is at least half of it."""
    points, top = line["points"], peak(line) if top is None else top
    first = last = points.index(top)
    strong = [point[1] * top[1] > 0 and abs(point[1]) >= abs(top[1]) / 2 for point in points]
    while first > 0 and strong[first - 1]:
        first -= 1
    while last + 1 < len(points) and strong[last + 1]:
        last += 1
    return points[first][0], points[last][0]


def flow_sentence(entry: dict[str, Any], base: int = 0, looks: int = 1) -> str:
    """Which paths mattered for one task, where, and which media did not. looks: as of `matters`."""
    lines = sorted(lines_of(entry), key=lambda line: -abs(peak(line)[1]))
    right, unit = f", {entry['right']} answered right" if entry["known"] else "", entry["unit"]
    head = f"{entry['task'] or 'All samples'} ({_samples(entry['samples'])}{right}): "
    few = _untested(entry["samples"]) if all(p[5] is None for line in lines for p in line["points"]) else ""
    found = [(line, point) for line in lines if (point := sure_peak(line, looks))]
    strong = sorted(found, key=lambda pair: -abs(pair[1][1]))
    if not strong:
        top = lines[0]
        sure = "no path mattered" if all(map(absent, lines)) else "no path is sure to have mattered"
        return head + f"{sure}; the largest change is {_change(peak(top)[1], unit)}, {top['label']}" + few + "."
    text = f"cutting {strong[0][0]['label']} {_strongest_change(*strong[0], base, unit)}"
    if entry.get("own"):
        text = text.replace("the answer's probability", "the probability of the model's own answer", 1)
    others = [f"{line['label']} ({_change(top[1], unit)}, {_layers(line, top, base)})" for line, top in strong[1:4]]
    if others:
        text += "; then " + ", ".join(others)
    if len(strong) > 4:
        text += f" and {len(strong) - 4} more"
    if silent := _silent(lines, looks, unit):
        text += "; " + ", ".join(silent)
    return head + text + "."


def _silent(lines: list[dict[str, Any]], looks: int, unit: str) -> list[str]:
    """The media whose paths into text all do not matter."""
    out = []
    for medium in MEDIA:
        own = [line for line in lines if line["path"].startswith(medium) and "->" in line["path"]]
        if own and not any(sure_peak(line, looks) for line in own):
            most = max(abs(peak(line)[1]) for line in own)
            if all(map(absent, own)):
                out.append(f"no path out of {medium} mattered (at most {plain(most)} {unit})")
            else:
                out.append(f"none out of {medium} is sure to have mattered (up to {plain(most)} {unit})")
    return out


def measure_note(found: dict[str, Any]) -> str:
    """What the page's changes are, where they are no mean of percentages, or one of next to nothing; else ""."""
    entries = [sweep["flow"][0] for sweep in found.get("sweeps", []) if sweep["flow"]]
    if not entries:
        return ""
    text = "" if entries[0]["center"] == "mean" else f"{MEASURES[entries[0]['center']]}."
    if text and (faint := sum(entry["faint"] for entry in entries)):
        n = sum(entry["samples"] for entry in entries)
        text += (
            f" Of {_samples(n)} {faint} had a clean probability below 1 %, far below that of another; of such "
            "samples a change in percent says little."
        )
    return f"{text} {next_to_nothing(entries)}".strip()


def next_to_nothing(entries: list[dict[str, Any]]) -> str:
    """Of sweeps where no sample's answer was probable: that a change in percent is one of very little; else ""."""
    low = [entry["highest_p"] for entry in entries if entry["highest_p"] < SMALL]
    if not low:
        return ""
    who = "The answer" if len(low) == len(entries) else f"In {len(low)} of {len(entries)} sweeps the answer"
    return (
        f"{who} had a clean probability below 1 % in every sample ({max(low):.2g} at most): changes in percent tell "
        "which paths so improbable an answer needs, and no cut takes more from it than that."
    )


def share_sentence(entry: dict[str, Any], base: int = 0) -> str:
    """What the last token attends to most, and where the media get most of its attention."""
    layers = entry["layers"]
    means = {g["label"]: sum(g["values"]) / len(layers) for g in entry["groups"]}
    first, second = sorted(means, key=lambda label: means[label], reverse=True)[:2]
    text = f"over all layers the last token attends most to {first} ({100 * means[first]:.0f} %) and {second} "
    text += f"({100 * means[second]:.0f} %)"
    media = [g["values"] for g in entry["groups"] if g["group"].startswith(MEDIA)]
    if media:
        sums = [sum(values) for values in zip(*media, strict=True)]
        at = max(range(len(layers)), key=sums.__getitem__)
        text += f"; the media get most in layer {layers[at] + base} ({100 * sums[at]:.0f} %)"
    return f"{text[0].upper()}{text[1:]} ({_samples(entry['samples'])})."


def lens_sentence(entry: dict[str, Any], base: int = 0) -> str:
    """From which layer on the true option leads, and with what probability it ends."""
    lines = {line["label"]: line["points"] for line in entry["lines"]}
    true, false = lines.get("true option"), lines.get("false option")
    count = f"({_samples(entry['samples'])})"
    if true is None or false is None:
        end = lines["answer"][-1]
        return f"After the last layer the answer has a mean probability of {end[1]:.2g} {count}."
    leads = [t[1] > f[1] for t, f in zip(true, false, strict=True)]
    if not leads[-1]:
        return f"The true option does not lead: {true[-1][1]:.2g} against {false[-1][1]:.2g} at the end {count}."
    at = len(leads) - leads[::-1].index(False) if False in leads else 0
    where = "in every layer" if at == 0 else f"from layer {true[at][0] + base} on"
    ends = f"{true[-1][1]:.2g} against {false[-1][1]:.2g} for a false one"
    return f"The true option leads {where} and ends at {ends} {count}."


def patch_sentence(entry: dict[str, Any], base: int = 0, looks: int = 1) -> str:
    """At which site and layer the states carry most; which sites are not sure to carry any. looks: as of `matters`."""
    lines = lines_of(entry)
    head = f"{entry['task'] or 'All samples'} ({_samples(entry['samples'])}): "
    what = f"the states of {entry['source']}" if entry["direction"] == "noise" else "the prompt's own states"
    ranked = sorted(
        ((line, top) for line in lines if (top := sure_peak(line, looks))), key=lambda pair: -abs(pair[1][1])
    )
    if not ranked:
        top = max((peak(line) for line in lines), key=lambda point: abs(point[1]))
        tested = any(point[5] is not None for line in lines for point in line["points"])
        few = "" if tested else _untested(entry["samples"])
        return f"{head}no site is sure to carry the answer; the largest difference is {_points(top[1])}{few}."
    line, top = ranked[0]
    sure = "p < 0.001" if top[5] < 0.001 else f"p = {top[5]:.3f}"
    text = (
        f"putting {what} at {line['label']} changes the answer's probability most, by {_points(top[1])} at layer "
        f"{top[0] + base} (95 % interval {signed(top[2])} to {signed(top[3])}, {sure} after correction for all sites "
        f"and layers; half of that or more in {_layers(line, top, base)})"
    )
    if others := [f"{other['label']} ({_points(point[1])})" for other, point in ranked[1:4]]:
        text += "; then " + ", ".join(others)
    if rest := [other["label"] for other in lines if not sure_peak(other, looks)]:
        text += "; not sure: " + ", ".join(rest)
    return f"{head}{text}."


def plan_sentences(plan: dict[str, Any], base: int = 0) -> list[str]:
    """The schedule, what it does to the answers, and what it saves."""
    figures, n = plan["figures"], plan["prompts"]
    allowed = f"{100 * figures['max_accuracy_drop']:g} points"
    if not plan["schedule"]:
        return [f"No group can leave within the tolerance of {allowed} ({_samples(n)})."]
    labels = {line["group"]: line["label"] for line in plan["lines"]}
    until = figures.get("until")
    leave = ", ".join(f"{labels[g]} {when(layer, base)}" for g, layer in plan["schedule"].items())
    does = "leave" if until is None else f"rest until layer {until + base}"
    interval, judged = figures["accuracy_change_interval"], figures.get("prompts", n)  # absent in plans of before 0.2
    saved = (
        f"Saved: {100 * figures['flops_saved']:.0f} % of the decoder's operations in prefill and "
        f"{100 * figures['kv_saved']:.0f} % of the cache; prefill took {figures['prefill_time_ratio']:.2f} of the time "
        f"with the media's encoders, {figures['decoder_time_ratio']:.2f} without them, on this machine."
    )
    if figures.get("measure") == "kl":
        bound, sure = 100 * figures["accuracy_drop_bound"], 100 * figures["confidence"]
        return [
            f"{leave[0].upper()}{leave[1:]} can leave: the next token's distribution is within {figures['max_kl']:g} "
            f"nats of the plain model's on {plain(100 * figures['accuracy_kept'])} % of "
            f"{'these' if judged == n else 'the held-out'} {_samples(judged)} (median {short(figures['kl_median'])}, "
            f"largest {short(figures['kl_largest'])}); further off is less than {plain(bound)} % of others like them, "
            f"with {sure:.4g} % confidence{_few(judged)}. No answers were looked at.",
            saved,
        ]
    spread = "" if interval is None else f", interval {signed(100 * interval[0])} to {signed(100 * interval[1])} points"
    if "accuracy_drop_bound" in figures:
        bound, sure = 100 * figures["accuracy_drop_bound"], 100 * figures["confidence"]
        spread += f"; below {plain(bound)} points on others like them, with {sure:.4g} % confidence"
    return [
        f"{leave[0].upper()}{leave[1:]} can {does} with a drop in accuracy of no more than {allowed} on "
        f"{'these' if judged == n else 'the held-out'} {_samples(judged)}: {plain(100 * figures['accuracy_clean'])} % "
        f"before, {plain(100 * figures['accuracy_kept'])} % after"
        f"{spread}{_few(judged)}.",
        saved,
    ]


def when(layer: int, base: int) -> str:
    """When a group leaves, in words."""
    return f"before layer {base}" if layer < 0 else f"after layer {layer + base}"


def answer_sentence(samples: list[dict[str, Any]]) -> str | None:
    """How many of the samples on the page are answered the same with the schedule."""
    both = [sample["answers"] for sample in samples if "answers" in sample]
    if not both:
        return None
    same = sum(pair["same"] for pair in both)
    return f"{same} of {len(both)} generated answers are word for word the same with the schedule as without."


def _strongest_change(line: dict[str, Any], top: list, base: int, unit: str) -> str:
    layer, mean, low, high, _, p = top
    verb, sign = ("lowers", -1) if mean < 0 else ("raises", 1)
    ends = sorted((sign * low, sign * high))
    sure = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return (
        f"{verb} the answer's probability most, by {plain(abs(mean))} {unit} at layer {layer + base} (95 % interval "
        f"{plain(ends[0])} to {plain(ends[1])}, {sure} after correction for all paths and layers; half of that or more "
        f"in {_layers(line, top, base)})"
    )


def _layers(line: dict[str, Any], top: list, base: int) -> str:
    first, last = extent(line, top)
    return f"layer {first + base}" if first == last else f"layers {first + base}–{last + base}"


def _change(value: float, unit: str) -> str:
    return f"{signed(value)} {unit}"


def _points(value: float) -> str:
    return f"{signed(value)} points"


def _samples(n: int) -> str:
    return f"{n} sample{'s' if n != 1 else ''}"


def _untested(n: int) -> str:
    return " (one sample shows nothing)" if n == 1 else f" ({n} samples are too few for a finding)"


def _few(n: int) -> str:
    if n == 1:
        return " (one sample shows nothing)"
    return f" ({n} samples are too few for a finding)" if n < FEW else ""
