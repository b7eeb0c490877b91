"""Who of a request leaves when, and which requests are refused. Needs no vLLM."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from avflow import EvictionSchedule, InputError, Step
from avflow.eviction import policies
from avflow.eviction.leaving import NEVER
from avflow_vllm.client import extra_args, runs
from avflow_vllm.door import admit, leaving
from avflow_vllm.items import Items
from avflow_vllm.names import LEAVES, OFF, RUNS
from avflow_vllm.plan import Plan, plan_of
from avflow_vllm.settings import Settings, read_settings

CASES = json.loads((Path(__file__).parents[1] / "fixtures/leaving.json").read_text())
IDS = {"video": 90, "audio": 91}
MEDIA = read_settings({"avflow": {"video": 2, "audio": 5}})
TEXT = read_settings({"avflow": {"question_text": 2}})
PROMPT = [1, 2, 90, 90, 91, 90, 3, 4]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_plans_agree_with_the_rule(case):
    """Counts and places of the tokens that are there, for any part of the prompt, as the shared cases have them."""
    steps = EvictionSchedule([Step(s["group"], s["after"], policies.from_json(s["keep"])) for s in case["steps"]]).steps
    settings = Settings(steps, tuple(sorted({s.after for s in steps})))
    labels = SimpleNamespace(groups=case["groups"], items=case["items"])
    found, _ = leaving(settings, {}, range(len(case["after"])), extra_args(labels))
    n, plan = len(case["after"]), Plan(settings.boundaries, found, len(case["after"]))
    ends = [*case["after"], None, None]  # and two generated tokens
    after = np.array([NEVER if end is None else end for end in ends])
    for segment, end in enumerate([-2, *settings.boundaries]):
        there = after > end
        for stop in range(n + 3):
            assert plan.count(segment, stop) == there[:stop].sum()
            for start in range(stop):
                assert plan.there(segment, start, stop).tolist() == (np.flatnonzero(there[start:stop]) + start).tolist()


def test_placeholders_tell_media():
    assert leaving(MEDIA, IDS, PROMPT, {}) == ([[2, 4, 2], [4, 5, 5], [5, 6, 2]], True)
    assert leaving(MEDIA, IDS, [1, 2, 3], {}) == ([], True)


def test_runs_go_first_and_may_say_what_ids_say():
    same = [[2, 4, "video"], [4, 5, "audio"], [5, 6, "video", 3]]
    assert leaving(MEDIA, IDS, PROMPT, {RUNS: same})[1]
    assert leaving(MEDIA, IDS, PROMPT, {RUNS: json.dumps(same)})[1]
    assert leaving(MEDIA, IDS, PROMPT, {RUNS: [[2, 3, "video"]]}) == ([[2, 3, 2]], False)
    assert leaving(TEXT, IDS, PROMPT, {RUNS: [[0, 2, "question_text"]]}) == ([[0, 2, 2]], False)


def feature(at, name, grid=None):
    data = None if grid is None else {"video_grid_thw": SimpleNamespace(data=np.array(grid))}
    place = SimpleNamespace(offset=at)
    return SimpleNamespace(modality="video", mm_position=place, identifier=name, data=data)


def test_frames_are_told_by_the_grids():
    """Two videos of steps of 2 and of 1 tokens, a picture; then the same without data, as vLLM sends what it cached."""
    items, ids = Items({"video": 90, "image": 92}, 2, 1), [1, 90, 90, 90, 90, 2, 92, 90, 90, 3]
    first = [feature(7, "b", [2, 2, 2]), feature(1, "a", [2, 2, 4])]
    thinned = Settings((Step("video", 2, policies.EveryNth(2)),), (2,))
    for features in (first, [feature(1, "a"), feature(7, "b")]):
        found = items.of(ids, features)
        assert found.tolist() == [-1, 0, 0, 1, 1, -1, 0, 2, 3, -1]
        assert leaving(thinned, {"video": 90}, ids, {}, found) == ([[3, 5, 2], [8, 9, 2]], True)
    assert items.of(ids, [feature(1, "a"), feature(7, "never seen")]) is None
    with pytest.raises(InputError, match="pass avflow_runs"):
        leaving(thinned, {"video": 90}, ids, {}, None)


def test_opting_out():
    assert leaving(MEDIA, IDS, PROMPT, {OFF: 1}) == ([], False)
    assert leaving(MEDIA, IDS, [1, 2], {OFF: True}) == ([], True)
    assert leaving(TEXT, IDS, PROMPT, {OFF: 1}) == ([], False)


@pytest.mark.parametrize(
    "settings, extra, message",
    [
        (TEXT, {}, "token ids alone do not tell: pass avflow_runs"),
        (MEDIA, {OFF: "yes"}, "avflow_off = 'yes'"),
        (MEDIA, {RUNS: 3}, "pass \\[\\[start"),
        (MEDIA, {RUNS: "[[0,"}, "no JSON"),
        (MEDIA, {RUNS: [[0, 2]]}, "pass \\[start"),
        (MEDIA, {RUNS: [[0, True, "video"]]}, "pass \\[start"),
        (MEDIA, {RUNS: [[0, 9, "video"]]}, "in order within the prompt's 8 tokens"),
        (MEDIA, {RUNS: [[3, 3, "video"]]}, "in order"),
        (MEDIA, {RUNS: [[2, 4, "video"], [3, 5, "audio"]]}, "in order"),
        (MEDIA, {RUNS: [[2, 4, "vidoe"]]}, "names the group 'vidoe'"),
        (MEDIA, {RUNS: [[2, 4, 7]]}, "names the group 7"),
        (MEDIA, {RUNS: [[6, 8, "video"]]}, "last token would leave after layer 2"),
    ],
)
def test_refused(settings, extra, message):
    with pytest.raises(InputError, match=message):
        leaving(settings, IDS, PROMPT, extra)


def request(extra=None, **more):
    params = SimpleNamespace(extra_args=extra, prompt_logprobs=more.pop("prompt_logprobs", None))
    return SimpleNamespace(
        **{"sampling_params": params, "prompt_token_ids": PROMPT, "resumable": False, "cache_salt": None} | more
    )


def test_a_request_carries_its_plan():
    made = request({"mine": 1, LEAVES: [[0, 8, 0]]})  # nobody but the door says who leaves
    admit(MEDIA, IDS, made)
    assert made.sampling_params.extra_args == {"mine": 1, LEAVES: [[2, 4, 2], [4, 5, 5], [5, 6, 2]]}
    assert made.cache_salt is None
    plan = plan_of(MEDIA.boundaries, made.sampling_params, 8)
    assert [plan.count(segment, 8) for segment in range(3)] == [8, 5, 4]


def test_equal_hashes_mean_equal_plans():
    """Requests whose ids do not tell their plan get a salt of it; a client's own salt never looks like one."""
    salts = []
    for extra, salt in [({OFF: 1}, None), ({RUNS: [[2, 3, "video"]]}, None), ({}, "a"), ({OFF: 1}, "a"), ({}, None)]:
        made = request(dict(extra), cache_salt=salt)
        admit(MEDIA, IDS, made)
        salts.append(made.cache_salt)
    assert len(set(salts)) == 5 and salts[-1] is None
    stolen = request(cache_salt=salts[0])
    admit(MEDIA, IDS, stolen)
    assert stolen.cache_salt not in salts


@pytest.mark.parametrize(
    "more, message",
    [
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"resumable": True}, "streamed input"),
        ({"prompt_token_ids": None}, "prompt embeddings"),
        ({"sampling_params": None}, "pooling"),
    ],
)
def test_requests_that_cannot_be_served(more, message):
    with pytest.raises(InputError, match=message):
        admit(MEDIA, IDS, request(**more))


def test_prompt_logprobs_where_nothing_leaves():
    admit(MEDIA, IDS, request({OFF: 1}, prompt_logprobs=1))


def test_runs_of_a_prompt():
    labels = SimpleNamespace(groups=["video", "video", "video", "last"], items=[0, 0, 1, -1])
    assert runs(labels) == [[0, 2, "video", 0], [2, 3, "video", 1], [3, 4, "last", -1]]
