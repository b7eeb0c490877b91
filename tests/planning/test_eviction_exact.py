"""What a walk says of an eviction equals the endless knockout: a dense-mask eager run of the same model for each."""

from __future__ import annotations

import functools

import numpy as np
import oracle
import pytest
import rest_oracle
import tiny
import tiny_salmonn
import torch
from evict_cases import Case

import avflow
from avflow.eviction.schedule import EvictionSchedule, Step
from avflow.models.proof import checking
from avflow.planning.trials import EvictionRequest, try_schedules

GROUPS = ["video", "audio", "media", "question_text", "question", "system"]


def evicted_logp(hf, prompt, schedule) -> tuple[float, int]:
    """By the oracle: from the layer after a step on, nobody but the group itself sees the group."""
    extra = len(prompt.answer_ids) - 1
    names = [*prompt.groups, *["answer"] * extra]
    text_model = avflow.models.compat.find_text_model(hf)
    heads, n_layers = text_model.config.num_attention_heads, len(text_model.layers)
    cuts = {}
    for layer in range(n_layers):
        gone = set().union(*(oracle.names(s.group) for s in schedule.steps if s.after < layer), set())
        cut = np.array([[j in gone and i not in gone for j in names] for i in names])
        cuts[layer] = oracle.torch.from_numpy(cut).expand(1, heads, -1, -1)
    return oracle.answer_logp(hf, prompt, cuts=cuts)


def single(groups, n_layers) -> list[EvictionSchedule]:
    return [EvictionSchedule({g: after}) for g in groups for after in range(-1, n_layers - 1)]


def check(model, prompts, schedules) -> float:
    """Asserts equality for every prompt and schedule; the largest effect on logp."""
    largest = 0.0
    for prompt, found in zip(prompts, try_schedules(model, prompts, EvictionRequest(schedules)), strict=True):
        clean, top = oracle.answer_logp(model.hf, prompt)
        assert abs(found.logp_clean - clean) <= 1e-4
        for schedule, logp, correct in zip(schedules, found.logp, found.correct, strict=True):
            expected, top = evicted_logp(model.hf, prompt, schedule)
            where = f"{prompt.id} {[(s.group, s.after) for s in schedule.steps]}: {logp} is not {expected}"
            assert abs(logp - expected) <= 1e-4, where
            if len(prompt.answer_ids) == 1 and prompt.option_ids is None:
                assert correct == (top == prompt.answer_ids[0]), where
            largest = max(largest, abs(expected - clean))
    return largest


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first", "silent"])
def test_every_group_and_layer(omni, layout):
    prompt = tiny.av_prompt(layout, seconds=3)
    groups = [g for g in GROUPS if not (layout == "silent" and g == "audio")]
    assert check(omni, [prompt], single(groups, omni.n_layers)) > 1e-2


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_plain_decoders(kind):
    model = avflow.wrap(tiny.decoder(kind, layers=3))
    prompt = tiny.text_prompt(64, ids=kind != "llama")
    assert check(model, [prompt], single(["video", "audio", "video+audio+question"], 3)) > 1e-3


JOINT = [
    EvictionSchedule({"video": 0, "audio": 1, "question_text": 2}),
    EvictionSchedule({"question_text": 0, "audio": 1, "video": 2}),  # what stands first leaves last
    EvictionSchedule({"audio": 0, "video": 1}),
    EvictionSchedule({"audio": -1, "question_text": 0, "video": 2}),
    EvictionSchedule({"video": 0, "audio": 0}),
    EvictionSchedule({"media": 1, "video": 2}),  # nothing is left of it to leave
    EvictionSchedule([Step("video", 0), Step("question", 2), Step("system", 1)]),
]


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first"])
def test_groups_that_leave_one_after_the_other(omni, layout):
    assert check(omni, [tiny.av_prompt(layout, seconds=3, seed=5)], JOINT) > 1e-2


@pytest.mark.parametrize("answer", [(7, 9), (100, 3, 250)])
def test_answers_of_several_tokens(omni, answer):
    prompt = tiny.av_prompt("interleaved", seconds=3, answer_ids=answer)
    assert check(omni, [prompt], [*single(["video", "question"], 4), *JOINT]) > 1e-2


RESTS = [
    EvictionSchedule([Step(group, after, until=until)])
    for group in ("video", "audio", "media", "question_text")
    for after in range(4)
    for until in range(after + 1, 5)
]
RESTS_TOGETHER = [
    EvictionSchedule([Step("video", 0, until=2), Step("audio", 1, until=4)]),
    EvictionSchedule([Step("audio", 0, until=3), Step("video", 3)]),
    EvictionSchedule([Step("video", 0, until=1), Step("video", 3)]),
    EvictionSchedule([Step("video", 0, until=1), Step("video", 2, until=3), Step("question_text", 4)]),
    EvictionSchedule([Step("audio", 0), Step("media", 2, until=4)]),  # the audio does not come back
    EvictionSchedule([Step("question_text", 1, until=2), Step("video", 2, until=4), Step("system", 0, until=4)]),
    EvictionSchedule({"video": 0}),  # shares rows with those that rest from there on
    EvictionSchedule({}),
]


