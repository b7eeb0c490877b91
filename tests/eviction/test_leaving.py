"""Who leaves after which layer: the one rule, on cases that every runtime must agree with."""

import json
from pathlib import Path

import numpy as np
import pytest

from avflow import InputError, Step, TopK
from avflow.eviction import policies
from avflow.eviction.leaving import NEVER, leaves_after
from avflow.prompts.groups import GroupTable

CASES = json.loads((Path(__file__).parents[1] / "fixtures/leaving.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_leaves_after(case):
    steps = [Step(s["group"], s["after"], policies.from_json(s["keep"])) for s in case["steps"]]
    table = GroupTable()
    for order in (steps, steps[::-1]):  # a schedule is sorted by layer, whatever order it came in
        if len({s.after for s in steps}) < len(steps) and order is not steps:
            continue
        got = leaves_after(order, table, table.ids(case["groups"]), np.array(case["items"]))
        assert [None if layer == NEVER else layer for layer in got.tolist()] == case["after"]


def test_refuses_what_it_would_get_wrong():
    table = GroupTable()
    for step, message in (
        (Step("video", 1, TopK(count=1)), "what the model computes"),
        (Step("video", 1, policies.Changed(0.5)), "what the model computes"),
        (Step("video", 1, until=2), "not here yet"),
        (Step("video", 1, policies.EveryNth(2), per="item"), "not here yet"),
    ):
        with pytest.raises(InputError, match=message):
            leaves_after([step], table, table.ids(["video", "last"]), np.array([0, -1]))


def test_an_item_that_is_missing():
    table = GroupTable()
    with pytest.raises(InputError, match="has no item"):
        step = Step("video", 1, policies.EveryNth(2))
        leaves_after([step], table, table.ids(["video", "last"]), np.array([-1, -1]))
