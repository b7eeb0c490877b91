"""Eviction over several calls on one cache: turns, conversations that take turns, chunks, assistants, knockouts."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from evict_cases import (
    MODELS,
    SCHEDULE,
    Case,
    batch,
    check,
    cuts_of,
    dense,
    evicting,
    far,
    generate,
    leaves,
    lengths,
    model,
    prompt,
)
from transformers import DynamicCache

import avflow
from avflow.models.compat import cache_argument, cache_in, cache_of

CACHE = cache_argument()

MORE = [31, 41, 59, 26]


def plus(one: Case, sequences: torch.Tensor, groups: list[str], ids: list[int], media: dict | None = None) -> Case:
    """The next turn's prompt: all that was said, then `ids`."""
    b, said = sequences.shape[0], sequences.shape[1] - one.n
    whole = torch.cat([sequences, torch.tensor(ids).expand(b, -1)], 1)
    names = [row + ["answer"] * said + list(groups) for row in one.groups]
    items = [row + [-1] * (said + len(ids)) for row in one.items]
    mask = torch.nn.functional.pad(one.inputs["attention_mask"], (0, said + len(ids)), value=1)
    return Case({"input_ids": whole, "attention_mask": mask} | (media or {}), names, items)


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_a_copy_of_the_cache_goes_on_as_the_cache(decode):
    """transformers shares a prompt's prefix by copy.deepcopy of its cache: what the cache remembers is copied too."""
    one, cache = prompt("qwen3"), DynamicCache()
    with evicting("qwen3", one, decode=decode):
        model("qwen3").hf(**one.inputs, **{CACHE: cache})
        layer, saved = cache.layers[0], copy.deepcopy(cache)
        logits = [
            [model("qwen3").hf(torch.tensor([[token]]), **{CACHE: held}).logits for token in MORE]
            for held in (cache, saved)
        ]
    assert all(torch.equal(a, b) for a, b in zip(*logits, strict=True))
    assert cache.layers[0] is layer and cache.get_seq_length() == saved.get_seq_length() == one.n + len(MORE)
    assert lengths(cache) == lengths(saved)


def second_gone(one: Case, two: Case, schedule=SCHEDULE) -> torch.Tensor:
    return leaves(two.groups, schedule)


@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sequences", [1, 2])
def test_second_turn(name, decode, sequences):
    one = prompt(name) if sequences == 1 else batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    cache, theirs_cache = DynamicCache(), DynamicCache()
    with evicting(name, one, decode=decode):
        first = generate(name, one, **{CACHE: cache})
    two = plus(one, first.sequences, ["question_text"] * 3 + ["last"], MORE)
    with evicting(name, two, decode=decode):
        ours = generate(name, two, **{CACHE: cache})
    # The question of turn 2 leaves too; in the oracle one mask serves both turns.
    cuts = cuts_of(leaves(two.groups, SCHEDULE), 8, [one.n, two.n] if decode == "drop" else None)
    with dense(name, cuts):
        generate(name, one, **{CACHE: theirs_cache})
        theirs = generate(name, two, **{CACHE: theirs_cache})
    clean_cache = DynamicCache()
    generate(name, one, **{CACHE: clean_cache})
    check(ours, theirs, generate(name, two, **{CACHE: clean_cache}))


