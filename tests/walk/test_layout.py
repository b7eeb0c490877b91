"""Which rows a walk needs: starts, streams, joins, splitting; checked symbolically against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avflow.walk.jobs import Columns, Eviction, Job, first_cut_row, job_rows
from avflow.walk.layout import build_layout, split_jobs
from avflow_ext import AttentionProblem, Cut, Tokens
from avflow_ext.reference import cut_mask, visible

WORD = st.integers(0, 15)  # sets of 4 groups


@settings(max_examples=150, deadline=None)
@given(
    groups=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(
        st.builds(
            Cut,
            source=WORD,
            target=WORD,
            scope=st.sampled_from(["all", "other_items"]),
            cut_self=st.booleans(),
            random_share=st.sampled_from([None, None, 0.1, 0.5]),
            seed=st.integers(0, 2**32 - 1),
        ),
        min_size=1,
        max_size=2,
    ),
)
def test_first_cut_row_is_the_first_row_that_loses_an_edge(groups, seed, cuts):
    n = len(groups)
    item = np.random.default_rng(seed).integers(-1, 3, n).astype(np.int32)
    group = np.array(groups, np.int32)
    tokens = Tokens(torch.arange(n), torch.from_numpy(group), torch.from_numpy(item))
    problem = AttentionProblem(tokens, cuts=cuts)
    lost = (visible(problem) & cut_mask(problem, 1)[0]).any(1).nonzero()
    expected = int(lost[0]) if len(lost) else None
    assert first_cut_row(cuts, Columns(group, item, n)) == expected


def replay(lengths, jobs, n_layers):
    """Walks the layout with symbols instead of numbers: what each row has been through, per layer."""
    layout = build_layout(lengths, jobs, n_layers)
    knockout_of = {}  # stream -> knockout, from where its cuts are in force
    for active in layout.active:
        for knockout, streams in active.items():
            for stream in streams:
                assert knockout_of.setdefault(stream, knockout) == knockout
    clean = [(p, order, ()) for p, n in enumerate(lengths) for order in range(n)]
    rows = list(clean)
    for layer in range(n_layers):
        rows += [rows[i] for i in layout.joins[layer]]
        assert len(rows) == layout.rows[layer]
        inside = {s for streams in layout.active[layer].values() for s in streams}
        hit = [layout.stream[i] in inside for i in range(len(rows))]
        rows = [(p, order, (*past, layer) if h else past) for h, (p, order, past) in zip(hit, rows, strict=True)]
    return layout, knockout_of, rows


@st.composite
def job_sets(draw):
    n_layers = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    starts = {}
    jobs = []
    for _ in range(draw(st.integers(0, 12))):
        prompt, knockout = draw(st.integers(0, len(lengths) - 1)), draw(st.integers(0, 2))
        start = starts.setdefault((prompt, knockout), draw(st.integers(0, lengths[prompt] - 1)))
        layers = draw(st.sets(st.integers(0, n_layers - 1), min_size=1))
        jobs.append(Job.of(prompt, knockout, start, frozenset(layers)))
    return lengths, list(dict.fromkeys(jobs)), n_layers


@settings(max_examples=200, deadline=None)
@given(job_sets())
def test_every_job_ends_with_rows_that_lived_through_its_layers(case):
    lengths, jobs, n_layers = case
    layout, knockout_of, rows = replay(lengths, jobs, n_layers)
    assert set(layout.stream_of) == set(jobs)
    offset = np.concatenate([[0], np.cumsum(lengths)])
    for p, n in enumerate(lengths):  # the clean rows lie first and live through nothing
        assert rows[offset[p] : offset[p + 1]] == [(p, order, ()) for order in range(n)]
    for job, stream in layout.stream_of.items():
        layers = tuple(layer for layer in range(n_layers) if job.layers >> layer & 1)
        at = np.flatnonzero(layout.stream == stream)
        assert knockout_of.get(stream, job.knockout) == job.knockout
        assert layout.parent[stream] == job.prompt and layout.start[stream] == job.start
        assert [rows[i] for i in at] == [(job.prompt, o, layers) for o in range(job.start, lengths[job.prompt])]
        assert at[0] == layout.first_row[stream] and (np.diff(at) == 1).all()
        assert (layout.order[at] == np.arange(job.start, lengths[job.prompt])).all()
        assert (layout.token[at] == offset[job.prompt] + layout.order[at]).all()
    # No rows but these: one stream for every distinct past that a job has at each layer.
    for layer in range(n_layers):
        pasts = {(j.prompt, j.knockout, j.start, j.layers & ((2 << layer) - 1)) for j in jobs}
        extra = sum(lengths[prompt] - start for prompt, _, start, past in pasts if past)
        assert layout.rows[layer] == sum(lengths) + extra
    assert layout.clean_rows == sum(lengths)
    assert layout.clean_only().rows == [sum(lengths)] * n_layers


@settings(max_examples=100, deadline=None)
@given(job_sets(), st.integers(1, 60))
def test_splitting_keeps_every_job_once_and_within_the_limit(case, max_rows):
    lengths, jobs, n_layers = case
    walks = split_jobs(lengths, jobs, max_rows)
    assert sorted(map(repr, jobs)) == sorted(repr(j) for walk in walks for j in walk)
    for walk in walks:
        rows = build_layout(lengths, walk, n_layers).rows[-1]
        assert rows <= max_rows or len(walk) <= 1
    if jobs and len(walks) > 1:
        assert build_layout(lengths, jobs, n_layers).rows[-1] > max_rows


@st.composite
def eviction_sets(draw):
    """Prompts of groups 0..3, the last token in a group 4 that never leaves; some rest; some knockouts ride along."""
    n_layers = draw(st.integers(2, 6))
    groups = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=3))
    groups = [np.array([*g, 4], np.int32) for g in groups]
    jobs = []
    for _ in range(draw(st.integers(1, 10))):
        prompt = draw(st.integers(0, len(groups) - 1))
        there = st.sampled_from(sorted({1 << int(g) for g in groups[prompt] if g < 4}))
        leave = draw(st.dictionaries(st.integers(0, n_layers - 2), there, min_size=1, max_size=3))
        rest = []
        for word in draw(st.sets(there)):  # from draw to draw other layers; what has left by then stays away
            spans = draw(st.lists(st.integers(0, n_layers - 2), max_size=4, unique=True).map(sorted))
            rest += [(after, until, word) for after, until in zip(spans[::2], spans[1::2], strict=False)]
            leave = {after: other for after, other in leave.items() if other != word or after > max([-1, *spans])}
        if leave or rest:
            jobs.append(Eviction.of(prompt, leave, rest))
    for _ in range(draw(st.integers(0, 3))):
        layers = draw(st.sets(st.integers(0, n_layers - 1), min_size=1))
        jobs.append(Job.of(0, 0, 0, frozenset(layers)))
    return groups, list(dict.fromkeys(jobs)), n_layers


def dense_eviction(job, group, n_layers):
    """What each kept row has seen in every layer: nested hashes of the keys' states."""
    states = {order: hash((job.prompt, order)) for order in range(len(group))}
    for layer in range(n_layers):
        gone = 0
        for after, word in job.steps:
            gone = word if layer > after else gone
        there = {o: s for o, s in states.items() if not gone >> int(group[o]) & 1}
        # Those that are away keep what they were: they may come back.
        states |= {o: hash((s, tuple(v for k, v in there.items() if k <= o))) for o, s in there.items()}
    return {o: states[o] for o in there}


