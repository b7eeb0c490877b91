"""plan_eviction(runtime="vllm"): only boundaries that save what they should there, in a file that the plug-in takes."""

from __future__ import annotations

import functools
import itertools
import logging

import pytest
import tiny
import torch

import avflow
from avflow.errors import InputError
from avflow.eviction.vllm_groups import memory, saves
from avflow.planning.plan_eviction import PlanRequest
from avflow.planning.served import settle, settled
from avflow_vllm import refusals
from avflow_vllm.settings import read_settings

GROUPS = ["video", "audio"]


def fits(schedule, layers):
    return saves(layers, sorted(set(schedule.values())))


@pytest.mark.parametrize(
    "layers, chosen, found",
    [
        (36, {"video": 24}, {"video": 26}),
        (36, {"video": 23}, {"video": 23}),
        (36, {"video": 26, "question_text": 29}, {"video": 26, "question_text": 29}),  # the study's
        (28, {"video": 18, "audio": 18}, {"video": 20, "audio": 20}),  # not 19, 1, 8: 28 groups
        (36, {}, {}),
    ],
)
def test_the_nearest_later_boundaries(layers, chosen, found):
    assert settle(chosen, range(layers - 1), layers) == found


def test_no_later_boundaries_that_save_are_nearer():
    layers = 20
    for chosen in itertools.combinations(range(0, 19, 2), 2):
        found = settle(dict(zip(GROUPS, chosen, strict=True)), range(layers - 1), layers)
        assert fits(found, layers) and all(found[group] >= after for group, after in zip(GROUPS, chosen, strict=True))
        moved = sum(found.get(group, layers - 1) - after for group, after in zip(GROUPS, chosen, strict=True))
        for more in itertools.product(range(moved), repeat=2):
            ends = [after + by for after, by in zip(chosen, more, strict=True)]
            if sum(more) < moved and max(ends) < layers - 1:
                assert not fits(dict(zip(GROUPS, ends, strict=True)), layers)


def test_candidates_alone_are_taken_and_past_the_last_a_group_stays():
    assert settle({"video": 24}, [20, 24, 25], 36) == {}
    assert settle({"video": 24, "audio": 24}, [23, 24, 28, 29], 36) == {"video": 29, "audio": 29}
    assert settled([{"video": 24}, {"video": 25}, {"video": 26}, {"video": 27}], range(35), 36)[0] == {"video": 26}
    assert settled([{"video": 24}, {"video": 25}, {"video": 26}], range(35), 36) == [{"video": 26}]


@functools.cache
def model():
    return avflow.wrap(tiny.thinker(layers=7))


@functools.cache
def prompts():
    out = []
    for seed in range(4):
        make = functools.partial(tiny.av_prompt, "separate", seconds=2, seed=seed, id=str(seed))
        with torch.no_grad():
            top = int(model().hf(**make().model_inputs).logits[0, -1].argmax())
        out.append(make(answer_ids=(top,)))
    return out


def test_a_plan_moves_to_what_saves_and_the_plug_in_has_no_word_about_it(tmp_path, caplog, monkeypatch):
    """Of 7 layers, those after the third and the fifth are such that vLLM pads a group."""
    how = dict(groups=GROUPS, max_accuracy_drop=0.9, layers=[2, 3, 4, 5], holdout=0, margin=None)
    plain = avflow.plan_eviction(model(), prompts(), **how)
    assert {step.after for step in plain.steps} == {2} and not saves(7, [2])
    schedule = avflow.plan_eviction(model(), prompts(), **how, runtime="vllm")
    ends = sorted({step.after for step in schedule.steps})
    assert ends and saves(7, ends) and schedule.plan.alone == plain.plan.alone
    assert all(fits(tried["schedule"], 7) for tried in schedule.plan.tried)
    assert schedule.figures["runtime"] == "vllm" and "runtime" not in plain.figures
    monkeypatch.setattr(refusals, "_said", set())
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    caplog.set_level(logging.INFO, "vllm.avflow")
    for made, words in ((plain, ["INFO", "INFO", "WARNING"]), (schedule, ["INFO"] * len(schedule.steps))):
        caplog.clear()
        refusals._said.clear()
        made.save(tmp_path / "schedule.json")
        settings = read_settings({"avflow": {"schedule": str(tmp_path / "schedule.json")}})
        refusals.describe(settings, 7, omni=False)
        assert [record.levelname for record in caplog.records] == words
    assert memory(7, ends)[0] - memory(7, ends)[1] <= 0.05


def test_what_vllm_cannot_do_is_not_planned():
    for more, told in (
        (dict(until=4), "until = 4 with runtime = 'vllm'"),
        (dict(runtime="tgi"), "runtime = 'tgi'"),
    ):
        with pytest.raises(InputError, match=told):
            avflow.plan_eviction(model(), prompts(), GROUPS, **(dict(runtime="vllm") | more))
    for runtime in ("avflow", "vllm"):
        assert PlanRequest(layers=[-1, 0, 1], runtime=runtime).layer_list(model()) == [-1, 0, 1]
