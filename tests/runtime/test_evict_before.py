"""Tokens that leave before layer 0: nobody ever sees them, and no layer caches them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from evict_cases import MODELS, batch, check, cuts_of, dense, evicting, far, generate, leaves, lengths, model, prompt
from transformers import DynamicCache, StaticCache

import avflow
from avflow import EveryNth, KeepAll, Step, TopK
from avflow.models.compat import cache_argument, cache_of, find_text_model
from avflow.models.proof import checking
from avflow.runtime.conversation import conversation_of

CACHE = cache_argument()
BEFORE = {"video": -1, "audio+question": 2}
WAYS = {
    "greedy": {},
    "beams": dict(num_beams=3),
    "sampling": dict(do_sample=True, temperature=0.8, top_k=20),
    "lookup": dict(prompt_lookup_num_tokens=3),
    "without a cache": dict(use_cache=False),
}


def oracle_of(name, case, schedule=BEFORE, decode="keep", sequences=1, **how):
    cuts = cuts_of(leaves(case.groups, schedule), 8, [case.n] if decode == "drop" else None)
    plain = {k: v for k, v in how.items() if k in ("num_beams", "do_sample", "temperature", "top_k")}
    with dense(name, {layer: cut.repeat_interleave(sequences, 0) for layer, cut in cuts.items()}):
        return generate(name, case, **plain)


@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("sequences", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_generate(name, sequences, decode):
    case = prompt(name) if sequences == 1 else batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    with evicting(name, case, BEFORE, decode):
        ours = generate(name, case)
    check(ours, oracle_of(name, case, decode=decode), generate(name, case))
    gone, cache = leaves(case.groups, BEFORE), cache_of(ours)
    if sequences == 1:
        held = [int((gone > (2 if decode == "drop" else layer - 1)).sum()) + 5 for layer in range(4)]
        assert lengths(cache) == held
    assert cache.get_seq_length() == case.n + 5


@pytest.mark.parametrize("how", [how for how in WAYS if how != "greedy"])
def test_ways_to_decode(how):
    case = prompt("qwen3")
    with evicting("qwen3", case, BEFORE):
        ours = generate("qwen3", case, **WAYS[how])
    check(ours, oracle_of("qwen3", case, sequences=WAYS[how].get("num_beams", 1), **WAYS[how]))


@pytest.mark.parametrize("name", ["omni", "salmonn", "qwen2"])
def test_it_is_the_decoder_on_the_embeddings_that_stay(name):
    """The plain model, given fewer rows at the same positions: no mask, nothing of avflow."""
    case, hf = prompt(name, 1, 3), model(name).hf
    text, seen = find_text_model(hf), {}
    hook = text.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        clean = hf(**case.inputs).logits
    hook.remove()
    embeds = seen.get("inputs_embeds")
    embeds = text.embed_tokens(case.inputs["input_ids"]) if embeds is None else embeds
    positions = torch.arange(case.n)[None] if seen.get("position_ids") is None else seen["position_ids"]
    stay = torch.tensor([g not in ("video", "audio") for g in case.groups[0]])
    with torch.no_grad():
        hidden = text(
            inputs_embeds=embeds[:, stay],
            position_ids=positions[..., stay],
            attention_mask=torch.ones(1, int(stay.sum()), dtype=torch.long),
        ).last_hidden_state
        theirs = model(name).lm_head(hidden)
    with evicting(name, case, {"media": -1}), torch.no_grad():
        ours = hf(**case.inputs).logits
    assert ours.shape[1] == int(stay.sum())
    assert far(ours, theirs) < 1e-5 and far(ours[:, -1], clean[:, -1]) > 1e-3


@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunks(chunk, decode):
    """Chunks among them of which every token leaves."""
    case = prompt("qwen3", 1, 4)
    with evicting("qwen3", case, BEFORE, decode):
        ours = generate("qwen3", case, prefill_chunk_size=chunk)
    check(ours, oracle_of("qwen3", case, decode=decode))
    assert cache_of(ours).get_seq_length() == case.n + 5


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_the_first_layer_holds_nothing_yet_and_the_cache_counts(decode):
    case = prompt("qwen3", 1, 4)
    case.groups = [["video"] * 9 + case.groups[0][9:]]
    ids, cache = case.inputs["input_ids"], DynamicCache()
    gone = leaves(case.groups, BEFORE)
    with evicting("qwen3", case, BEFORE, decode):
        for part in ids.split(9, 1):
            last = model("qwen3").hf(part, **{CACHE: cache}).logits[:, -1]
            read = len(conversation_of(cache))
            assert cache.get_seq_length() == read
            assert decode == "drop" or lengths(cache)[0] == int((gone[0, :read] > -1).sum())
    with dense("qwen3", cuts_of(gone, 0)):
        assert far(last, model("qwen3").hf(ids).logits[:, -1]) < 1e-4
    cache.reset()
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("name", ["omni", "qwen2"])
def test_a_second_turn(name, decode):
    one, cache, other = prompt(name), DynamicCache(), DynamicCache()
    with evicting(name, one, BEFORE, decode):
        first = generate(name, one, **{CACHE: cache})
    said = first.sequences.shape[1] - one.n
    two = prompt(name)
    two.inputs = {
        "input_ids": torch.cat([first.sequences, torch.tensor([[31, 41, 59, 26]])], 1),
        "attention_mask": torch.ones(1, one.n + said + 4, dtype=torch.long),
    }
    two.groups = [one.groups[0] + ["answer"] * said + ["video", "question_text", "question_text", "last"]]
    two.items = [one.items[0] + [-1] * (said + 4)]
    with evicting(name, two, BEFORE, decode):
        ours = generate(name, two, **{CACHE: cache})
    with dense(name, cuts_of(leaves(two.groups, BEFORE), 8, [one.n, two.n] if decode == "drop" else None)):
        generate(name, one, **{CACHE: other})
        check(ours, generate(name, two, **{CACHE: other}))


def test_an_assistant_takes_guesses_back():
    """Guesses are cropped off the end of every layer's own keys, the shorter first one's too."""
    case = prompt("qwen3")
    with evicting("qwen3", case, BEFORE):
        ours = generate("qwen3", case, assistant_model=tiny.decoder("qwen3", layers=1, seed=4))
    check(ours, oracle_of("qwen3", case))


def test_several_steps_of_one_group():
    case = prompt("omni", 1, 4)
    steps = [Step("video", -1, EveryNth(2)), Step("video", 1), Step("audio", 0, KeepAll())]
    gone = leaves(case.groups, {"video": 1})
    gone[(gone == 1) & (torch.tensor(case.items) % 2 == 1)] = -1
    with evicting("omni", case, steps):
        ours = generate("omni", case)
    with dense("omni", cuts_of(gone, 8)):
        check(ours, generate("omni", case))
    assert (gone == -1).any() and (gone == 1).any()


@pytest.mark.parametrize("after", [-1, 1])
def test_embeddings(after):
    """Those that the next layer is given, of each sequence's own tokens."""
    case, seen, given = batch([prompt("omni", 1, 1), prompt("omni", 2, 3)]), [], []

    class Looks:
        uses_scores = False
        uses_embeddings = True

        def select(self, view):
            seen.append((view.orders, view.embeddings(), view.groups()))
            return np.ones(len(view.orders), bool)

    layer = model("omni").layers[after + 1]
    with checking(model("omni"), "off"):
        hook = layer.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        with torch.no_grad():
            model("omni").hf(**case.inputs)
        hook.remove()
        with evicting("omni", case, [Step("video+audio", after, Looks())]):
            model("omni").hf(**case.inputs)
    for b, (orders, embeddings, names) in enumerate(seen):
        assert orders.tolist() == [i for i, g in enumerate(case.groups[b]) if g in ("video", "audio")]
        assert embeddings.dtype == torch.float32 and names.tolist() == [case.groups[b][i] for i in orders]
        assert far(embeddings, given[0][b, torch.from_numpy(orders).long()]) < 1e-5
    assert len(seen) == 2


