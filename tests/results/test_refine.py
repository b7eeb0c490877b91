"""Cells between a coarse sweep's centres are asked for where its curves bend, and run exactly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import avflow
from avflow.results import cells_to_refine
from avflow.results.table import SCHEMA


def swept(curves: dict[str, dict[int, float]], samples: int = 2) -> pa.Table:
    """A sweep's table whose mean curves are these; each sample's own is a point above or below."""
    rows = []
    for n in range(samples):
        for name, curve in curves.items():
            for layer, change in curve.items():
                row = dict.fromkeys(SCHEMA.names)
                logp = float(np.log1p((change + (-1) ** n) / 100))
                row |= {"prompt": str(n), "task": "t", "knockout": name, "layer": layer, "window": 1, "correct": True}
                row |= {"p_clean": 1.0, "p_knockout": float(np.exp(logp)), "logp_clean": 0.0, "logp_knockout": logp}
                row |= {"change_percent": change + (-1) ** n, "correct_knockout": True, "status": "ok", "target": "key"}
                rows.append(row)
    return pa.Table.from_pylist(rows, SCHEMA)


def test_the_step_is_found_by_halving():
    """-40 % up to layer 13, nothing after it: three cells pin the step down; the flat path comes last."""
    step = {c: -40.0 if c <= 13 else 0.0 for c in range(0, 33, 8)}
    table = swept({"a->b": step, "flat->b": dict.fromkeys(range(0, 33, 8), -5.0)})
    assert cells_to_refine(table, 1) == [("a->b", 12)]
    assert {12, 4, 20} == {c for _, c in cells_to_refine(table, 3)}
    every = cells_to_refine(table, 1000)
    assert every == [(name, c) for name in ("a->b", "flat->b") for c in range(33) if c % 8]
    assert "flat->b" not in {name for name, _ in cells_to_refine(table, 21)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=8, unique=True),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_only_cells_between_centres_each_once(centres, count, random):
    curves = {name: {c: random.uniform(-90, 0) for c in sorted(centres)} for name in ("a->b", "c->d")}
    free = set(range(min(centres), max(centres))) - set(centres)
    if not free:
        with pytest.raises(avflow.InputError, match="leave no centre between them"):
            cells_to_refine(swept(curves), count)
        return
    found = cells_to_refine(swept(curves), count)
    assert len(found) == len(set(found)) == min(count, 2 * len(free)) and {c for _, c in found} <= free


def test_rows_of_both_are_those_of_the_whole_sweep():
    model, prompt, path = avflow.wrap(tiny.thinker(layers=6)), tiny.av_prompt(), "audio<->video"
    how = {"window": 1, "select": "all"}
    coarse = avflow.sweep(model, [prompt], path, layers=[0, 3, 5], **how)
    fine = avflow.sweep(model, [prompt], cells=coarse.cells_to_refine(9), **how)
    whole = avflow.sweep(model, [prompt], path, **how)
    assert fine.table["layer"].to_pylist() == [1, 2, 4]
    both = pa.concat_tables([coarse.table, fine.table]).sort_by("layer")
    want = whole.table.sort_by("layer")
    assert pc.max(pc.abs(pc.subtract(both["logp_knockout"], want["logp_knockout"]))).as_py() < 1e-5
    for count in (0, -1, 1.5, True, None):
        with pytest.raises(avflow.InputError, match="count"):
            coarse.cells_to_refine(count)
