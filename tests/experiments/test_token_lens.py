"""What tokens say by the lens, under knockouts too, and how far that is from another model, against the plain model."""

from __future__ import annotations

import dataclasses

import oracle
import patch_oracle
import pytest
import tiny
import torch

import avflow
from avflow import plots


@pytest.fixture(scope="module")
def prompt():
    return tiny.av_prompt(seconds=2, seed=1, answer_ids=(7, 9, 30))


def lens(model, states):
    """Log-probabilities [n, vocab] of states [n, D]."""
    return torch.log_softmax(model.lm_head(model.norm(states)).float(), -1).detach()


def test_counts_and_probabilities_are_the_plain_models(omni, prompt):
    states = patch_oracle.states(omni.hf, prompt, "residual")
    found = avflow.token_lens(omni, prompt, "media+answer", layers=[1, 3], words=[7], keep=5)
    rows = found.table.to_pylist()
    assert {(r["group"], r["layer"]) for r in rows} == {(g, x) for g in ("video", "audio", "answer") for x in (1, 3)}
    for group in ("video", "audio", "answer"):
        at = patch_oracle.tokens(prompt, group)
        for layer in (1, 3):
            said = lens(omni, states[layer][at])
            counts = torch.bincount(said.argmax(-1), minlength=tiny.VOCAB)
            mine = [r for r in rows if (r["group"], r["layer"]) == (group, layer)]
            for row in mine:
                assert row["count"] == counts[row["token_id"]] and row["tokens"] == len(at)
                assert abs(row["p"] - float(said[:, row["token_id"]].exp().mean())) < 1e-5
            listed = [r["count"] for r in mine if r["token_id"] != 7]
            assert listed == sorted(listed, reverse=True) and len(mine) <= 6
            assert sum(sorted(counts.tolist())[-5:]) == sum(r["count"] for r in mine[:5])
            assert any(r["token_id"] == 7 for r in mine)


def test_all_words_some_tokens_and_what_is_generated(omni, prompt):
    rows = avflow.token_lens(omni, prompt, "video", layers=2, keep=None, every=5).table.to_pylist()
    assert sum(r["count"] for r in rows) == 3 == rows[0]["tokens"]  # of 12
    made = avflow.token_lens(omni, prompt, "last+answer", layers=3, keep=1, generate=4)
    groups = {r["group"]: r for r in made.table.to_pylist()}
    assert groups["answer"]["tokens"] == 4 and groups["last"]["tokens"] == 1 and made.meta["generate"] == 4


def test_under_a_knockout(omni, prompt):
    one = avflow.Knockout("audio", "question")
    cut = oracle.cut_edges(one, [*prompt.groups, "answer", "answer"], [*prompt.items, -1, -1], 4)[None]
    cuts = {layer: cut for layer in (0, 1)}
    seen: dict[int, torch.Tensor] = {}

    def keep(layer, states):
        seen[layer] = states.clone()
        return states

    with patch_oracle.hooked(omni.hf, "residual", range(4), keep):
        oracle.answer_logp(omni.hf, prompt, cuts=cuts)
    at = patch_oracle.tokens(prompt, "question_text")
    found = avflow.token_lens(omni, prompt, "question_text", keep=3, knockouts=one, cut_layers=[0, 1])
    assert found.meta["knockouts"] == [one.name] and found.meta["cut_layers"] == [0, 1]
    clean = {
        (r["layer"], r["token_id"]): r["p"] for r in avflow.token_lens(omni, prompt, "question_text").table.to_pylist()
    }
    apart = []
    for row in found.table.to_pylist():
        p = float(lens(omni, seen[row["layer"]][at])[:, row["token_id"]].exp().mean())
        assert abs(row["p"] - p) < 1e-5
        apart.append(abs(p - clean.get((row["layer"], row["token_id"]), p)))
    assert max(apart) > 1e-3


def test_answer_lens_under_a_knockout_ends_at_the_sweeps_answer(omni):
    prompt = tiny.av_prompt(seconds=2, seed=1, option_ids=[7, 8, 9])
    swept = avflow.sweep(omni, prompt, "media->question", style="top_down", layers=1, select="all").table.to_pylist()[0]
    found = avflow.answer_lens(omni, prompt, knockouts="media->question", cut_layers=[1, 2, 3]).table.to_pylist()
    (end,) = [r for r in found if r["layer"] == 3 and r["kind"] == "true option"]
    assert abs(end["logp"] - swept["logp_knockout"]) < 1e-4 < abs(end["logp"] - swept["logp_clean"])


def test_shares_under_a_knockout(omni, prompt):
    found = avflow.attention_share(omni, prompt, tokens="answer", knockouts="video->last+answer", cut_layers=1)
    plain = avflow.attention_share(omni, prompt, tokens="answer").table.to_pylist()
    rows = found.table.to_pylist()
    for layer in range(4):
        for token in range(3):
            mine = {r["group"]: r["share"] for r in rows if (r["layer"], r["answer_token"]) == (layer, token)}
            assert sum(mine.values()) == pytest.approx(1, abs=1e-5)
            assert (mine["video"] == 0) == (layer == 1)
            before = {r["group"]: r["share"] for r in plain if (r["layer"], r["answer_token"]) == (layer, token)}
            if layer == 1 and token == 0:  # what is left shares what the video had
                for group in ("audio", "question_text"):
                    assert mine[group] > before[group]
            if layer == 0:
                assert mine == pytest.approx(before, abs=1e-6)


