"""Random layouts, schedules and batches: eviction equals the endless knockout, and the caches hold what stays."""

from __future__ import annotations

import torch
from evict_cases import NEVER, Case, check, cuts_of, dense, evicting, generate, leaves, lengths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avflow import EveryNth, KeepAll, Step
from avflow.models.compat import cache_of

GROUPS = ["system", "video", "audio", "question_text", "template"]
NAME = "qwen3"


@st.composite
def batches(draw):
    """Up to three sequences of up to 20 tokens, padded on the left."""
    rows = draw(st.lists(st.lists(st.sampled_from(GROUPS), min_size=1, max_size=20), min_size=1, max_size=3))
    n = 1 + max(len(row) for row in rows)
    seed = draw(st.integers(0, 2**16))
    ids = torch.randint(10, 400, (len(rows), n), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    groups, items = [], []
    for b, row in enumerate(rows):
        pad = n - 1 - len(row)
        mask[b, :pad] = 0
        # Padding carries a group that may leave: it must not matter.
        groups.append(["video"] * pad + row + ["last"])
        items.append([-1] * pad + [i // 2 for i in range(len(row))] + [-1])
    return Case({"input_ids": ids, "attention_mask": mask}, groups, items)


@st.composite
def schedules(draw, case):
    there = sorted({g for row in case.groups for g in row} - {"last"})
    real = [g for g in there if g in GROUPS]
    steps = []
    for _ in range(draw(st.integers(1, 3))):
        keep = draw(st.sampled_from([None, None, EveryNth(2), KeepAll()]))
        after, group = draw(st.integers(0, 2)), draw(st.sampled_from(real))
        steps.append(Step(group, after) if keep is None else Step(group, after, keep))
    return steps


def gone_of(case: Case, steps) -> torch.Tensor:
    gone = torch.full((len(case.groups), case.n), NEVER)
    item = torch.tensor(case.items)
    for step in sorted(steps, key=lambda s: s.after):
        leave = leaves(case.groups, {step.group: 0}) == 0
        if isinstance(step.keep, EveryNth):
            leave &= item % step.keep.n != 0
        elif isinstance(step.keep, KeepAll):
            continue
        gone[leave & (gone == NEVER)] = step.after
    return gone


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_schedule_equals_its_knockout(data):
    case = data.draw(batches())
    steps = data.draw(schedules(case))
    decode = data.draw(st.sampled_from(["keep", "drop"]))
    how = data.draw(st.sampled_from([{}, {"num_beams": 2}, {"cache_implementation": "static"}]))
    if decode == "drop":
        how.pop("cache_implementation", None)
    gone = gone_of(case, steps)
    real = case.inputs["attention_mask"].bool()
    with evicting(NAME, case, steps, decode):
        ours = generate(NAME, case, max_new_tokens=3, **how)
    cuts = cuts_of(gone, 4, [case.n] if decode == "drop" else None)
    beams = how.pop("num_beams", 1)
    how.pop("cache_implementation", None)
    with dense(NAME, {layer: cut.repeat_interleave(beams, 0) for layer, cut in cuts.items()}):
        theirs = generate(NAME, case, max_new_tokens=3, num_beams=beams)
    check(ours, theirs)
    if decode == "drop":
        assert lengths(cache_of(ours)) == [2 + int(((gone == NEVER) & real).sum(1).max())] * 4
    elif hasattr(cache_of(ours).layers[0], "max_cache_len") or len(case.groups) > 1:
        return  # where nothing leaves, padding goes on too
    else:
        assert lengths(cache_of(ours)) == [2 + int((gone > layer - 1).sum()) for layer in range(4)]
