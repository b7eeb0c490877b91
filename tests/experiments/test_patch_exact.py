"""Every row of avflow.patch equals hooks on the plain transformers model, one forward a cell."""

from __future__ import annotations

import dataclasses

import oracle
import patch_oracle
import pytest
import tiny
import tiny_salmonn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import avflow

PARTS = ("residual", "attention", "mlp")


def check(model, prompt, other, rows, part="residual", window=1, style="center", heads=None, items=None, flip=False):
    """Asserts that every row is what hooks give; the largest effect on logp."""
    answer = dict(answer_ids=prompt.answer_ids, option_ids=prompt.option_ids)
    other = dataclasses.replace(other, **answer)
    base, source = (other, prompt) if flip else (prompt, other)
    given = patch_oracle.states(model.hf, source, part)
    clean, top = oracle.answer_logp(model.hf, base)
    far, top_far = oracle.answer_logp(model.hf, source)
    largest = 0.0
    for row in rows:
        group = row["site"].split(" (")[0]
        at = patch_oracle.tokens(base, group, items)
        there = patch_oracle.tokens(source, group, items)
        layers = oracle.window_layers(row["layer"], window, style, model.n_layers)
        logp, top_patched = patch_oracle.patched(
            model.hf, base, part, layers, at, lambda layer, seen, there=there: given[layer][there], heads
        )
        where = (row["site"], row["layer"])
        assert row["status"] == "ok" and row["part"] == part, where
        assert abs(row["logp_base"] - clean) <= 1e-4 and row["top_base"] == str(top), where
        assert abs(row["logp_source"] - far) <= 1e-4 and row["top_source"] == str(top_far), where
        assert abs(row["logp_patched"] - logp) <= 1e-4, (*where, row["logp_patched"], logp)
        assert row["top_patched"] == str(top_patched), where
        largest = max(largest, abs(logp - clean))
    return largest


def rows_of(model, prompt, other, *args, **more):
    found = avflow.patch(model, prompt, avflow.PatchSource.of(other), *args, select="all", **more)
    return found.table.to_pylist()


SITES = ["video", "audio", "question", "last", "template"]


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize("part", PARTS)
def test_other_media(omni, part, direction):
    prompt, other = tiny.av_prompt(seconds=2, seed=1), tiny.av_prompt(seconds=2, seed=2)
    rows = rows_of(omni, prompt, other, SITES, part, direction=direction)
    assert len(rows) == 4 * len(SITES)
    assert check(omni, prompt, other, rows, part, flip=direction == "denoise") > 1e-2


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("style, window", [("center", 3), ("inverse", 1), ("top_down", 1), ("bottom_up", 1)])
def test_windows(omni, part, style, window):
    prompt, other = tiny.av_prompt(seconds=2, seed=1), tiny.av_prompt(seconds=2, seed=2)
    rows = rows_of(omni, prompt, other, ["video", "question"], part, window, style, layers=[0, 2])
    assert check(omni, prompt, other, rows, part, window, style) > 1e-2


@pytest.mark.parametrize("answer", [(7, 9), (100, 3, 250, 8)])
@pytest.mark.parametrize("part", PARTS)
def test_answers_of_several_tokens(omni, part, answer):
    prompt, other = tiny.av_prompt(seconds=2, seed=1, answer_ids=answer), tiny.av_prompt(seconds=2, seed=2)
    rows = rows_of(omni, prompt, other, ["audio", "last", "answer", "last+answer"], part)
    assert check(omni, prompt, other, rows, part) > 1e-2


def test_prompts_of_unlike_length(omni):
    prompt, other = tiny.av_prompt(seconds=2, seed=1), tiny.av_prompt(seconds=4, seed=2)
    rows = rows_of(omni, prompt, other, ["question", "last"])
    assert check(omni, prompt, other, rows) > 1e-2
    with pytest.raises(avflow.InputError, match=r"12 tokens where it is patched and 24"):
        rows_of(omni, prompt, other, "video")


def test_seven_query_heads_of_which_some_are_patched():
    model = avflow.wrap(tiny.thinker(layers=3, heads=7, kv_heads=1))
    prompt, other = tiny.av_prompt(seconds=2, seed=1), tiny.av_prompt(seconds=2, seed=2)
    sites = [avflow.PatchSite(group, "attention", heads=(0, 3, 6)) for group in ("video", "last")]
    rows = rows_of(model, prompt, other, sites, window=2)
    assert check(model, prompt, other, rows, "attention", window=2, heads=(0, 3, 6)) > 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_items(omni, part):
    prompt, other = tiny.av_prompt(seconds=4, seed=1), tiny.av_prompt(seconds=4, seed=2)
    rows = rows_of(omni, prompt, other, [avflow.PatchSite("video", part, items=(1, 2))])
    assert check(omni, prompt, other, rows, part, items=(1, 2)) > 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_video_salmonn(part):
    model = avflow.wrap(tiny_salmonn.thinker())
    prompt, other = tiny_salmonn.av_prompt(seed=1), tiny_salmonn.av_prompt(seed=2)
    rows = rows_of(model, prompt, other, ["video", "audio", "question", "last"], part, window=2)
    assert check(model, prompt, other, rows, part, window=2) > 1e-2


def test_a_small_budget_gives_the_same(omni):
    prompt, other = tiny.av_prompt(seconds=2, seed=1), tiny.av_prompt(seconds=2, seed=2)
    whole = rows_of(omni, prompt, other, SITES)
    found = avflow.patch(omni, prompt, avflow.PatchSource.of(other), SITES, select="all", memory=2_500_000)
    assert found.meta["prompts"][0]["walks"] > 2
    for a, b in zip(whole, found.table.to_pylist(), strict=True):
        assert abs(a["logp_patched"] - b["logp_patched"]) < 1e-5
    with pytest.raises(avflow.InputError, match="too little"):
        avflow.patch(omni, prompt, avflow.PatchSource.of(other), SITES, select="all", memory="300KB")


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_sites_windows_and_layers(omni, data):
    """Groups, parts, heads, windows and layers at random, in one call; the other run differs from any token on."""
    groups = ("video", "audio", "question", "option_incorrect", "last", "template", "video+last", "all")
    seed = data.draw(st.integers(0, 3))
    prompt, other = tiny.av_prompt(seconds=2, seed=seed), tiny.av_prompt(seconds=2, seed=seed + 4)
    if data.draw(st.booleans()):  # the same media, and the same ids up to some token
        first = data.draw(st.integers(1, len(prompt) - 1))
        ids = torch.where(torch.arange(len(prompt)) < first, prompt.input_ids, other.input_ids)
        media = prompt.input_ids >= 500
        ids = torch.where(media, prompt.input_ids, ids)
        other = dataclasses.replace(prompt, input_ids=ids, model_inputs={**prompt.model_inputs, "input_ids": ids[None]})
    part = data.draw(st.sampled_from(PARTS))
    names = data.draw(st.lists(st.sampled_from(groups), min_size=1, max_size=3, unique=True))
    heads = data.draw(st.none() | st.sets(st.integers(0, 3), min_size=1)) if part == "attention" else None
    layers = data.draw(st.sets(st.integers(0, 3), min_size=1, max_size=2))
    window, flip = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    style = data.draw(st.sampled_from(["center", "top_down", "bottom_up"]))
    sites = [avflow.PatchSite(name, part, heads=heads) for name in names]
    direction = "denoise" if flip else "noise"
    rows = rows_of(omni, prompt, other, sites, part, window, style, sorted(layers), direction=direction)
    assert len(rows) == len(names) * len(layers)
    check(omni, prompt, other, rows, part, window, style, heads, flip=flip)
