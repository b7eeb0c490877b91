"""Effective pathways against dense masks built edge by edge from the rule, and counted edge by edge."""

import math

import numpy as np
import pytest
import torch
from oracle import answer_logp, dense
from pathway_oracle import masks as _masks
from tiny import av_prompt, decoder, text_prompt, thinker

import avflow
from avflow.experiments.pathways import count_edges
from avflow_ext import Cut
from avflow_ext.reference import edge_hash

KEEP = {
    "cross:video": [0, 1],
    "video+audio->question": [1, 2],
    "question_text->options": None,
    "question->last": [2, 3],
}


@torch.no_grad()
def _dense(model, prompt, masks):
    extra = torch.tensor(prompt.answer_ids[:-1], dtype=torch.long)
    inputs = dict(prompt.model_inputs or {}) | {"input_ids": torch.cat([prompt.input_ids, extra])[None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with dense(model.hf, masks):
        logits = model.hf(**inputs, use_cache=False).logits[0, len(prompt) - 1 :].float()
    ids = torch.tensor(prompt.answer_ids)
    return float(torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids].sum())


@pytest.mark.parametrize("name", ["interleaved", "question_first", "text"])
def test_only_the_named_edges_are_left(name):
    if name == "text":
        model, prompt = avflow.wrap(decoder("llama")), text_prompt(64, answer_ids=(7, 30))
    else:
        model, prompt = avflow.wrap(thinker()), av_prompt(name, seconds=2)
    masks, share = _masks(prompt, KEEP, model.n_layers, model.n_heads)
    rows = {r["run"]: r for r in avflow.pathways(model, prompt, KEEP, random=0).table.to_pylist()}
    assert list(rows) == ["full", "pathways"] and rows["full"]["edges_kept"] == 1
    assert rows["full"]["logp"] == pytest.approx(answer_logp(model.hf, prompt)[0], abs=1e-4)
    want = _dense(model, prompt, masks)
    assert rows["pathways"]["logp"] == pytest.approx(want, abs=1e-4)
    assert rows["pathways"]["p"] == pytest.approx(math.exp(want), rel=1e-3)
    assert abs(want - rows["full"]["logp"]) > 1e-3  # the cuts matter
    assert rows["pathways"]["edges_kept"] == pytest.approx(share, abs=1e-12)


def test_the_control_cuts_as_many_random_edges():
    model, prompt = avflow.wrap(decoder("qwen3")), text_prompt(64)
    rows = {r["run"]: r for r in avflow.pathways(model, prompt, KEEP, random=2, seed=3).table.to_pylist()}
    n, heads = len(prompt), model.n_heads
    masks, _ = _masks(prompt, KEEP, model.n_layers, heads)
    at = torch.arange(n)
    for i in range(2):
        drawn = {}
        for layer, mask in masks.items():
            count = int(mask[0, 0].sum())
            threshold = round(count / (n * (n - 1) / 2) * 2**32)
            cut = (edge_hash((3 + i) * 4096 + layer, at, at) < threshold) & (at[None] < at[:, None])
            assert abs(int(cut.sum()) - count) < 5 * math.sqrt(count + 1)
            drawn[layer] = cut.expand(1, heads, n, n)
        assert rows[f"random {i}"]["logp"] == pytest.approx(_dense(model, prompt, drawn), abs=1e-4)
    assert rows["random 0"]["logp"] != rows["random 1"]["logp"] != rows["pathways"]["logp"]


def test_all_paths_in_all_layers_are_the_full_model():
    model, prompt = avflow.wrap(decoder("qwen2")), text_prompt(64)
    rows = avflow.pathways(model, prompt, {"all->all": None}, random=1).table.to_pylist()
    assert [r["edges_kept"] for r in rows] == [1, 1, 1]
    assert max(r["logp"] for r in rows) - min(r["logp"] for r in rows) <= 1e-5


def test_correct_is_judged_among_the_options():
    model, prompt = avflow.wrap(decoder("qwen2")), text_prompt(64)
    prompt.option_ids = [7]
    assert avflow.pathways(model, prompt, {"all->last": None}, random=0).table["correct"].to_pylist() == [True, True]
    prompt.option_ids = None
    top = answer_logp(model.hf, prompt)[1]
    assert avflow.pathways(model, prompt, {"all->last": None}, random=0).table["correct"].to_pylist()[0] is (top == 7)


def test_edges_are_counted_without_their_matrix():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 40))
        group, item = rng.integers(0, 4, n).astype(np.int32), rng.integers(-1, 3, n).astype(np.int32)
        for scope in ("all", "other_items"):
            cut = Cut(source=int(rng.integers(16)), target=int(rng.integers(16)), scope=scope)
            want = 0
            for i in range(n):
                for j in range(i):
                    edge = cut.target >> group[i] & 1 and cut.source >> group[j] & 1
                    if scope == "other_items":
                        edge = edge and item[i] >= 0 and item[j] >= 0 and item[i] != item[j]
                    want += bool(edge)
            assert count_edges([cut], group, item) == want


