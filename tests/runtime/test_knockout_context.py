"""avflow.knockout around the model's own forward and generate equals the oracle, and leaves nothing behind."""

from __future__ import annotations

import copy

import oracle
import pytest
import tiny
import torch
from transformers import DynamicCache

import avflow
from avflow.models.compat import cache_argument, cache_of

CACHE = cache_argument()

KNOCKOUT = avflow.Knockout.parse("video->question")
LAYERS = range(1, 3)


def dense_cuts(model, knockout, rows: list[tuple[list[str], list[int]]], layers, total: int) -> dict[int, torch.Tensor]:
    """Oracle masks for a batch; every token after the labelled ones is an answer."""
    masks = []
    for groups, items in rows:
        more = total - len(groups)
        masks.append(oracle.cut_edges(knockout, [*groups, *["answer"] * more], [*items, *[-1] * more], model.n_heads))
    return {layer: torch.stack(masks) for layer in layers}


def inputs_of(prompt) -> dict:
    return dict(prompt.model_inputs or {"input_ids": prompt.input_ids[None]})


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("layout", ["interleaved", "separate"])
def test_forward(omni, layout, semantics):
    prompt = tiny.av_prompt(layout)
    labels = [(prompt.groups, prompt.items)]
    for knockout in (KNOCKOUT, avflow.Knockout.parse("audio<->video"), avflow.Knockout("all", "video", cut_self=True)):
        with avflow.knockout(omni, knockout, LAYERS, semantics, groups=prompt.groups, items=prompt.items):
            ours = omni.hf(**inputs_of(prompt)).logits
        with oracle.dense(omni.hf, dense_cuts(omni, knockout, labels, LAYERS, len(prompt)), semantics), torch.no_grad():
            theirs = omni.hf(**inputs_of(prompt)).logits
        with torch.no_grad():
            clean = omni.hf(**inputs_of(prompt)).logits
        assert (ours - theirs).abs().max() < 2e-4
        assert (ours - clean).abs().max() > 1e-2


def test_equals_the_sweep(omni):
    prompt = tiny.av_prompt("interleaved")
    row = avflow.sweep(omni, prompt, "video->question", window=2, layers=[2], select="all").table.to_pylist()[0]
    layers = range(row["first_layer"], row["last_layer"] + 1)
    with avflow.knockout(omni, "video->question", layers, groups=prompt.groups):
        logits = omni.hf(**inputs_of(prompt)).logits[0, -1]
    assert torch.log_softmax(logits, -1)[7].item() == pytest.approx(row["logp_knockout"], abs=1e-4)


def test_several_knockouts_and_heads(qwen3):
    prompt = tiny.text_prompt(64)
    both = [avflow.Knockout("video", "question", heads=(1,)), avflow.Knockout("audio", "last")]
    with avflow.knockout(qwen3, both, groups=prompt.groups, items=prompt.items):
        ours = qwen3.hf(prompt.input_ids[None]).logits
    labels = [(prompt.groups, prompt.items)]
    one, two = (dense_cuts(qwen3, k, labels, range(4), len(prompt)) for k in both)
    with oracle.dense(qwen3.hf, {layer: one[layer] | two[layer] for layer in range(4)}), torch.no_grad():
        theirs = qwen3.hf(prompt.input_ids[None]).logits
    assert (ours - theirs).abs().max() < 2e-4


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}], ids=str
)
@pytest.mark.parametrize("rule", ["video->question", "video->answer", "all->answer"])
def test_generate(omni, how, rule):
    prompt = tiny.av_prompt("interleaved", seconds=3)
    knockout = avflow.Knockout.parse(rule)
    new = 6
    plain = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, num_beams=how.get("num_beams", 1))
    plain |= dict(output_logits=True, return_dict_in_generate=True)
    with avflow.knockout(omni, knockout, LAYERS, groups=prompt.groups, items=prompt.items):
        ours = omni.hf.generate(**inputs_of(prompt), **(plain | how))
    cuts = dense_cuts(omni, knockout, [(prompt.groups, prompt.items)], LAYERS, len(prompt) + new)
    with oracle.dense(omni.hf, cuts):  # static cache and prompt lookup give the tokens of plain decoding
        theirs = omni.hf.generate(**inputs_of(prompt), **plain)
    clean = omni.hf.generate(**inputs_of(prompt), **plain)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    logits = [torch.stack([step[: len(run.logits[0])] for step in run.logits]) for run in (ours, theirs, clean)]
    assert (logits[0] - logits[1]).abs().max() < 2e-3
    assert (logits[0] - logits[2]).abs().max() > 2e-2  # else a knockout that does nothing would pass


