"""What blocks put in force: semantics that would clash, schedules that would nest, and what is put back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import avflow
from avflow import EvictionSchedule
from avflow.runtime import decoding, prefill
from avflow.runtime.state import Interventions, Rule


def rule(model, path: str, layers: set[int], semantics: str = "renormalize") -> Rule:
    one = avflow.Knockout.parse(path)
    return Rule((one,), frozenset(layers), semantics, tuple(one.cuts(model.groups)))


def test_cuts_of_a_layer_are_those_of_all_rules_there(omni):
    state = Interventions(omni)
    first, second = rule(omni, "video->last", {0, 1}, "zero"), rule(omni, "audio->last", {1, 2}, "zero")
    with state.cutting(first), state.cutting(second):
        assert state.cuts(0) == (first.cuts, "zero")
        assert state.cuts(1) == (first.cuts + second.cuts, "zero")
        assert state.cuts(3) == ((), "renormalize")
        assert state.knockouts == first.knockouts + second.knockouts
    assert state.rules == [] and state.cuts(1) == ((), "renormalize")


def test_every_change_of_the_cuts_is_a_version_of_its_own(omni):
    """Also across models: a cache that was prepared within one block must not fit another."""
    state, other = Interventions(omni), Interventions(omni)
    versions = [state.version, other.version]
    for _ in range(2):
        with state.cutting(rule(omni, "video->last", {0})):
            versions.append(state.version)
        versions.append(state.version)
    assert len(set(versions)) == len(versions)


def test_two_semantics_in_one_layer(omni):
    state = Interventions(omni)
    with state.cutting(rule(omni, "video->last", {0, 1})):
        before = state.version
        with pytest.raises(avflow.InputError, match="layer 1 has knockouts with semantics 'renormalize' already"):
            with state.cutting(rule(omni, "audio->last", {1, 2}, "zero")):
                pass
        assert len(state.rules) == 1 and state.version == before
        with state.cutting(rule(omni, "audio->last", {2, 3}, "zero")):
            assert state.cuts(2)[1] == "zero"


def test_a_schedule_is_in_force_for_its_block(omni):
    state, schedule = Interventions(omni), EvictionSchedule({"video": 1})
    assert state.block == "avflow.knockout" and state.steps == ()
    with pytest.raises(RuntimeError, match="stop"):
        with state.evicting(schedule, "drop"):
            assert (state.block, state.steps, state.decode) == ("avflow.evict", schedule.steps, "drop")
            assert list(state.norms) == [2] and state.norms[2].norm is omni.layers[2].input_layernorm
            with pytest.raises(avflow.InputError, match="put all steps into one schedule"):
                with state.evicting(schedule, "keep"):
                    pass
            assert state.decode == "drop"
            raise RuntimeError("stop")
    assert (state.schedule, state.decode, state.norms) == (None, "keep", {})


@pytest.mark.parametrize("module", [prefill, decoding])
def test_forwards_do_not_know_the_tracker(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "state" in imported and "tracker" not in imported
