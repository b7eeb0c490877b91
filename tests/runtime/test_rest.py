"""Groups that rest: the run equals the plain model's whose rows bypass those layers, which alone hold less."""

from __future__ import annotations

import pytest
import torch
from evict_cases import (
    NEVER,
    Case,
    batch,
    check,
    evicting,
    far,
    generate,
    lengths,
    model,
    prompt,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_oracle import fate_of, resting
from transformers import DynamicCache

import avflow
from avflow import EveryNth, Step, TopK
from avflow.models.compat import cache_argument, cache_of

CACHE = cache_argument()
STEPS = {
    "whole": [Step("video", 0, until=2)],
    "two": [Step("video", 0, until=1), Step("audio", 1, until=2), Step("question_text", 2)],
    "part": [Step("video", 0, EveryNth(2), until=2), Step("audio", 0, TopK(share=0.4), until=1)],
    "again": [Step("video", 0, until=1), Step("video", 2)],
}
SITUATIONS = {
    "greedy": {},
    "beams": dict(num_beams=3),
    "lookup": dict(prompt_lookup_num_tokens=3),
    "static": dict(cache_implementation="static"),
}
WAYS = [(how, "keep") for how in SITUATIONS] + [("greedy", "drop"), ("beams", "drop")]


def steps_for(case, steps):
    there = {name for row in case.groups for name in row}
    return [step for step in STEPS[steps] if step.group in there]


def both(name, case, steps, decode="keep", **how):
    """Our run, the oracle's, and one in which nothing rests."""
    with evicting(name, case, steps, decode):
        ours = generate(name, case, **how)
    plain = {k: v for k, v in how.items() if k == "num_beams"}
    fate = fate_of(name, case, steps)
    with resting(name, fate, prompts=[case.n] if decode == "drop" else (), times=how.get("num_beams", 1)):
        theirs = generate(name, case, **plain)
    return ours, theirs, generate(name, case, **plain)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["omni", "salmonn", "vl", "qwen2"])
def test_forward(name, steps):
    case = prompt(name)
    given = steps_for(case, steps)
    fate = fate_of(name, case, given)
    with evicting(name, case, given):
        ours = model(name).hf(**case.inputs)
    with resting(name, fate, 0):
        theirs = model(name).hf(**case.inputs)
    with torch.no_grad():
        clean = model(name).hf(**case.inputs)
    stays = (~fate.absent(3)[0]).nonzero()[:, 0]
    assert ours.logits.shape[1] == len(stays)  # what rested is there again
    assert far(ours.logits, theirs.logits[:, stays]) < 1e-4
    assert far(ours.logits, clean.logits[:, stays]) > 1e-2
    assert lengths(cache_of(ours)) == [int((~fate.absent(layer)).sum()) for layer in range(4)]


@pytest.mark.parametrize("how, decode", WAYS)
@pytest.mark.parametrize("steps", STEPS)
def test_generate(steps, how, decode):
    check(*both("omni", prompt("omni"), STEPS[steps], decode, **SITUATIONS[how]))


@pytest.mark.parametrize("how, decode", [way for way in WAYS if way[0] != "lookup"])
@pytest.mark.parametrize("steps", STEPS)
def test_batch(steps, how, decode):
    """Left padding, and different numbers of tokens that rest."""
    case = batch([prompt("vl", 1, 1), prompt("vl", 2, 3)])
    check(*both("vl", case, steps_for(case, steps), decode, **SITUATIONS[how]))


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_only_resting_layers_hold_less(decode):
    case = prompt("omni", 1, 4)
    video = sum(g == "video" for g in case.groups[0])
    with evicting("omni", case, STEPS["whole"], decode):
        cache = cache_of(model("omni").hf(**case.inputs))
    token = 2 * 16 * 4  # kv heads x head_dim x fp32
    for layer, part in enumerate(cache.layers):
        held = case.n - (video if layer in (1, 2) else 0)
        assert part.keys.untyped_storage().nbytes() == part.values.untyped_storage().nbytes() == held * token
    assert cache.get_seq_length() == case.n


RANKED = {
    "this": [Step("video", 1, TopK(share=0.3), until=3), Step("system+video", 4, TopK(share=0.5, by="question"))],
    "as others come back": [
        Step("system", 0, until=2),
        Step("video", 2, TopK(share=0.4, scored_in="next"), until=4),
        Step("audio", 2, TopK(share=0.4), until=5),
    ],
    "nested": [Step("audio", 0, until=4), Step("video", 1, TopK(count=3), until=3), Step("system", 3, until=5)],
}


@pytest.mark.parametrize("steps", RANKED)
@pytest.mark.parametrize("sequences", [1, 2])
def test_by_attention(steps, sequences):
    case = prompt("deep", 1, 3) if sequences == 1 else batch([prompt("deep", 1, 3), prompt("deep", 2, 2)])
    check(*both("deep", case, RANKED[steps]))


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_turns(decode):
    """The next turn's media rest too; later turns see the first one's in the layers in which they were."""
    one = prompt("deep")
    ids = [31, 41, 59, 26, 53]
    steps = [Step("video", 1, until=3), Step("audio", 2)]
    cache, theirs_cache = DynamicCache(), DynamicCache()
    with evicting("deep", one, steps, decode):
        first = generate("deep", one, **{CACHE: cache})
    said = first.sequences.shape[1] - one.n
    names = [one.groups[0] + ["answer"] * said + ["video", "video", "audio", "question_text", "last"]]
    whole = torch.cat([first.sequences, torch.tensor([ids])], 1)
    two = Case({"input_ids": whole, "attention_mask": torch.ones_like(whole)}, names, [[-1] * whole.shape[1]])
    with evicting("deep", two, steps, decode):
        ours = generate("deep", two, **{CACHE: cache})
    with resting("deep", fate_of("deep", two, steps), prompts=[one.n, two.n] if decode == "drop" else ()):
        generate("deep", one, **{CACHE: theirs_cache})
        theirs = generate("deep", two, **{CACHE: theirs_cache})
    check(ours, theirs)
    other = [Step("video", 1, until=4), Step("audio", 2)]
    with evicting("deep", two, other, decode), pytest.raises(avflow.InputError, match="video after 1 until 3"):
        model("deep").hf(whole[:, -1:], **{CACHE: cache})