@settings(max_examples=200, deadline=None)
@given(eviction_sets())
def test_every_eviction_ends_with_rows_that_saw_what_was_kept(case):
    groups, jobs, n_layers = case
    lengths = [len(g) for g in groups]
    layout = build_layout(lengths, jobs, n_layers, groups)
    states = [hash((p, order)) for p, n in enumerate(lengths) for order in range(n)]
    saved = []
    for layer in range(n_layers):
        saved += [states[i] for i in layout.saves[layer]]
        source = states + (saved if layer in layout.reads else [])
        states += [source[i] for i in layout.joins[layer]]
        before, states = states, []
        for row, own in enumerate(before):
            stream = layout.stream[row]
            parent, start = layout.parent[stream], layout.start[stream]
            shared = [s for r, s in enumerate(before) if layout.stream[r] == parent and layout.order[r] < start]
            mine = [
                s for r, s in enumerate(before) if layout.stream[r] == stream and layout.order[r] <= layout.order[row]
            ]
            states.append(hash((own, tuple(shared + mine))))
    for job in jobs:
        if isinstance(job, Eviction):
            expected = dense_eviction(job, groups[job.prompt], n_layers)
            stream = layout.stream_of[job]
            rows = np.flatnonzero(layout.stream == stream)
            found = {int(layout.order[r]): states[r] for r in rows}
            found |= {o: states[layout.first_row[job.prompt] + o] for o in range(layout.start[stream])}
            assert found == expected
    walks = split_jobs(lengths, jobs, 20, groups)
    assert sorted(map(repr, jobs)) == sorted(repr(j) for walk in walks for j in walk)
    most = sum(lengths) + sum(job_rows(j, lengths, groups) for j in jobs)
    assert layout.rows[-1] <= most