def test_the_shift_from_another_model(omni, prompt):
    same = avflow.lens_shift(omni, omni, prompt, "video+last+answer").table.to_pylist()
    assert len(same) == 12 and all(r["kl"] < 1e-6 and r["unshifted"] == 1 for r in same)
    other = avflow.wrap(tiny.thinker(seed=5))
    rows = avflow.lens_shift(omni, other, prompt, "video", layers=[0, 3]).table.to_pylist()
    at = patch_oracle.tokens(prompt, "video")
    states = [patch_oracle.states(m.hf, prompt, "residual") for m in (omni, other)]
    for row in rows:
        p, q = (lens(m, s[row["layer"]][at]) for m, s in zip((omni, other), states, strict=True))
        assert row["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
        rank = [q[i].argsort(descending=True).tolist().index(int(p[i].argmax())) + 1 for i in range(len(at))]
        assert row["unshifted"] == pytest.approx(rank.count(1) / len(at))
        assert row["marginal"] == pytest.approx(sum(r in (2, 3) for r in rank) / len(at))
        assert row["unshifted"] + row["marginal"] + row["shifted"] == pytest.approx(1)


def test_the_other_model_may_read_another_prompt(omni, prompt):
    silent = tiny.av_prompt("silent", seconds=2, seed=1)
    rows = avflow.lens_shift(omni, omni, prompt, "last+answer", layers=3, ask=lambda _: silent).table.to_pylist()
    assert {r["group"]: r["tokens"] for r in rows} == {"last": 1, "answer": 2} and rows[0]["kl"] > 1e-4
    with pytest.raises(avflow.InputError, match="50 tokens in the one model and 0"):
        avflow.lens_shift(omni, omni, prompt, "media", ask=lambda _: silent)
    with pytest.raises(avflow.InputError, match="a function of a prompt"):
        avflow.lens_shift(omni, omni, prompt, ask="silent")
    with pytest.raises(avflow.InputError, match="layers"):
        avflow.lens_shift(omni, avflow.wrap(tiny.thinker(layers=3)), prompt)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(tokens="nothing"), "nothing"),
        (dict(tokens="image"), "no token of 'image'"),
        (dict(layers=4), "layers"),
        (dict(words=["red"]), "no tokenizer"),
        (dict(words=[512]), "token id"),
        (dict(words=3), "words"),
        (dict(keep=-1), "keep"),
        (dict(every=0), "every"),
        (dict(cut_layers=1), "without knockouts"),
        (dict(knockouts="video->nothing"), "nothing"),
        (dict(knockouts="video->last (x 2)"), "does not amplify"),
        (dict(knockouts=avflow.Knockout("video", "last", heads=9)), "head 9"),
    ],
)
def test_refused(omni, prompt, arguments, message):
    with pytest.raises(avflow.InputError, match=message):
        avflow.token_lens(omni, prompt, **arguments)


def test_the_figure_shows_shares_of_all_samples_tokens(omni, prompt):
    prompts = [prompt, dataclasses.replace(tiny.av_prompt(seconds=4, seed=3), id="longer")]
    found = avflow.token_lens(omni, prompts, "media", keep=None)
    _, ax = plots.word_lines(found, "video", most=3, first_layer=1)
    rows = [r for r in found.table.to_pylist() if r["group"] == "video"]
    for line in ax.get_lines():
        word = line.get_label().strip("'")
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        for layer, share in enumerate(line.get_ydata()):
            count = sum(r["count"] for r in rows if (r["token"], r["layer"]) == (word, layer))
            assert share == pytest.approx(count / (12 + 24))
    word = next(r["token"] for r in found.table.to_pylist() if r["group"] == "audio")
    _, ax = plots.word_lines(found, "audio", words=[word])
    assert [line.get_label() for line in ax.get_lines()] == [repr(word)]
    for arguments, message in (
        (dict(), "name one of them"),
        (dict(group="image"), "image"),
        (dict(group="video", words=["?"]), "no rows of the word"),
        (dict(group="video", most=8), "most"),
    ):
        with pytest.raises(avflow.InputError, match=message):
            plots.word_lines(found, **arguments)


def test_words_as_texts():
    model = avflow.load("tiny-omni")
    prompt = dataclasses.replace(tiny_text(model), id="w")
    found = avflow.token_lens(model, prompt, "question", layers=0, words=["A"], keep=0).table.to_pylist()
    assert [r["token"] for r in found] == ["A"] and 0 < found[0]["p"] < 1
    with pytest.raises(avflow.InputError, match="tokens"):
        avflow.token_lens(model, prompt, "question", words=["a question of several words"])


def tiny_text(model) -> avflow.Prompt:
    ids = model.processor.tokenizer("which color is it?", add_special_tokens=False)["input_ids"]
    groups = [*["question_text"] * (len(ids) - 1), "last"]
    return avflow.Prompt(input_ids=torch.tensor(ids), groups=groups, answer_ids=[ids[0]])


def test_groups_of_ones_own(prompt):
    """By `labels=`, as everywhere; the other model of a shift learns of them too."""
    model, same = avflow.wrap(tiny.thinker(layers=3)), avflow.wrap(tiny.thinker(layers=3))
    at = patch_oracle.tokens(prompt, "video")[:3]
    marks = avflow.Labels(lambda prompt, sample: {"object": [int(i) for i in at]}, ["object"])
    by_hand = dataclasses.replace(prompt, groups=["object" if i in at else g for i, g in enumerate(prompt.groups)])
    found = avflow.token_lens(model, prompt, "object+video", layers=2, labels=marks).table
    assert {(r["group"], r["tokens"]) for r in found.to_pylist()} == {("object", 3), ("video", 9)}
    assert found.equals(avflow.token_lens(model, by_hand, "object+video", layers=2).table)
    (row,) = avflow.lens_shift(model, same, prompt, "object", layers=2, labels=marks).table.to_pylist()
    assert row["tokens"] == 3 and abs(row["kl"]) < 1e-6 and row["unshifted"] == 1