def left_padded(prompts) -> tuple[dict, list[list[str]], list[list[int]]]:
    n = max(len(p) for p in prompts)
    ids, mask = torch.zeros(len(prompts), n, dtype=torch.long), torch.zeros(len(prompts), n, dtype=torch.long)
    groups, items = [], []
    for b, p in enumerate(prompts):
        ids[b, n - len(p) :], mask[b, n - len(p) :] = p.input_ids, 1
        groups.append(["template"] * (n - len(p)) + list(p.groups))
        items.append([-1] * (n - len(p)) + list(p.items))
    return dict(input_ids=ids, attention_mask=mask), groups, items


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}], ids=str)
def test_left_padding(qwen3, how):
    prompts = [tiny.text_prompt(64, tokens=40, seed=2), tiny.text_prompt(64, tokens=28, seed=3)]
    batch, groups, items = left_padded(prompts)
    how = how | dict(max_new_tokens=5, min_new_tokens=5, do_sample=False)
    with avflow.knockout(qwen3, KNOCKOUT, LAYERS, groups=groups, items=items):
        together = qwen3.hf.generate(**batch, **how)
        forward = qwen3.hf(**batch).logits
    for b, p in enumerate(prompts):
        with oracle.dense(qwen3.hf, dense_cuts(qwen3, KNOCKOUT, [(p.groups, p.items)], LAYERS, len(p) + 5)):
            alone = qwen3.hf.generate(p.input_ids[None], **how)
            with torch.no_grad():
                logits = qwen3.hf(p.input_ids[None]).logits
        assert together[b, -5:].tolist() == alone[0, -5:].tolist()
        assert (forward[b, -1] - logits[0, -1]).abs().max() < 2e-3


@pytest.mark.parametrize("argument", dict.fromkeys([CACHE, "past_key_values"]))  # 5.24's new name, and the old one
def test_second_turn_and_chunks(qwen3, argument):
    """Turn 1, three decode steps, then several tokens at once on the same cache: rows align at the end of the keys."""
    prompt = tiny.text_prompt(64)
    n, more = len(prompt), [31, 41, 59, 26]
    ids = torch.cat([prompt.input_ids, torch.tensor([11, 12, 13, *more])])[None]
    names = [*prompt.groups, *["answer"] * 3, *["question_text"] * 4]
    items = [*prompt.items, *[-1] * 7]
    with oracle.dense(qwen3.hf, dense_cuts(qwen3, KNOCKOUT, [(names, items)], LAYERS, len(names))), torch.no_grad():
        whole = qwen3.hf(ids).logits[0]
    cache = DynamicCache(config=qwen3.config)
    with avflow.knockout(qwen3, KNOCKOUT, LAYERS, groups=names, items=items):
        first = qwen3.hf(ids[:, :n], **{argument: cache}).logits[0]
        steps = [qwen3.hf(ids[:, n + i : n + i + 1], **{argument: cache}).logits[0] for i in range(3)]
        saved = copy.deepcopy(cache)
    with avflow.knockout(qwen3, KNOCKOUT, LAYERS, groups=names, items=items):  # a later block goes on with the cache
        second = qwen3.hf(ids[:, n + 3 :], **{argument: cache}).logits[0]
        again = qwen3.hf(ids[:, n + 3 :], **{argument: saved}).logits[0]
    assert (torch.cat([first, *steps, second]) - whole).abs().max() < 2e-4
    assert torch.equal(second, again)


def test_second_turn_of_generate(qwen3):
    prompt = tiny.text_prompt(64)
    how = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False)
    more = torch.tensor([[31, 41, 59]])
    n = len(prompt)
    names = [*prompt.groups, *["answer"] * 4, *["question_text"] * 3]
    items = [*prompt.items, *[-1] * 7]
    cache = DynamicCache(config=qwen3.config)
    with avflow.knockout(qwen3, KNOCKOUT, LAYERS, groups=names[:n], items=items[:n]):
        one = qwen3.hf.generate(prompt.input_ids[None], **{CACHE: cache}, **how)
    with avflow.knockout(qwen3, KNOCKOUT, LAYERS, groups=names, items=items):
        two = qwen3.hf.generate(torch.cat([one, more], 1), **{CACHE: cache}, **how)
    cuts = dense_cuts(qwen3, KNOCKOUT, [(names, items)], LAYERS, len(names) + 4)
    with oracle.dense(qwen3.hf, cuts):
        theirs = qwen3.hf.generate(torch.cat([one, more], 1), **how)
    assert two.tolist() == theirs.tolist()


def test_everything_is_put_back(omni):
    prompt = tiny.av_prompt("interleaved")
    implementation = omni.config._attn_implementation
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in omni.hf.modules()]
    attributes = {id(m): set(m.__dict__) for m in omni.hf.modules()}
    with torch.no_grad():
        before = omni.hf(**inputs_of(prompt)).logits
    with pytest.raises(KeyError, match="on purpose"):
        with avflow.knockout(omni, KNOCKOUT, groups=prompt.groups, items=prompt.items):
            omni.hf(**inputs_of(prompt))
            raise KeyError("on purpose")
    avflow.sweep(omni, prompt, "video->question", select="all")
    with torch.no_grad():
        after = omni.hf(**inputs_of(prompt)).logits
    assert torch.equal(before, after)
    assert omni.config._attn_implementation == implementation
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in omni.hf.modules()]
    assert attributes == {id(m): set(m.__dict__) for m in omni.hf.modules()}
    assert torch.is_grad_enabled()