def test_the_rule_of_the_docs_keeps_the_most_diverse():
    """Its first is the farthest from the first token; each later one the farthest from those that stay."""
    page = (Path(__file__).parents[2] / "docs" / "eviction.md").read_text()
    scope: dict = {}
    exec(page.split("<!-- diverse -->")[1].split("```python")[1].split("```")[0], scope)
    case, seen = prompt("omni", 1, 3), []

    class Watched(scope["Diverse"]):
        def select(self, view):
            stay = super().select(view)
            seen.append((view, view.embeddings(), stay))
            return stay

    with evicting("omni", case, [Step("video", -1, Watched(0.3))]):
        ours = generate("omni", case)
    ((view, x, stay),) = seen
    x = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    far_apart = 1 - x @ x.T
    chosen, count = [int(far_apart[0].argmax())], round(0.3 * len(x))
    near = np.minimum(far_apart[0], far_apart[chosen[0]])
    while len(chosen) < count:
        chosen.append(int(near.argmax()))
        near = np.minimum(near, far_apart[chosen[-1]])
    assert np.flatnonzero(stay).tolist() == sorted(chosen) and count == 5
    gone = torch.full((1, case.n), 99)
    gone[0, view.orders[~stay]] = -1
    with dense("omni", cuts_of(gone, 8)):
        check(ours, generate("omni", case))


def test_what_is_refused():
    case = prompt("qwen3")

    class Looks:
        uses_scores = False

        def select(self, view):
            return view.embeddings()[:, 0].numpy() > 0

    class Ranks:
        def select(self, view):
            return view.scores("last") > 0

    for step, message in (
        (Step("video", -1, Looks()), "asks for embeddings: say uses_embeddings = True"),
        (Step("video", -1, Ranks()), "asks for scores before layer 0, and no layer has run"),
    ):
        with evicting("qwen3", case, [step]), pytest.raises(avflow.InputError, match=message):
            generate("qwen3", case)
    with pytest.raises(avflow.InputError, match="no layer has run by then .*: scored_in='next'"):
        Step("video", -1, TopK(share=0.5))
    cache = StaticCache(config=model("qwen3").config, max_cache_len=64)
    with evicting("qwen3", case, BEFORE):
        with pytest.raises(avflow.InputError, match="before layer 0 cannot count .* in a StaticLayer"):
            generate("qwen3", case, **{CACHE: cache})
    with evicting("qwen3", case, {"video": -1}):
        with pytest.raises(avflow.InputError, match="'video', which leaves before layer 0: no answer"):
            short = [g if g != "last" else "video" for g in case.groups[0]]
            with avflow.evict(model("qwen2"), {"video": -1}, groups=short):
                model("qwen2").hf(case.inputs["input_ids"])