@functools.cache
def deep():
    return avflow.wrap(tiny.thinker(layers=6))


def bypassed_logp(prompt, schedule) -> float:
    """Log-probability of the answer by the oracle of resting, all its tokens."""
    extra = torch.tensor(prompt.answer_ids[:-1], dtype=torch.long)
    ids = torch.cat([prompt.input_ids, extra])[None]
    inputs = dict(prompt.model_inputs) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    groups = [[*prompt.groups, *["answer"] * len(extra)]]
    case = Case(inputs, groups, [[-1] * len(groups[0])])
    with rest_oracle.resting(deep(), rest_oracle.fate_of(deep(), case, schedule.steps), 0):
        logits = deep().hf(**inputs, use_cache=False).logits[0, len(prompt) - 1 :].float()
    target = torch.tensor(prompt.answer_ids)
    return float(torch.log_softmax(logits, -1)[torch.arange(len(target)), target].sum())


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first"])
@pytest.mark.parametrize("schedules", [RESTS, RESTS_TOGETHER], ids=["alone", "together"])
def test_groups_that_rest(layout, schedules):
    """All schedules in one walk, and in several of few jobs: each is the run whose rows bypass the layers."""
    prompts = [tiny.av_prompt(layout, seconds=2, seed=s, id=str(s), answer_ids=(7, 9)[: s + 1]) for s in range(2)]
    request = EvictionRequest(schedules)
    apart = EvictionRequest(schedules, memory=3_000_000)
    assert len(apart.plan(deep(), prompts[:1]).layouts) > 1
    whole, parts = try_schedules(deep(), prompts, request), try_schedules(deep(), prompts[:1], apart)
    for prompt, found in zip([*prompts, prompts[0]], [*whole, *parts], strict=True):
        for schedule, logp in zip(schedules, found.logp, strict=True):
            where = f"{prompt.id} {[str(s) for s in schedule.steps]}"
            assert logp == pytest.approx(bypassed_logp(prompt, schedule), abs=1e-4), where
    assert np.abs(whole[0].logp - whole[0].logp_clean).max() > 1e-2


def test_several_prompts_in_one_walk_and_one_prompt_in_several(omni):
    prompts = [
        tiny.av_prompt("interleaved", seconds=2, seed=1, id="a"),
        tiny.av_prompt("question_first", seconds=3, seed=2, id="b", answer_ids=(9, 3)),
        tiny.av_prompt("separate", seconds=2, seed=3, id="c"),
    ]
    schedules = [*single(["video", "audio", "question_text"], 4), *JOINT]
    check(omni, prompts, schedules)
    whole = try_schedules(omni, prompts[:1], EvictionRequest(schedules))[0]
    request = EvictionRequest(schedules, memory=2_200_000)
    assert len(request.plan(omni, prompts[:1]).layouts) >= 3
    parts = try_schedules(omni, prompts[:1], request)[0]
    assert parts.logp == pytest.approx(whole.logp, abs=2e-5)


def test_a_walk_costs_what_the_layout_says(omni):
    """Rows that the layers see are those of the plan; dropping all media costs the text rows after them."""
    prompt = tiny.av_prompt("interleaved")
    after_media = len(prompt) - 1 - max(i for i, g in enumerate(prompt.groups) if g in ("video", "audio"))
    seen = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1])) for m in omni.layers]
    request = EvictionRequest([EvictionSchedule({"media": 1})])
    try:
        with checking(omni, "off"):
            try_schedules(omni, [prompt], request)
    finally:
        for handle in handles:
            handle.remove()
    n = len(prompt)
    assert seen == [n, n, n, n + after_media, n + after_media]
    cost = request.plan(omni, [prompt]).cost
    assert cost["rows"] == sum(seen[1:]) and cost["flops"] > cost["clean_flops"]


def test_no_step_is_the_clean_run(omni):
    prompt = tiny.av_prompt("interleaved", seconds=2)
    found = try_schedules(omni, [prompt], EvictionRequest([EvictionSchedule({})]))[0]
    assert found.logp[0] == found.logp_clean


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first"])
def test_video_salmonn(layout):
    model = avflow.wrap(tiny_salmonn.thinker())
    prompt = tiny_salmonn.av_prompt(layout, answer_ids=(7, 9))
    assert check(model, [prompt], [*single(["video", "audio", "question"], model.n_layers), *JOINT[:3]]) > 1e-2
