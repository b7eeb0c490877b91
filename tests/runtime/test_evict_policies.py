"""Score-based steps: the tokens that stay are those that dense attention chooses, and the run equals its oracle."""

from __future__ import annotations

import copy
import math

import oracle
import pytest
import tiny
import torch
from evict_cases import NEVER, batch, check, cuts_of, dense, evicting, generate, leaves, lengths, model, prompt

import avflow
from avflow import EveryNth, KeepAll, Step, TopK
from avflow.models.compat import cache_of


def attention_of(name: str, case, cuts: dict, layer: int) -> torch.Tensor:
    """Dense attention weights of one layer, averaged over heads: [batch, N, N]."""
    seen, attend = [], oracle.dense_attention

    def watch(q, k, v, visible, cut, scale, semantics):
        keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        score = (q @ keys.transpose(2, 3) * scale).masked_fill(~visible | cut, -math.inf)
        seen.append(torch.softmax(score, -1).nan_to_num(0.0).mean(1))
        return attend(q, k, v, visible, cut, scale, semantics)

    with pytest.MonkeyPatch.context() as patch, dense(name, cuts):
        patch.setattr(oracle, "dense_attention", watch)
        model(name).hf(**case.inputs)
    return seen[layer]


def chosen(name: str, case, steps) -> torch.Tensor:
    """The layer after which each token leaves, from dense runs, step by step."""
    gone = torch.full((len(case.groups), case.n), NEVER)
    for step in sorted(steps, key=lambda s: s.after):
        weight = attention_of(name, case, cuts_of(gone, 0), step.after)
        for b, names in enumerate(case.groups):
            inside = torch.tensor([g in oracle.names(step.group) for g in names]) & (gone[b] == NEVER)
            at = inside.nonzero()[:, 0]
            asking = [i for i, g in enumerate(names) if g in oracle.names("question")]
            rows = [case.n - 1] if step.keep.by == "last" else [i for i in asking if gone[b, i] == NEVER]
            score = weight[b, rows][:, at].mean(0)
            count = step.keep.count or math.ceil(step.keep.share * len(at))
            stay = at[torch.argsort(score, descending=True, stable=True)[:count]]
            leave = inside.clone()
            leave[stay] = False
            gone[b, leave] = step.after
    return gone


FASTV = [Step("video", 1, TopK(share=0.5))]
PYRAMID = [Step("video", layer, TopK(share=0.6)) for layer in (0, 1, 2)]
ASKED = [Step("video", 1, TopK(count=4, by="question")), Step("audio+video", 2, TopK(count=2, by="question"))]


@pytest.mark.parametrize("name", ["omni", "vl", "qwen2", "qwen3"])
@pytest.mark.parametrize("steps", [FASTV, PYRAMID, ASKED], ids=["fastv", "pyramid", "asked"])
@pytest.mark.parametrize("sequences", [1, 2])
def test_top_k(name, steps, sequences):
    case = prompt(name) if sequences == 1 else batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    gone = chosen(name, case, steps)
    with evicting(name, case, steps):
        ours = generate(name, case)
    with dense(name, cuts_of(gone, 8)):
        theirs = generate(name, case)
    check(ours, theirs, generate(name, case))
    if sequences == 1:
        assert lengths(cache_of(ours)) == [int((gone > layer - 1).sum()) + 5 for layer in range(4)]


def test_scores_honour_cuts():
    """What a knockout hides from the last token gets no attention from it, and leaves first."""
    case = prompt("qwen3", 1, 3)
    hidden = [i for i, g in enumerate(case.groups[0]) if g == "video"][::2]
    names = ["candidate_correct" if i in hidden else g for i, g in enumerate(case.groups[0])]
    case.groups = [names]
    steps = [Step("video+candidates", 1, TopK(share=0.5))]
    with avflow.knockout(model("qwen3"), "candidates->last", layers=[1]), evicting("qwen3", case, steps):
        stays = generate("qwen3", case)
    cut = oracle.cut_edges(
        avflow.Knockout.parse("candidates->last"), names + ["answer"] * 8, case.items[0] + [-1] * 8, 4
    )
    count = sum(g in ("video", "candidate_correct") for g in names)
    gone = torch.full((1, case.n), NEVER)
    gone[0, hidden] = 1
    if count % 2:  # one of the hidden stays, the earliest: all have score 0
        gone[0, hidden[: -(-count // 2) - (count - len(hidden))]] = NEVER
    masks = cuts_of(gone, 8)
    masks[1] = masks[1] | cut[None]
    with dense("qwen3", masks):
        check(stays, generate("qwen3", case))


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_every_other_frame(decode):
    case = prompt("omni", 1, 4)
    steps = [Step("video", 1, EveryNth(2)), Step("audio", 0, KeepAll())]
    gone = leaves(case.groups, {"video": 1})
    gone[torch.tensor(case.items) % 2 == 0] = NEVER
    with evicting("omni", case, steps, decode):
        ours = generate("omni", case)
    with dense("omni", cuts_of(gone, 8, [case.n] if decode == "drop" else None)):
        check(ours, generate("omni", case))
    assert (gone == 1).any() and lengths(cache_of(ours))[3] == int((gone > 2).sum()) + 5


def test_a_rule_of_ones_own():
    class FirstTwo:
        def select(self, view):
            assert view.scores("last").shape == view.scores("question").shape == view.orders.shape
            return view.orders <= view.orders[:2].max()

    case = prompt("qwen3")
    with evicting("qwen3", case, [Step("video", 1, FirstTwo())]):
        held = lengths(cache_of(generate("qwen3", case)))
    assert held[1] - held[2] == case.groups[0].count("video") - 2


def ways_to_decode(hf) -> dict:
    """generate's arguments for decoding that reads answer tokens one by one, all anew, and several at a time."""
    return {
        "one by one": {},
        "without a cache": dict(use_cache=False),
        "prompt lookup": dict(prompt_lookup_num_tokens=3, max_matching_ngram_size=1),
        "assistant": dict(assistant_model=copy.deepcopy(hf)),
    }


@pytest.mark.parametrize("by", ["last", "question"])
def test_scores_are_those_of_the_prompt_however_it_is_decoded(by):
    """The last token is the prompt's, also where answer tokens are read in the same forward."""
    hf = tiny.decoder("qwen2")
    wrapped, case = avflow.wrap(hf), tiny.text_prompt(64, tokens=120)
    ids = case.input_ids.clone()
    ids[-1] = ids[1]  # what prompt lookup finds again
    ids = ids[None]
    steps = [Step("video", 0, TopK(share=0.2, by=by)), Step("audio", 1, TopK(share=0.2, by=by))]
    answers = {}
    for name, how in ways_to_decode(hf).items():
        with avflow.evict(wrapped, steps, groups=case.groups, items=case.items):
            out = hf.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, **how
            )
        answers[name] = out[0, ids.shape[1] :].tolist()
    assert len(answers["one by one"]) == 8
    assert all(answer == answers["one by one"] for answer in answers.values()), answers