def test_an_eviction_costs_the_rows_after_its_first_token():
    """100 text, 1000 media, 50 text rows: dropping the media after layer 1 of 4 adds 50 rows to the upper layers."""
    group = np.repeat([0, 1, 2], [100, 1000, 50]).astype(np.int32)
    one, other = Eviction.of(0, {1: 2}), Eviction.of(0, {1: 2, 2: 4 + 8})
    assert build_layout([1150], [one], 4, [group]).rows == [1150, 1150, 1200, 1200]
    # The second goes its own way after layer 2 only; it has no row of its own left.
    group[-1] = 5
    layout = build_layout([1150], [one, other], 4, [group])
    assert layout.rows == [1150, 1150, 1200, 1201] and layout.ratio == pytest.approx(4701 / 4600)


def test_a_rest_costs_the_rows_of_its_layers_and_all_of_them_after_it():
    """100 text, 1000 media, 50 text rows; the media rest in layers 2 and 3 of 6 and come back beside the 50."""
    group = np.repeat([0, 1, 2], [100, 1000, 50]).astype(np.int32)
    rest, gone = Eviction.of(0, {}, [(1, 3, 2)]), Eviction.of(0, {1: 2})
    layout = build_layout([1150], [rest], 6, [group])
    assert layout.rows == [1150, 1150, 1200, 1200, 2250, 2250] and layout.reads == {4}
    assert [len(rows) for rows in layout.saves] == [0, 0, 1000, 0, 0, 0]
    assert layout.rows[-1] == 1150 + job_rows(rest, [1150], [group])
    # An eviction after the same layer is the same stream for as long as it lasts; two rests save their rows once.
    longer = Eviction.of(0, {}, [(1, 4, 2)])
    layout = build_layout([1150], [rest, gone, longer], 6, [group])
    assert layout.rows == [1150, 1150, 1200, 1200, 2250, 3300]
    assert [len(rows) for rows in layout.saves] == [0, 0, 1000, 0, 0, 0] and layout.reads == {4, 5}


def test_nested_windows_share_rows():
    """Centres 0..3 of width 7 all begin at layer 0: one stream until the first of them ends."""
    jobs = [Job.of(0, 0, 8, frozenset(range(end))) for end in (4, 5, 6, 7)]
    layout = build_layout([10], jobs, 8)
    assert layout.rows == [12, 12, 12, 12, 14, 16, 18, 18]
    assert layout.ratio == pytest.approx(sum(layout.rows) / 80)


def test_many_jobs_are_planned_quickly():
    import time

    jobs = [Job.of(0, k, 9000, frozenset(range(max(0, c - 3), min(36, c + 4)))) for k in range(15) for c in range(36)]
    began = time.process_time()
    layout = build_layout([10000], jobs, 36)
    assert time.process_time() - began < 2.0
    assert len(layout.parent) == 1 + 15 * 36
