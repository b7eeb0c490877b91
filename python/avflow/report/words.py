"""What a report's numbers say, in sentences made from them alone.

A path counts as one that matters if its strongest layer changes the answer's probability by at least LEAST percent and
the interval there leaves out zero. The strongest of many (path, layer) pairs looks larger than it is; the sentences
give the number of samples.
"""

from __future__ import annotations

from typing import Any

from .flow import lines_of

LEAST = 5.0  # percent of the clean probability
FEW = 10  # samples; fewer than this, and the sentence says so
MEDIA = ("video", "audio", "image", "candidate", "reference")


def summary(found: dict[str, Any], base: int = 0) -> list[dict[str, Any]]:
    """[{title, lines: [sentence]}] of what `collect` found. base: the number of the first layer, 0 or 1."""
    parts = []
    for sweep in found.get("sweeps", []):
        title = "Information flow" if len(found["sweeps"]) == 1 else f"Information flow, {sweep['name']}"
        entries = sweep["flow"][1:] or sweep["flow"]
        if entries:
            parts.append({"title": title, "lines": [flow_sentence(entry, base) for entry in entries]})
    if "share" in found:
        parts.append({"title": "Attention", "lines": [share_sentence(found["share"][0], base)]})
    if "lens" in found:
        parts.append({"title": "Answer lens", "lines": [lens_sentence(found["lens"][0], base)]})
    if "plan" in found:
        parts.append({"title": "Eviction", "lines": plan_sentences(found["plan"], base)})
    if "samples" in found and (line := answer_sentence(found["samples"]["samples"])):
        parts.append({"title": "Answers", "lines": [line]})
    return parts


def peak(line: dict[str, Any]) -> list:
    """The point of a line's strongest mean change."""
    return max(line["points"], key=lambda point: abs(point[1]))


def matters(point: list) -> bool:
    """Is the change at this point large, and its interval on one side of zero?"""
    _, mean, low, high, _ = point
    return abs(mean) >= LEAST and low is not None and low * high > 0


def extent(line: dict[str, Any]) -> tuple[int, int]:
    """First and last layer of the stretch round the peak where the change is at least half of it."""
    points, top = line["points"], peak(line)
    first = last = points.index(top)
    strong = [point[1] * top[1] > 0 and abs(point[1]) >= abs(top[1]) / 2 for point in points]
    while first > 0 and strong[first - 1]:
        first -= 1
    while last + 1 < len(points) and strong[last + 1]:
        last += 1
    return points[first][0], points[last][0]


def flow_sentence(entry: dict[str, Any], base: int = 0) -> str:
    """Which paths mattered for one task, where, and which media did not."""
    lines = sorted(lines_of(entry), key=lambda line: -abs(peak(line)[1]))
    right = f", {entry['right']} answered right" if entry["known"] else ""
    head = f"{entry['task'] or 'All samples'} ({_samples(entry['samples'])}{right}): "
    strong = [line for line in lines if matters(peak(line))]
    if not strong:
        top = lines[0]
        sure = "no path mattered" if abs(peak(top)[1]) < LEAST else "no path is sure to have mattered"
        text = f"{sure}; the largest change is {_change(peak(top)[1])}, {top['label']}"
        return head + text + _few(entry["samples"]) + "."
    text = f"cutting {strong[0]['label']} {_strongest_change(strong[0], base)}"
    others = [f"{line['label']} ({_change(peak(line)[1])}, {_layers(line, base)})" for line in strong[1:4]]
    if others:
        text += "; then " + ", ".join(others)
    if len(strong) > 4:
        text += f" and {len(strong) - 4} more"
    silent = _silent(lines)
    if silent:
        text += "; " + ", ".join(silent)
    return head + text + _few(entry["samples"]) + "."


def _silent(lines: list[dict[str, Any]]) -> list[str]:
    """The media whose paths into text all do not matter."""
    out = []
    for medium in MEDIA:
        own = [line for line in lines if line["path"].startswith(medium) and "->" in line["path"]]
        if own and not any(matters(peak(line)) for line in own):
            most = max(abs(peak(line)[1]) for line in own)
            if most < LEAST:
                out.append(f"no path out of {medium} mattered (at most {most:.1f} %)")
            else:
                out.append(f"none out of {medium} is sure to have mattered (up to {most:.1f} %, intervals with zero)")
    return out


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


def plan_sentences(plan: dict[str, Any], base: int = 0) -> list[str]:
    """The schedule, what it does to the answers, and what it saves."""
    figures, n = plan["figures"], plan["prompts"]
    allowed = f"{100 * figures['max_accuracy_drop']:g} points"
    if not plan["schedule"]:
        return [f"No group can leave within the tolerance of {allowed} ({_samples(n)})."]
    labels = {line["group"]: line["label"] for line in plan["lines"]}
    leave = ", ".join(f"{labels[g]} {_when(layer, base)}" for g, layer in plan["schedule"].items())
    interval, judged = figures["accuracy_change_interval"], figures.get("prompts", n)  # absent in plans of before 0.2
    spread = "" if interval is None else f", interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} points"
    if "accuracy_drop_bound" in figures:
        bound, sure = 100 * figures["accuracy_drop_bound"], 100 * figures["confidence"]
        spread += f"; below {bound:.1f} points on others like them, with {sure:.4g} % confidence"
    return [
        f"{leave[0].upper()}{leave[1:]} can leave with a drop in accuracy of no more than {allowed} on "
        f"{'these' if judged == n else 'the held-out'} {_samples(judged)}: {100 * figures['accuracy_clean']:.1f} % "
        f"before, {100 * figures['accuracy_kept']:.1f} % after"
        f"{spread}{_few(judged)}.",
        f"Saved: {100 * figures['flops_saved']:.0f} % of the decoder's operations in prefill and "
        f"{100 * figures['kv_saved']:.0f} % of the cache; prefill took {figures['prefill_time_ratio']:.2f} of the time "
        f"with the media's encoders, {figures['decoder_time_ratio']:.2f} without them, on this machine.",
    ]


def _when(layer: int, base: int) -> str:
    return f"before layer {base}" if layer < 0 else f"after layer {layer + base}"


def answer_sentence(samples: list[dict[str, Any]]) -> str | None:
    """How many of the samples on the page are answered the same with the schedule."""
    both = [sample["answers"] for sample in samples if "answers" in sample]
    if not both:
        return None
    same = sum(pair["same"] for pair in both)
    return f"{same} of {len(both)} generated answers are word for word the same with the schedule as without."


def _strongest_change(line: dict[str, Any], base: int) -> str:
    layer, mean, low, high, _ = peak(line)
    verb = "lowers" if mean < 0 else "raises"
    ends = sorted((abs(low), abs(high)))
    return (
        f"{verb} the answer's probability most, by {abs(mean):.1f} % at layer {layer + base} (95 % interval "
        f"{ends[0]:.1f} to {ends[1]:.1f}; half of that or more in {_layers(line, base)})"
    )


def _layers(line: dict[str, Any], base: int) -> str:
    first, last = extent(line)
    return f"layer {first + base}" if first == last else f"layers {first + base}–{last + base}"


def _change(value: float) -> str:
    return f"{value:+.1f} %".replace("-", "−") if abs(value) >= 0.05 else f"{value:+.2g} %".replace("-", "−")


def _samples(n: int) -> str:
    return f"{n} sample{'s' if n != 1 else ''}"


def _few(n: int) -> str:
    if n == 1:
        return " (one sample shows nothing)"
    return f" ({n} samples are too few for a finding)" if n < FEW else ""
