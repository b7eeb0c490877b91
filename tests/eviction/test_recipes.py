"""Recipes as schedules: layers, shares, what is refused, files. Models: tests/runtime/test_recipes_as_published.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import avflow
from avflow.eviction.policies import TopK, View
from avflow.eviction.recipes import fastv, pyramiddrop, vtw
from avflow.eviction.schedule import EvictionSchedule, Step

ALL = [fastv(), fastv(3, 0.75, "media"), pyramiddrop(), pyramiddrop([7, 14], [0.4, 0.1], "video+audio"), vtw()]


def kept(step: Step, paid: torch.Tensor, total: int) -> list[int]:
    view = View(np.zeros(len(paid), np.int32), np.arange(len(paid)), lambda by: paid.numpy(), total)
    return np.flatnonzero(step.keep.select(view)).tolist()


def test_layers():
    assert [s.after for s in fastv(2).steps] == [1]  # two layers have run: 0 and 1
    assert [s.after for s in pyramiddrop().steps] == [7, 15, 23]
    assert [s.after for s in vtw(15).steps] == [14] and not vtw().steps[0].keep.uses_scores


@pytest.mark.parametrize("n", [1, 2, 5, 7, 30, 576])
def test_on_random_attention(n):
    """heads x tokens of attention: the published counts, of the published ranking."""
    attention = torch.softmax(3 * torch.randn(8, n, generator=torch.Generator().manual_seed(n)), -1)
    paid = attention.mean(0)
    for r in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
        best = paid.topk(round(n * (1 - r))).indices
        assert kept(fastv(2, r).steps[0], paid, n) == best.sort().values.tolist()
    for shares in ((0.5, 0.25, 0.125), (0.7, 0.49, 0.29)):
        there = torch.arange(n)
        for step, share in zip(pyramiddrop(shares=shares).steps, shares, strict=True):
            best = paid[there].topk(int(n * share)).indices
            assert kept(step, paid[there], n) == best.sort().values.tolist()
            there = there[best.sort().values]


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: str(len(s.steps)))
def test_a_file(tmp_path, schedule):
    schedule.save(tmp_path / "s.json")
    assert EvictionSchedule.load(tmp_path / "s.json") == schedule
    assert json.loads((tmp_path / "s.json").read_text())["version"] == 1


def test_files_of_0_1(tmp_path):
    """They hold no newer fields, and load; nor does a new file whose policies need none, so that 0.1 loads it."""
    schedule = EvictionSchedule([Step("video", 2, TopK(share=0.5, by="question"))])
    schedule.save(tmp_path / "s.json")
    value = json.loads((tmp_path / "s.json").read_text())
    assert set(value["steps"][0]["keep"]) <= {"policy", "share", "count", "by"}
    value["steps"][0]["keep"] = {"policy": "TopK", "share": 0.5, "count": None, "by": "question"}
    (tmp_path / "s.json").write_text(json.dumps(value))
    assert EvictionSchedule.load(tmp_path / "s.json") == schedule


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fastv(0), "fastv: k = 0: give an integer"),
        (lambda: fastv(ratio=1), "ratio = 1: then none stay"),
        (lambda: fastv(ratio=-0.1), "fastv: ratio = -0.1"),
        (lambda: fastv(group=""), "Step.group"),
        (lambda: pyramiddrop([8, 16]), "a share for every layer"),
        (lambda: pyramiddrop([16, 8, 24]), "must rise"),
        (lambda: pyramiddrop([8, 8, 24]), "must rise"),
        (lambda: pyramiddrop(8, 0.5), "a share for every layer"),
        (lambda: pyramiddrop([], []), "a share for every layer"),
        (lambda: pyramiddrop([8], [0.0]), "TopK.share = 0"),
        (lambda: vtw(0), "vtw: k = 0"),
        (lambda: vtw("15"), "vtw: k = '15'"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(avflow.InputError, match=message):
        make()


def test_a_rule_of_ones_own_names_a_layer_that_there_is():
    class Mine:
        scored_in = "previous"

        def select(self, view): ...

    with pytest.raises(avflow.InputError, match="Mine.scored_in = 'previous': pass one of this, next"):
        Step("video", 1, Mine())
