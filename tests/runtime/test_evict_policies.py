"""Score-based steps: the tokens that stay are those that dense attention chooses, and the run equals its oracle."""

from __future__ import annotations

import copy
import math

import oracle
import pytest
import tiny
import torch
from evict_cases import NEVER, batch, check, cuts_of, dense, evicting, generate, leaves, lengths, model, prompt
from transformers import DynamicCache, StaticCache

import avflow
from avflow import EveryNth, KeepAll, Step, TopK
from avflow.models.compat import cache_argument, cache_of
from avflow.runtime.conversation import conversation_of


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
        asked = step.after + (step.keep.scored_in == "next")  # with all that leaves now still there
        weight = attention_of(name, case, cuts_of(gone, 0), asked)
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
NEXT = [
    Step("video", 0, TopK(share=0.6, scored_in="next")),
    Step("audio+video", 1, TopK(share=0.5)),
    Step("audio+video", 2, TopK(count=5, by="question", scored_in="next")),
]
BEFORE = [Step("video", -1, TopK(share=0.6, scored_in="next")), Step("audio+video", 1, TopK(share=0.5))]
RULES = {"fastv": FASTV, "pyramid": PYRAMID, "asked": ASKED, "next": NEXT, "before": BEFORE}


@pytest.mark.parametrize("name", ["omni", "vl", "qwen2", "qwen3"])
@pytest.mark.parametrize("steps", RULES.values(), ids=RULES)
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


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
def test_scores_of_the_next_layer_honour_its_cuts(semantics):
    """A knockout in the layer that is about to be entered, and in no other, counts; by the definition of its cut."""
    case = prompt("qwen3", 1, 3)
    hidden = [i for i, g in enumerate(case.groups[0]) if g == "video"][::3]
    names = ["candidate_correct" if i in hidden else g for i, g in enumerate(case.groups[0])]
    case.groups = [names]
    cut = oracle.cut_edges(
        avflow.Knockout.parse("candidates->last"), names + ["answer"] * 8, case.items[0] + [-1] * 8, 4
    )
    at = torch.tensor([i for i, g in enumerate(names) if g in ("video", "candidate_correct")])
    plain = attention_of("qwen3", case, {}, 2)[0, -1]
    paid = plain.clone()
    if semantics == "renormalize":  # head by head: what is not cut changes its order too
        paid = attention_of("qwen3", case, {2: cut[None, :, : case.n, : case.n]}, 2)[0, -1]
    paid[hidden] = 0
    order = at[torch.argsort(paid[at], descending=True, stable=True)]
    assert order.tolist() != at[torch.argsort(plain[at], descending=True, stable=True)].tolist()
    gone = torch.full((1, case.n), NEVER)
    gone[0, order[7:]] = 1
    steps = [Step("video+candidates", 1, TopK(count=7, scored_in="next"))]
    block = avflow.knockout(model("qwen3"), "candidates->last", layers=[2], semantics=semantics)
    with block, evicting("qwen3", case, steps):
        ours = generate("qwen3", case)
    assert conversation_of(cache_of(ours)).gone.clip(max=NEVER).tolist() == gone.tolist()
    if semantics == "renormalize":
        masks = cuts_of(gone, 8)
        masks[2] = masks[2] | cut[None]
        with dense("qwen3", masks):
            check(ours, generate("qwen3", case))


def test_scores_of_the_next_layer_are_renormalised_as_its_attention_is():
    """Of a row that loses an edge, the rest grows, or does not: that decides between the rows and heads of a mean."""
    case = prompt("qwen2", 3, 3)
    names = case.groups[0]
    cut = oracle.cut_edges(avflow.Knockout.parse("system->question"), names, case.items[0], 4)[None]
    at = torch.tensor([i for i, g in enumerate(names) if g == "video"])
    asking = [i for i, g in enumerate(names) if g in oracle.names("question")]
    for semantics in ("renormalize", "zero"):
        weight = attention_of("qwen2", case, {1: cut} if semantics == "renormalize" else {}, 1)[0]
        best = at[torch.argsort(weight[asking][:, at].mean(0), descending=True, stable=True)[:6]]
        steps = [Step("video", 0, TopK(count=6, by="question", scored_in="next"))]
        block = avflow.knockout(model("qwen2"), "system->question", layers=[1], semantics=semantics)
        with block, evicting("qwen2", case, steps):
            gone = conversation_of(cache_of(generate("qwen2", case))).gone[0]
        assert sorted(best.tolist()) == [i for i in at.tolist() if gone[i] > 3]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("where", ["this", "next"])
def test_scores_are_dense_attention_also_where_the_prompts_beginning_was_read_before(where, static):
    """In numbers, for a rule of one's own that names the layer: softmaxes over the earlier keys too."""
    seen = []

    class Watches:
        scored_in = where

        def select(self, view):
            seen.append((view.orders.tolist(), view.scores("last"), view.scores("question")))
            assert view.total == len(view.orders)
            return view.orders % 2 == 0

    case = prompt("qwen3", 1, 4)
    case.groups = [["system"] * 14 + case.groups[0][14:]]
    names, ids, hf = case.groups[0], case.inputs["input_ids"], model("qwen3").hf
    at = [i for i, g in enumerate(names) if g == "video"]
    weight = attention_of("qwen3", case, {}, 1 + (where == "next"))[0]
    asking = [i for i, g in enumerate(names) if g in oracle.names("question")]
    for parts in ((ids,), (ids[:, :14], ids[:, 14:])):
        cache = StaticCache(config=hf.config, max_cache_len=case.n + 4) if static else DynamicCache()
        with evicting("qwen3", case, [Step("video", 1, Watches())]):
            for part in parts:
                hf(part, **{cache_argument(): cache})
        orders, last, question = seen.pop()
        assert orders == at and not seen
        assert (torch.from_numpy(last) - weight[-1, at]).abs().max() < 1e-5
        assert (torch.from_numpy(question) - weight[asking][:, at].mean(0)).abs().max() < 1e-5


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


@pytest.mark.parametrize("where", ["this", "next"])
@pytest.mark.parametrize("by", ["last", "question"])
def test_scores_are_those_of_the_prompt_however_it_is_decoded(by, where):
    """The last token is the prompt's, also where answer tokens are read in the same forward."""
    hf = tiny.decoder("qwen2")
    wrapped, case = avflow.wrap(hf), tiny.text_prompt(64, tokens=120)
    ids = case.input_ids.clone()
    ids[-1] = ids[1]  # what prompt lookup finds again
    ids = ids[None]
    rule = TopK(share=0.2, by=by, scored_in=where)
    steps = [Step("video", 0, rule), Step("audio", 1, rule)]
    answers = {}
    for name, how in ways_to_decode(hf).items():
        with avflow.evict(wrapped, steps, groups=case.groups, items=case.items):
            out = hf.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, **how
            )
        answers[name] = out[0, ids.shape[1] :].tolist()
    assert len(answers["one by one"]) == 8
    assert all(answer == answers["one by one"] for answer in answers.values()), answers
