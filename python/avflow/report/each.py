"""The samples of a sweep one by one, for the page: what cutting each path does to each one's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGITS = 2  # of a change in percent: what a chart can show


def each_sample(table: pa.Table, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{id, task, correct, p_clean, effect, curves}] of the samples that have a value, in the order of the rows.

    curves: {path: [[layer, change in percent]]}. effect: [path, layer, change], the strongest of them.
    """
    valued = table.filter(pc.is_valid(table["change_percent"]))
    if not valued.num_rows:
        return []
    prompts = valued["prompt"].combine_chunks().dictionary_encode()
    paths = valued["knockout"].combine_chunks().dictionary_encode()
    layers, changes = valued["layer"].to_numpy(), np.round(valued["change_percent"].to_numpy(), DIGITS)
    tasks, p_clean = valued["task"].to_pylist(), valued["p_clean"].to_pylist()
    ids, names = prompts.dictionary.to_pylist(), paths.dictionary.to_pylist()
    known = {record["id"]: record.get("correct") for record in records}
    own, of_path = prompts.indices.to_numpy(), paths.indices.to_numpy()
    order = np.lexsort((layers, of_path, own))
    found = []
    for rows in np.split(order, np.flatnonzero(np.diff(own[order])) + 1):
        curves: dict[str, list[list]] = {}
        for row in rows:
            curves.setdefault(names[of_path[row]], []).append([int(layers[row]), float(changes[row])])
        top, first = rows[np.argmax(np.abs(changes[rows]))], rows[0]
        effect = [names[of_path[top]], int(layers[top]), float(changes[top])]
        name = ids[own[first]]
        found.append(
            {"id": name, "task": tasks[first] or "", "correct": known.get(name), "p_clean": p_clean[first]}
            | {"effect": effect, "curves": curves}
        )
    return found