def test_bad_input():
    model, prompt = avflow.wrap(decoder("qwen2")), text_prompt(64)
    with pytest.raises(avflow.InputError, match="keep is empty"):
        avflow.pathways(model, prompt, {})
    with pytest.raises(avflow.InputError, match="out of range"):
        avflow.pathways(model, prompt, {"video->last": [99]})
    with pytest.raises(avflow.InputError, match="cannot be kept apart"):
        avflow.pathways(model, prompt, {avflow.Knockout("video", "last", heads=(0,)): None})
    with pytest.raises(avflow.InputError, match="cross:group"):
        avflow.pathways(model, prompt, {avflow.Knockout("video", "audio", scope="other_items"): None})
    with pytest.raises(avflow.InputError, match="number of control runs"):
        avflow.pathways(model, prompt, {"video->last": None}, random=-1)


def _ruled_masks(prompt, layers, heads):
    """`within` {"video": [0, 1], "question": [1], "last": ()} and two paths; the share: edges from the video on."""
    groups, n, begin = prompt.groups, len(prompt), prompt.groups.index("video")
    question = ("question_text", "option_correct", "option_incorrect")
    out, kept, total = {}, 0, 0
    for layer in range(layers):
        cut = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            for j in range(i + 1):
                a, b = groups[j], groups[i]
                if a in question and b in question and i != j:
                    cut[i, j] = layer != 1
                elif a == b == "video" and i != j:
                    cut[i, j] = layer > 1
                elif a == b == "last":
                    cut[i, j] = True
                elif a != b and a not in ("system", "template"):
                    into = (a == "video" and b in question and layer in (1, 2)) or (a in question and b == "last")
                    cut[i, j] = not into
        seen = n - begin
        total += seen * (seen + 1) // 2
        kept += seen * (seen + 1) // 2 - int(cut[begin:, begin:].sum())
        out[layer] = cut.expand(1, heads, n, n)
    return out, kept / total


def test_edges_within_a_group_and_edges_from_a_group_on():
    model, prompt = avflow.wrap(thinker()), av_prompt("interleaved", seconds=2)
    ruled = dict(within={"video": [0, 1], "question": [1], "last": ()}, counted_from="video")
    keep = {"video->question": [1, 2], "question->last": None}
    found = avflow.pathways(model, prompt, keep, random=1, seed=5, **ruled)
    full, kept, control = found.table.to_pylist()
    masks, share = _ruled_masks(prompt, model.n_layers, model.n_heads)
    assert kept["edges_kept"] == control["edges_kept"] == pytest.approx(share, abs=1e-12) != 1
    assert kept["logp"] == pytest.approx(_dense(model, prompt, masks), abs=1e-4)
    assert abs(kept["logp"] - full["logp"]) > 1e-3
    assert found.meta["within"] == {"video": [0, 1], "question": [1], "last": []}
    assert found.meta["counted_from"] == "video"

    begin, n = prompt.groups.index("video"), len(prompt)
    at, m = torch.arange(n), n - begin
    drawn = {}
    for layer, mask in masks.items():
        count = int(mask[0, 0, begin:, begin:].sum())
        threshold = round(count / (m * (m - 1) / 2) * 2**32)
        cut = (edge_hash(5 * 4096 + layer, at, at) < threshold) & (at[None] < at[:, None]) & (at[None] >= begin)
        drawn[layer] = cut.expand(1, model.n_heads, n, n)  # no edge with a token before the video
    assert control["logp"] == pytest.approx(_dense(model, prompt, drawn), abs=1e-4)


def test_the_named_rule_is_what_its_parts_are():
    model, prompt = avflow.wrap(thinker()), av_prompt("interleaved", seconds=2)
    keep = {"video->question": [1, 2], "question->last": None}
    named = avflow.pathways(model, prompt, keep, rule="map_the_flow")
    parts = dict(within={"video": range(4), "question": range(4), "last": ()}, counted_from="video")
    assert (
        named.table.equals(avflow.pathways(model, prompt, keep, **parts).table) and named.meta["rule"] == "map_the_flow"
    )
    plain = avflow.pathways(model, prompt, keep)
    assert plain.table.column("edges_kept")[1] != named.table.column("edges_kept")[1]
    assert {"rule", "within", "counted_from"}.isdisjoint(plain.meta)
    whole = avflow.pathways(model, prompt, keep, within={"video": None})
    assert whole.table.equals(plain.table)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(rule="flow"), "rule"),
        (dict(within=["video"]), "within = "),
        (dict(within={"vido": None}), "vido"),
        (dict(within={"video": [99]}), "out of range"),
        (dict(counted_from="image"), "edges are counted from 'image' on, of which it has no token"),
        (dict(counted_from=3), "text"),
    ],
)
def test_rules_that_make_no_sense(options, says):
    model, prompt = avflow.wrap(thinker()), av_prompt("interleaved", seconds=2)
    with pytest.raises(avflow.InputError, match=says):
        avflow.pathways(model, prompt, {"video->question": None}, **options)
