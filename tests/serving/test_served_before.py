"""Tokens that leave before layer 0, which no layer sees: the first segment has no layers."""

import random

import pytest
from served import LAYERS, NEW, ask
from test_served_random import checkpoint, make_requests  # noqa: F401 (a fixture)

import avflow
from avflow import Step
from avflow.eviction.vllm_groups import count
from avflow_vllm import counters
from avflow_vllm.names import OFF, RUNS

SCHEDULES = {"all": [Step("media", -1)], "video": [Step("video", -1), Step("audio", 5)]}


@pytest.fixture(scope="module")
def clips():
    return ask(6, SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_clips_with_sound(name, clips, engine, tmp_path):
    path, steps = tmp_path / "schedule.json", SCHEDULES[name]
    avflow.EvictionSchedule(steps).save(path)
    served = engine(avflow={"schedule": str(path)})
    assert 0 not in served.segments()
    assert len(served.segments()) == count(LAYERS, sorted({step.after for step in steps}))
    counters.HERE.computed = counters.HERE.total = 0
    assert served.generate([one.request() for one in clips]) == [one.answers[name] for one in clips]
    gone = {"video": LAYERS, "audio": LAYERS if name == "all" else LAYERS - 6}
    saved = sum(gone.get(group, 0) for one in clips for group in one.prompt.groups)
    assert counters.HERE.total == LAYERS * sum(len(one.prompt) + NEW - 1 for one in clips)
    assert counters.HERE.computed == counters.HERE.total - saved
    off = served.generate([one.request() for one in clips], [{OFF: 1}] * len(clips))
    assert off == [one.answers[""] for one in clips]
    assert served.free == served.free_at_start


@pytest.fixture(scope="module", params=[{"video": -1, "audio": -1}, {"video": -1, "audio": 3}], ids=["all", "video"])
def random_requests(request, checkpoint):  # noqa: F811
    return request.param, make_requests(checkpoint, 20, NEW, request.param)


@pytest.mark.parametrize("caching", [False, True])
def test_random_requests(caching, random_requests, checkpoint, engine):  # noqa: F811
    """Batches of chunks, few blocks, a prefix cache; of some chunks and prefixes nothing is there in any layer."""
    steps, requests = random_requests
    served = engine(
        model=str(checkpoint),
        avflow=steps,
        limit_mm_per_prompt=None,
        enable_prefix_caching=caching,
        max_model_len=192,
        max_num_seqs=10,
        max_num_batched_tokens=48,
        num_gpu_blocks_override=1 + 6 * count(6, sorted(set(steps.values()))),  # a longest request's
    )
    rng = random.Random(4)
    for _ in range(1 + caching):
        chosen = [requests[rng.randrange(len(requests))] for _ in range(30)]
        got = served.generate(
            [{"prompt_token_ids": one.ids} for one in chosen], [{RUNS: one.runs} for one in chosen], NEW
        )
        assert got == [one.answer for one in chosen]
    assert served.seen["running"] > 2 and served.seen["preempted"] > 0
    assert (served.seen["hits"] > 0) == caching
    assert served.free == served.free_at_start
