"""Samples one by one, for the page: what they are, and what cutting each path does to each one's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..plots.style import path_label
from ..prompts.sample import LETTERS
from ..results.change import Center
from .media import media_or_none
from .tables import tokens_of

MOST_MEDIA = (
    40  # samples of a page that show their media, those of the strongest effects first: `avflow view` shows all
)
DIGITS = 2  # of a change: what a chart can show


def each_sample(
    table: pa.Table,
    records: list[dict[str, Any]],
    told: dict[str, dict[str, Any]],
    brief: bool = False,
    center: Center = "mean",
) -> list[dict[str, Any]]:
    """[{id, task, correct, p_clean, effect, curves}] of the samples that have a value, in the order of the rows.

    curves: {path: [[layer, change]]}, in the unit of `center`: percent, or points of "difference". effect: [path,
    layer, change], the strongest of them. told: of `runs.told.read_told`; those that
    are told of have what `asked` gives too. brief: without curves and tokens.
    """
    valued = table.filter(pc.is_valid(table["change_percent"]))
    if not valued.num_rows:
        return []
    prompts = valued["prompt"].combine_chunks().dictionary_encode()
    paths = valued["knockout"].combine_chunks().dictionary_encode()
    changes = valued["change_percent"].to_numpy()
    if center == "difference":
        changes = 100 * (valued["p_knockout"].to_numpy() - valued["p_clean"].to_numpy())
    layers, changes = valued["layer"].to_numpy(), np.round(changes, DIGITS)
    tasks, p_clean = valued["task"].to_pylist(), valued["p_clean"].to_pylist()
    ids, names = prompts.dictionary.to_pylist(), paths.dictionary.to_pylist()
    known = {record["id"]: record.get("correct") for record in records}
    own, of_path = prompts.indices.to_numpy(), paths.indices.to_numpy()
    order = np.lexsort((layers, of_path, own))
    found = []
    for rows in np.split(order, np.flatnonzero(np.diff(own[order])) + 1):
        curves: dict[str, list[list]] = {}
        for row in () if brief else rows:
            curves.setdefault(names[of_path[row]], []).append([int(layers[row]), float(changes[row])])
        top, first = rows[np.argmax(np.abs(changes[rows]))], rows[0]
        effect = [names[of_path[top]], int(layers[top]), float(changes[top])]
        name = ids[own[first]]
        sample = {"id": name, "task": tasks[first] or "", "correct": known.get(name), "p_clean": p_clean[first]}
        sample |= {"effect": effect, "curves": curves} | asked(told.get(name))
        if brief:
            del sample["curves"]
            sample.pop("tokens", None)
        found.append(sample)
    return found


def asked(told: dict[str, Any] | None) -> dict[str, Any]:
    """question, options [[letter, text]], answer and tokens of a sample, as far as the run told of it."""
    if told is None:
        return {}
    sample = told["sample"]
    found: dict[str, Any] = {"tokens": tokens_of(told["tokens"])}
    if sample.get("question"):
        options = sample.get("options") or []
        found |= {"question": sample["question"], "answer": sample.get("answer", "")}
        found["options"] = [[letter, text] for letter, text in zip(LETTERS, options, strict=False)]
    return found


def add_media(
    samples: list[dict[str, Any]], told: dict[str, dict[str, Any]], shown: set[str], most: int = MOST_MEDIA
) -> None:
    """Puts `media` into the `most` samples of the strongest effects whose files are still there.

    shown: ids of samples that have theirs, of any run of the page; those of these are added.
    """
    for sample in sorted(samples, key=lambda s: -abs(s["effect"][2]) if "effect" in s else 0.0):
        if len(shown) >= most:
            return
        known = None if sample["id"] in shown else told.get(sample["id"])
        if known and (media := media_or_none(known["sample"])):
            sample["media"] = media
            shown.add(sample["id"])


def texts_of(table: pa.Table, told: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """[{id, task, texts: {clean, rows}}] of a run of generated text, with what `asked` gives.

    rows: [[path, first layer, last layer, text]], of the knockouts that cut something; text None: as the clean one.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        name = row["prompt"]
        texts = {"clean": row["text_clean"], "rows": []}
        entry = found.setdefault(name, {"id": name, "task": row["task"] or "", "texts": texts, **asked(told.get(name))})
        if row["status"] == "ok":
            text = row["text_knockout"] if row["changed"] else None
            entry["texts"]["rows"].append([path_label(row["knockout"]), row["first_layer"], row["last_layer"], text])
    return list(found.values())
