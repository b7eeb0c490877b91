"""Edges that weigh more or less by a factor: every row equals a dense forward with log(factor) added to the scores."""

from __future__ import annotations

import math

import oracle
import pytest
import tiny
import torch

import avflow
from avflow.knockouts.presets import as_knockouts


def check(monkeypatch, model, prompt, one, rows, window, semantics="renormalize") -> float:
    """Asserts that every row equals the dense forward; the largest effect on logp."""

    def attend(q, k, v, seen, cut, scale, semantics):
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        score = (q @ k.transpose(2, 3)).float() * scale
        if semantics == "renormalize":
            score = score + cut * math.log(one.factor)
        weight = torch.softmax(score.masked_fill(~seen, -math.inf), -1)
        if semantics == "zero":
            weight = torch.where(cut, one.factor * weight, weight)
        return (weight.to(v.dtype) @ v).transpose(1, 2), weight

    largest, (clean, _) = 0.0, oracle.answer_logp(model.hf, prompt)
    with monkeypatch.context() as patched:
        patched.setattr(oracle, "dense_attention", attend)
        for row in rows:
            layers = oracle.window_layers(row["layer"], window, "center", model.n_layers)
            logp, top = oracle.answer_logp(model.hf, prompt, one, layers, semantics)
            assert abs(row["logp_knockout"] - logp) <= 1e-4, (row["knockout"], row["layer"])
            assert row["top_knockout"] == str(top) and abs(row["logp_clean"] - clean) <= 1e-4
            largest = max(largest, abs(logp - clean))
    return largest


CASES = [
    avflow.Amplification("video", "question", 4),
    avflow.Amplification("media", "last", 0.25),
    avflow.Amplification("question", "last", 20, heads=(0, 3)),
    avflow.Amplification("video", "audio", 2, both=True),
    avflow.Amplification("video", "video", 3, scope="other_items"),
    avflow.Amplification("media", "question", 5, random_share=0.5, seed=3),
    avflow.Amplification("all", "last", 3, cut_self=True),  # every edge of the row: nothing changes
]


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_against_the_dense_forward(monkeypatch, omni, one, semantics):
    prompt = tiny.av_prompt(seconds=2, seed=4, answer_ids=(7, 9))
    rows = avflow.sweep(omni, prompt, one, window=2, select="all", semantics=semantics).table.to_pylist()
    assert {r["knockout"] for r in rows} == {one.name} and len(rows) == 4
    effect = check(monkeypatch, omni, prompt, one, rows, 2, semantics)
    assert effect > 1e-3 if (one.source, semantics) != ("all", "renormalize") else effect < 1e-5


def test_seven_query_heads(monkeypatch):
    model = avflow.wrap(tiny.thinker(layers=3, heads=7, kv_heads=1))
    prompt, one = tiny.av_prompt(seconds=2), avflow.Amplification("video", "question", 8, heads=(1, 6))
    rows = avflow.sweep(model, prompt, one, window=1, select="all").table.to_pylist()
    assert check(monkeypatch, model, prompt, one, rows, 1) > 1e-3


def test_beside_knockouts_in_one_walk(monkeypatch, omni):
    """Each stream has its own factor, and a knockout's rows are those of a sweep without amplification."""
    prompt = tiny.av_prompt(seconds=2, seed=4)
    two, half = avflow.Amplification("video", "question", 2), avflow.Amplification("video", "question", 0.5)
    cut = avflow.Knockout("video", "question")
    rows = avflow.sweep(omni, prompt, [two, cut, half], window=2, select="all").table.to_pylist()
    for one in (two, half):
        check(monkeypatch, omni, prompt, one, [r for r in rows if r["knockout"] == one.name], 2)
    alone = avflow.sweep(omni, prompt, cut, window=2, select="all").table.to_pylist()
    for a, b in zip(alone, [r for r in rows if r["knockout"] == cut.name], strict=True):
        assert b["logp_knockout"] == pytest.approx(a["logp_knockout"], rel=1e-6)  # other sizes round otherwise


def test_its_text_form():
    (one,) = as_knockouts("video->last (self) (x 2.5)")
    assert one == avflow.Amplification("video", "last", 2.5, cut_self=True) and one.name == "video->last (self) (x 2.5)"
    assert one != avflow.Amplification("video", "last", 3, cut_self=True) and one != avflow.Knockout(
        "video", "last", cut_self=True, name=one.name
    )
    assert len(as_knockouts([one, "video->last (self)"])) == 2
    for wrong, message in (("video->last (x e)", "factor"), ("video->last (x 0)", "factor"), ("a b (x 2)", "write")):
        with pytest.raises(avflow.InputError, match=message):
            as_knockouts(wrong)


def test_what_only_cuts_refuses_it(qwen3):
    prompt, loud = tiny.text_prompt(64), avflow.Amplification("video", "last", 2)
    with pytest.raises(avflow.InputError, match="does not amplify"), avflow.knockout(qwen3, loud):
        pass
    with pytest.raises(avflow.InputError, match="does not amplify"):
        avflow.sweep_text(qwen3, prompt, loud)
    with pytest.raises(avflow.InputError, match="does not amplify"):
        avflow.pathways(qwen3, prompt, {loud: None})
