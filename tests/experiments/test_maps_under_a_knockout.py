"""Attention maps while a path is cut: the pooled weights of a run under dense masks."""

import numpy as np
import oracle
import pytest
import torch
from tiny import av_prompt, text_prompt, thinker

import avflow


@torch.no_grad()
def weights(model, prompt, knockout, layers, monkeypatch):
    """[layers, n, n], mean over heads, of the plain model with the knockout's edges masked in these layers."""
    attend, found = oracle.dense_attention, []

    def seen_too(q, k, v, seen, cut, scale, semantics):
        out, weight = attend(q, k, v, seen, cut, scale, semantics)
        found.append(weight[0].mean(0))  # [n, n]
        return out, weight

    monkeypatch.setattr(oracle, "dense_attention", seen_too)
    oracle.answer_logp(model.hf, prompt, knockout, layers)
    return torch.stack(found[-model.n_layers :])


@pytest.mark.parametrize("bins", [5, 40, 10**6])
@pytest.mark.parametrize(
    "text", ["video->question", "audio<->video", "cross:video", "question->last", "last->last (self)"]
)
def test_a_map_is_that_of_the_knocked_out_run(text, bins, monkeypatch):
    model, prompt = avflow.wrap(thinker(layers=3)), av_prompt("interleaved", seconds=2)
    knockout = avflow.Knockout.parse(text)
    want = weights(model, prompt, knockout, [0, 1], monkeypatch)
    found = avflow.attention_map(model, prompt, bins=bins, knockouts=text, cut_layers=[0, 1])
    pool = torch.zeros(len(found.groups), len(prompt))
    for i, (a, b) in enumerate(zip(found.starts, found.starts[1:], strict=False)):
        pool[i, a:b] = 1
    pooled = pool @ want @ pool.T / pool.sum(1)[:, None]
    assert np.abs(found.weight - pooled.numpy()).max() <= 1e-5
    clean = avflow.attention_map(model, prompt, bins=bins)
    assert np.abs(found.weight - clean.weight)[:2].max() > 1e-4  # the cut shows, if only in the last row


def test_random_edges_heads_and_all_layers(monkeypatch):
    model, prompt = avflow.wrap(thinker(layers=3)), av_prompt("interleaved", seconds=2)
    knockout = avflow.Knockout("video", "question", heads=(1,), random_share=0.5, seed=3)
    want = weights(model, prompt, knockout, range(3), monkeypatch)
    found = avflow.attention_map(model, prompt, bins=10**6, knockouts=knockout)
    assert np.abs(found.weight - want.numpy()).max() <= 1e-5


def test_a_row_without_an_edge_adds_up_to_nothing():
    model, prompt = avflow.wrap(thinker(layers=3)), av_prompt("interleaved", seconds=2)
    found = avflow.attention_map(
        model, prompt, layers=1, bins=10**6, knockouts=avflow.Knockout("all", "last", cut_self=True)
    )
    assert found.weight[0, -1].sum() == 0 and found.weight[0, -2].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(knockouts=3), "knockouts"),
        (dict(knockouts="video[1]->last"), "names items"),
        (dict(knockouts="video"), "write"),
        (dict(cut_layers=[1]), "cut_layers without knockouts"),
        (dict(knockouts="video->last", cut_layers=[9]), "out of range"),
        (dict(knockouts="vido->last"), "vido"),
        (dict(knockouts=avflow.Knockout("video", "last", heads=(33,))), "head 33 is out of range"),
    ],
)
def test_what_makes_no_sense(options, says):
    model = avflow.wrap(thinker(layers=3))
    with pytest.raises(avflow.InputError, match=says):
        avflow.attention_map(model, text_prompt(64), **options)