@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("name", MODELS)
def test_new_media_in_the_second_turn(name, decode):
    one, extra = prompt(name, 1, 2), prompt(name, 5, 3)
    cache, theirs_cache = DynamicCache(), DynamicCache()
    with evicting(name, one, decode=decode):
        first = generate(name, one, **{CACHE: cache})
    media = {k: v for k, v in extra.inputs.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    two = plus(one, first.sequences, extra.groups[0], extra.inputs["input_ids"][0].tolist(), media)
    if name == "salmonn":  # asks for them where media follow a cache
        two.inputs["position_ids"] = torch.arange(two.n).expand(4, 1, -1)
    with evicting(name, two, decode=decode):
        ours = generate(name, two, **{CACHE: cache})
    gone = leaves(two.groups, SCHEDULE)
    with dense(name, cuts_of(gone, 8, [one.n, two.n] if decode == "drop" else None)):
        generate(name, one, **{CACHE: theirs_cache})
        theirs = generate(name, two, **{CACHE: theirs_cache})
    check(ours, theirs)
    held = lengths(cache_of(ours))
    assert held == [int((gone > (layer - 1 if decode == "keep" else 9)).sum()) + 5 for layer in range(4)]
    assert cache_of(ours).get_seq_length() == two.n + 5


@pytest.mark.parametrize("name", MODELS)
def test_two_conversations_take_turns(name):
    """The model's own memory of positions belongs to its last prefill; the cache brings its own."""
    cases, caches, turns = [prompt(name, 1, 2), prompt(name, 2, 4)], [DynamicCache(), DynamicCache()], {}
    for together in (False, True):
        caches = [DynamicCache(), DynamicCache()]
        firsts, seconds = [None, None], [None, None]

        def turn1(i, firsts=firsts, caches=caches):
            with evicting(name, cases[i]):
                firsts[i] = generate(name, cases[i], **{CACHE: caches[i]}).sequences

        def turn2(i, firsts=firsts, seconds=seconds, caches=caches):
            two = plus(cases[i], firsts[i], ["question_text"] * 3 + ["last"], MORE)
            with evicting(name, two):
                seconds[i] = generate(name, two, **{CACHE: caches[i]})

        for step in (
            [(turn1, 0), (turn1, 1), (turn2, 0), (turn2, 1)]
            if together
            else [
                (turn1, 0),
                (turn2, 0),
                (turn1, 1),
                (turn2, 1),
            ]
        ):
            step[0](step[1])
        turns[together] = seconds
    for apart, mixed in zip(turns[False], turns[True], strict=True):
        assert apart.sequences.tolist() == mixed.sequences.tolist()
        assert all(torch.equal(a, b) for a, b in zip(apart.logits, mixed.logits, strict=True))


@pytest.mark.parametrize("name", ["omni", "qwen3"])
def test_new_tokens_alone(name):
    """The next turn may also be given without what was said, with a mask over all; or to forward."""
    one = prompt(name)
    caches = [DynamicCache() for _ in range(3)]
    runs = []
    for number, cache in enumerate(caches):
        with evicting(name, one):
            first = generate(name, one, **{CACHE: cache})
        two = plus(one, first.sequences, ["video"] * 3 + ["last"], MORE)
        with evicting(name, two):
            if number == 1:
                two.inputs["input_ids"] = two.inputs["input_ids"][:, -5:]
            if number == 2:  # the last generated token was not read yet
                ids = two.inputs["input_ids"][:, -5:]
                runs.append(model(name).hf(ids, **{CACHE: cache}).logits[:, -1])
            else:
                runs.append(generate(name, two, **{CACHE: cache}))
    assert runs[0].sequences[:, -6:].tolist() == runs[1].sequences[:, -6:].tolist()
    assert far(runs[1].logits[0], runs[0].logits[0]) < 1e-6 and far(runs[2], runs[0].logits[0]) < 1e-4
    assert len(set(map(tuple, map(lengths, caches[:2])))) == 1


@pytest.mark.parametrize("static, decode", [(False, "keep"), (True, "keep"), (False, "drop")])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_chunked_prefill(chunk, static, decode):
    case = prompt("qwen3", 1, 4)
    how = {"cache_implementation": "static"} if static else {}
    with evicting("qwen3", case, decode=decode):
        ours = generate("qwen3", case, prefill_chunk_size=chunk, **how)
    with dense("qwen3", cuts_of(leaves(case.groups, SCHEDULE), 8, [case.n] if decode == "drop" else None)):
        theirs = generate("qwen3", case)
    check(ours, theirs)


def test_chunks_of_plain_forwards():
    case = prompt("qwen3", 1, 4)
    ids = case.inputs["input_ids"]
    gone = leaves(case.groups, SCHEDULE)
    cache = DynamicCache()
    with evicting("qwen3", case):
        for part in ids.split(9, 1):
            last = model("qwen3").hf(part, **{CACHE: cache}).logits[:, -1]
    with dense("qwen3", cuts_of(gone, 0)):
        theirs = model("qwen3").hf(ids).logits[:, -1]
    assert far(last, theirs) < 1e-4
    assert lengths(cache) == [int((gone > layer - 1).sum()) for layer in range(4)]


def test_assistant_model():
    case = prompt("qwen3")
    helper = tiny.decoder("qwen3", layers=1, seed=4)
    with evicting("qwen3", case):
        ours = generate("qwen3", case, assistant_model=helper)
    with dense("qwen3", cuts_of(leaves(case.groups, SCHEDULE), 8)):
        theirs = generate("qwen3", case)
    assert ours.sequences.tolist() == theirs.sequences.tolist()


def test_the_assistant_is_the_model_itself():
    """Every guess is right, so many answer tokens come in one forward, and the cache is never cropped."""
    case = prompt("qwen3")
    helper = copy.deepcopy(model("qwen3").hf)
    with evicting("qwen3", case, {"video": 2}):
        ours = generate("qwen3", case, assistant_model=helper)
    with dense("qwen3", cuts_of(leaves(case.groups, {"video": 2}), 8)):
        theirs = generate("qwen3", case)
    check(ours, theirs)


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("order", ["evict first", "knockout first"])
@pytest.mark.parametrize("name", ["omni", "qwen3"])
def test_with_a_knockout(name, order, semantics):
    """Cuts act on what is left; the rows that left are cut from the rest as in `renormalize`."""
    from contextlib import ExitStack

    import oracle

    case = prompt(name)
    knockout = avflow.Knockout.parse("question->answer+last")
    layers = [0, 2]
    with ExitStack() as stack:
        blocks = [evicting(name, case), avflow.knockout(model(name), knockout, layers, semantics)]
        for block in blocks if order == "evict first" else blocks[::-1]:
            stack.enter_context(block)
        ours = generate(name, case)
    with evicting(name, case):
        without = generate(name, case)
    gone = leaves(case.groups, SCHEDULE)
    evicted = cuts_of(gone, 8)
    names, items = case.groups[0] + ["answer"] * 8, case.items[0] + [-1] * 8
    cut = oracle.cut_edges(knockout, names, items, 4)[None]
    assert cut.any()
    if semantics == "renormalize":
        masks = {layer: evicted[layer] | cut if layer in layers else evicted[layer] for layer in range(4)}
        with dense(name, masks):
            theirs = generate(name, case)
        check(ours, theirs, without)
    else:
        check(ours, both_kinds(name, case, evicted, {layer: cut for layer in layers}), without)


def both_kinds(name, case, before, after):
    """A dense run in which some edges are cut before the softmax, others after it."""
    import oracle

    attend = oracle.dense_attention

    def mixed(q, k, v, seen, cut, scale, semantics):
        at, total = state["at"], k.shape[2]
        rows = slice(at, at + q.shape[2])
        gone = before[state["layer"]][:, :, rows, :total]
        zero = after.get(state["layer"])
        zero = torch.zeros_like(cut) if zero is None else zero[:, :, rows, :total].expand_as(cut)
        state["layer"] = (state["layer"] + 1) % 4
        return attend(q, k, v, seen & ~gone.expand_as(cut), zero, scale, "zero")

    state = {"at": 0, "layer": 0}
    handle = model(name).text_model.register_forward_pre_hook(
        lambda m, a, k: state.update(at=int(cache_in(k).get_seq_length())), with_kwargs=True
    )
    oracle.dense_attention = mixed
    try:
        with dense(name, {}):
            return generate(name, case)
    finally:
        oracle.dense_attention = attend
        handle.remove()