def test_errors(omni, qwen3):
    prompt = tiny.text_prompt(64)
    with pytest.raises(avflow.InputError, match=r"layers \[4, 9\] are out of range: the model has layers 0 .. 3"):
        with avflow.knockout(omni, KNOCKOUT, layers=[1, 4, 9]):
            pass
    with pytest.raises(avflow.InputError, match="head 4 is out of range"):
        with avflow.knockout(qwen3, avflow.Knockout("video", "last", heads=4)):
            pass
    with pytest.raises(avflow.InputError, match="no group or alias is called 'vidoe'"):
        with avflow.knockout(qwen3, "vidoe->last"):
            pass
    embeds = qwen3.hf.get_input_embeddings()(prompt.input_ids)[None].detach()
    with avflow.knockout(qwen3, KNOCKOUT):
        with pytest.raises(avflow.InputError, match="from inputs_embeds: pass input_ids, or groups"):
            qwen3.hf(inputs_embeds=embeds)
        with pytest.raises(avflow.UnsupportedModelError, match="pass groups"):
            qwen3.hf(prompt.input_ids[None])
    with avflow.knockout(qwen3, KNOCKOUT, groups=prompt.groups):
        assert qwen3.hf(inputs_embeds=embeds).logits.shape[1] == len(prompt)
        with pytest.raises(avflow.InputError, match=f"groups names {len(prompt)} tokens, but tokens 0 .. 42 are read"):
            qwen3.hf(torch.ones(1, 43, dtype=torch.long))
        with pytest.raises(avflow.InputError, match=r"attention_mask has shape \(1, 1, 40, 40\)"):
            qwen3.hf(prompt.input_ids[None], attention_mask=torch.ones(1, 1, 40, 40, dtype=torch.bool).tril())
        with pytest.raises(avflow.InputError, match="not its decoder alone"):
            qwen3.text_model(prompt.input_ids[None])
    with torch.no_grad():
        cache = cache_of(qwen3.hf(prompt.input_ids[None], use_cache=True))
    with avflow.knockout(qwen3, KNOCKOUT, groups=prompt.groups):
        with pytest.raises(avflow.InputError, match="the cache holds 40 tokens, of which 0 are labelled"):
            qwen3.hf(torch.ones(1, 1, dtype=torch.long), **{CACHE: cache})


def real_prompt(layout: str = "interleaved"):
    """The demo's model and one of its samples, read from a real clip with sound."""
    from demo_folder import demo, model

    sample = avflow.Sample.read_jsonl(demo()["samples"])[0]
    if layout == "silent":
        return model(), model().prepare(sample, use_audio_in_video=False)
    return model(), model().prepare(sample)


@pytest.mark.parametrize("layout", ["interleaved", "silent"])
def test_frames_are_told_from_the_grid(layout):
    """Without labels of the user's, in forward and in generate, cross:video cuts between the real frames."""
    model, prompt = real_prompt(layout)
    inputs = inputs_of(prompt)
    row = avflow.sweep(model, prompt, "cross:video", window=3, layers=[1], select="all").table.to_pylist()[0]
    layers = range(row["first_layer"], row["last_layer"] + 1)
    with avflow.knockout(model, "cross:video", layers):
        forward = model.hf(**inputs).logits[0, -1]
        generated = model.hf.generate(
            **inputs, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
        ).logits[0][0]
    for logits in (forward, generated):
        logp = torch.log_softmax(logits.float(), -1)[prompt.answer_ids[0]].item()
        assert logp == pytest.approx(row["logp_knockout"], abs=1e-4)
    assert abs(row["logp_knockout"] - row["logp_clean"]) > 1e-4


def test_a_batch_takes_each_row_its_own_grids():
    model, prompt = real_prompt("silent")
    inputs = inputs_of(prompt)
    twice = {k: torch.cat([v, v]) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    with avflow.knockout(model, "cross:video", range(3)):
        one, two = model.hf(**inputs).logits, model.hf(**twice).logits
    assert torch.allclose(two[0], one[0], atol=1e-4) and torch.allclose(two[1], one[0], atol=1e-4)


def test_items_that_nobody_knows_are_an_error(omni):
    model, prompt = real_prompt()
    with pytest.raises(avflow.InputError, match="cross:video.*none"):
        with avflow.knockout(model, "cross:video", groups=prompt.groups):
            model.hf(**inputs_of(prompt))
    assert model.text_model.config._attn_implementation != "avflow"