@pytest.mark.parametrize("size", [1, 3, 7])
def test_chunks(size):
    """A prompt read piece by piece; some pieces rest whole."""
    case = prompt("deep")
    steps = [Step("video", 1, until=3), Step("system+audio", 2, EveryNth(2), until=4)]
    case.items = [[max(item, 0) for item in case.items[0]]]
    fate = fate_of("deep", case, steps)
    cache = DynamicCache()
    with evicting("deep", case, steps):
        for begin in range(0, case.n, size):
            ids = case.inputs["input_ids"][:, begin : begin + size]
            logits = model("deep").hf(ids, **{CACHE: cache}).logits[:, -1]
        more = [model("deep").hf(torch.tensor([[token]]), **{CACHE: cache}).logits[:, -1] for token in (31, 41)]
    with resting("deep", fate):
        whole = torch.cat([case.inputs["input_ids"], torch.tensor([[31, 41]])], 1)
        theirs = model("deep").hf(whole).logits[0, case.n - 1 :]
    assert far(torch.cat([logits, *more]), theirs) < 1e-4
    assert lengths(cache) == [2 + int((~fate.absent(layer)).sum()) for layer in range(7)]


def test_with_a_knockout():
    case = prompt("deep")
    steps = [Step("video", 1, until=3)]
    with evicting("deep", case, steps):
        clean = model("deep").hf(**case.inputs).logits[:, -1]
        with avflow.knockout(model("deep"), "all->video", layers=[2, 3]):  # which nobody computes
            same = model("deep").hf(**case.inputs).logits[:, -1]
        with avflow.knockout(model("deep"), "video->last", layers=[4]):
            other = model("deep").hf(**case.inputs).logits[:, -1]
    assert far(same, clean) < 1e-5 and far(other, clean) > 1e-3


def test_what_cannot_rest():
    case = prompt("deep")
    for steps, message in [
        ([Step("video", 1, until=6)], "rests until layer 6: .* is 5"),
        ([Step("video", 1, until=3), Step("video", 2)], "'video' rests from layer 2 to 3"),
    ]:
        with pytest.raises(avflow.InputError, match=message), evicting("deep", case, steps):
            pass
    case.groups = [[*case.groups[0][:-1], "question_text"]]
    with pytest.raises(avflow.InputError, match="the prompt's last token"):
        with evicting("deep", case, [Step("question_text", 1, until=3)]):
            model("deep").hf(**case.inputs)


GROUPS = ["system", "video", "audio", "question_text"]


@st.composite
def cases(draw):
    """Up to three sequences of up to 20 tokens, padded on the left; each group rests, leaves, or rests and leaves."""
    rows = draw(st.lists(st.lists(st.sampled_from(GROUPS), min_size=1, max_size=20), min_size=1, max_size=3))
    n = 1 + max(map(len, rows))
    ids = torch.randint(10, 400, (len(rows), n), generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    mask = torch.ones_like(ids)
    for b, row in enumerate(rows):
        mask[b, : n - 1 - len(row)] = 0
    groups = [["video"] * (n - 1 - len(row)) + row + ["last"] for row in rows]
    items = [[-1] * (n - 1 - len(row)) + [i // 2 for i in range(len(row))] + [-1] for row in rows]
    steps = []
    for group in sorted({g for row in rows for g in row}):
        at = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True).map(sorted))
        while at:
            keep = draw(st.sampled_from([EveryNth(2), avflow.KeepNone(), avflow.KeepAll()]))
            after, until, *at = [*at, None][:2] + at[2:]
            steps.append(Step(group, after, keep, until))
    return Case({"input_ids": ids, "attention_mask": mask}, groups, items), steps


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from(["keep", "drop"]), st.sampled_from([{}, {"cache_implementation": "static"}]))
def test_any_schedule_equals_the_bypass(drawn, decode, how):
    case, steps = drawn
    how = how if decode == "keep" else {}
    with evicting("deep", case, steps, decode):
        ours = generate("deep", case, max_new_tokens=3, **how)
    fate = fate_of("deep", case, steps)
    with resting("deep", fate, 4, [case.n] if decode == "drop" else ()):
        theirs = generate("deep", case, max_new_tokens=3)
    check(ours, theirs)
    if decode == "keep" and not how and len(case.groups) == 1:
        assert lengths(cache_of(ours)) == [2 + int((~fate.absent(layer)).sum()) for layer in range(7)]
    if decode == "drop" and len(case.groups) == 1:
        gone = fate.gone < NEVER
        assert lengths(cache_of(ours)) == [2 + int((~fate.absent(layer) & ~gone).sum()) for layer in range(7)]
