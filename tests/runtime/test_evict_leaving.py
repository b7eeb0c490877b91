"""avflow.evict lets the tokens leave that the one rule names (tests/fixtures/leaving.json)."""

import json
from pathlib import Path

import pytest
import tiny
import torch

import avflow
from avflow.eviction import policies
from avflow.runtime.conversation import NEVER, conversation_of

CASES = json.loads((Path(__file__).parents[1] / "fixtures/leaving.json").read_text())


@pytest.fixture(scope="module")
def model():
    return avflow.wrap(tiny.decoder("qwen2"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_evict_agrees(model, case):
    steps = [avflow.Step(s["group"], s["after"], policies.from_json(s["keep"])) for s in case["steps"]]
    ids = torch.arange(len(case["groups"]))[None]
    with avflow.evict(model, avflow.EvictionSchedule(steps), groups=[case["groups"]], items=[case["items"]]):
        cache = model.hf(input_ids=ids, use_cache=True).past_key_values
    gone = conversation_of(cache).gone[0]
    assert [None if layer == NEVER else int(layer) for layer in gone] == case["after"]
    for number, layer in enumerate(cache.layers):
        assert layer.keys.shape[2] == sum(after is None or after >= number for after in case["after"])
