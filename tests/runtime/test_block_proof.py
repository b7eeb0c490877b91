"""Blocks prove themselves: with nothing cut and nothing dropped they are the decoder's own run, once per kind."""

from __future__ import annotations

import re
import warnings

import pytest
import tiny
import torch

import avflow
from avflow.errors import AvflowWarning, InputError, UnsupportedModelError
from avflow.models.proof import figures

BLOCKS = ("knockout", "evict")
DIFFER = r"within avflow.(\w+), with nothing (\w+): .* differ by (\d\S*) in a logit, where (\d\S*) is the bound"


def opened(name, model, prompt, **more):
    labels = dict(groups=prompt.groups, items=prompt.items)
    if name == "evict":
        return avflow.evict(model, {"video": 1}, **labels, **more)
    return avflow.knockout(model, "video->question", **labels, **more)


def run(name, model, prompt, **more):
    with opened(name, model, prompt, **more):
        return model.hf(input_ids=prompt.input_ids[None]).logits


def gated(factor=1.5):
    """A decoder whose attention also multiplies its output, if transformers was asked for sdpa: avflow is not told."""
    hf = tiny.decoder("qwen3")
    for layer in hf.model.layers:
        before = layer.self_attn.forward

        def forward(*args, before=before, config=hf.config, **kwargs):
            out, weights = before(*args, **kwargs)
            return (factor * out if config._attn_implementation == "sdpa" else out), weights

        layer.self_attn.forward = forward
    return hf


@pytest.mark.parametrize("name", BLOCKS)
def test_an_attention_that_is_another_one_is_an_error(name):
    model, prompt = avflow.wrap(gated()), tiny.text_prompt(64)
    for _ in range(2):  # not only the first time
        with pytest.raises(UnsupportedModelError, match=DIFFER) as found:
            run(name, model, prompt)
    block, nothing, difference, bound = re.search(DIFFER, str(found.value)).groups()
    assert (block, nothing) == (name, {"knockout": "cut", "evict": "dropped"}[name])
    assert float(difference) > float(bound)
    with pytest.warns(AvflowWarning, match=DIFFER) as warned:
        for _ in range(2):
            run(name, model, prompt, check="warn")
    assert len(warned) == 1
    model.proofs.clear()
    run(name, model, prompt, check="off")
    assert not model.proofs and model.check == "error"


def test_the_two_numbers_are_difference_and_bound():
    prompt, hf = tiny.text_prompt(64), gated()
    with torch.no_grad():
        plain, own = (m(prompt.input_ids[None]).logits[0, -1] for m in (tiny.decoder("qwen3"), hf))
    with pytest.raises(UnsupportedModelError) as found:
        run("knockout", avflow.wrap(hf), prompt)
    difference, bound = map(float, re.search(DIFFER, str(found.value)).groups()[2:])
    assert difference == pytest.approx(float((plain - own).abs().max()), rel=1e-2)
    assert bound == pytest.approx(1e-3 * float(own.max() - own.min()), rel=1e-2)


def test_a_gather_that_is_wrong_is_an_error(monkeypatch):
    """Rows that leave are gathered: the comparison gathers all of them."""
    from avflow.runtime import boundary

    take = boundary.take
    monkeypatch.setattr("avflow.runtime.prefill.take", lambda x, index, dim: take(x, index, dim).roll(1, dim))
    with pytest.raises(UnsupportedModelError, match=DIFFER):
        run("evict", avflow.wrap(tiny.decoder("qwen3")), tiny.text_prompt(64))


@pytest.mark.parametrize("name", BLOCKS)
def test_steps_on_a_cache_are_compared(name, monkeypatch):
    """What only decoding does wrong, as generated tokens would have it."""
    from avflow.runtime import decoding

    attend = decoding.attention
    monkeypatch.setattr(decoding, "attention", lambda q, k, v, *a, **more: attend(q, k, 1.5 * v, *a, **more))
    model, prompt = avflow.wrap(tiny.decoder("qwen3")), tiny.text_prompt(64)
    with pytest.raises(UnsupportedModelError, match=DIFFER):
        run(name, model, prompt)
    with opened(name, model, prompt):
        model.hf(prompt.input_ids[None], use_cache=False)  # takes no step


@pytest.mark.parametrize("name", BLOCKS)
def test_two_decoder_passes_for_a_thousand_prompts(name):
    hf = tiny.decoder("qwen3")
    model, seen, heads = avflow.wrap(hf), [], []
    before = hf.model.forward

    def forward(*args, **kwargs):
        seen.append(kwargs["use_cache"])
        return before(*args, **kwargs)

    hf.model.forward = forward
    hf.register_forward_hook(lambda *_: heads.append(1))
    for seed in range(5):
        run(name, model, tiny.text_prompt(64, seed=seed))
    # Its own; the block's, whose last token is a step on a cache; and what was asked for.
    assert len(seen) == 3 + 5 and len(heads) == 5
    assert figures(model)["kinds"] == figures(model)["compared"] == 1
    run(name, model, tiny.text_prompt(64), check=2)  # the sixth
    run(name, model, tiny.text_prompt(64), check=2)
    run(name, model, tiny.text_prompt(64), check=2)
    assert len(seen) == 14 and figures(model)["compared"] == 2


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize("name", BLOCKS)
def test_generate_beams_padding_and_static_caches_hold(name, kind):
    model = avflow.wrap(tiny.decoder(kind))
    prompts = [tiny.text_prompt(64, tokens=n, seed=n) for n in (40, 32)]
    ids = torch.zeros(2, 40, dtype=torch.long)
    mask = torch.zeros(2, 40, dtype=torch.long)
    groups, items = [], []
    for row, prompt in enumerate(prompts):
        gap = 40 - len(prompt)
        ids[row, gap:], mask[row, gap:] = prompt.input_ids, 1
        groups.append(["template"] * gap + list(prompt.groups))
        items.append([-1] * gap + list(prompt.items))
    labels = dict(groups=groups, items=items)
    block = (
        avflow.evict(model, {"video": 1}, **labels)
        if name == "evict"
        else avflow.knockout(model, "video->question", **labels)
    )
    more = dict(max_new_tokens=3, do_sample=False)
    with block:
        model.hf.generate(input_ids=ids, attention_mask=mask, **more)
        model.hf(input_ids=ids.flip(1), attention_mask=mask.flip(1))  # padding on the right
    with opened(name, model, prompts[0]):
        for extra in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
            model.hf.generate(prompts[0].input_ids[None], **more, **extra)
    found = figures(model)
    assert found["kinds"] >= 3 and found["difference"] <= found["bound"]
    assert all(proof is not None for proof in model.proofs.values())


@pytest.mark.parametrize("name", BLOCKS)
def test_hooks_and_recorded_outputs_see_one_run(name):
    prompt, calls = tiny.text_prompt(64), []
    model = avflow.wrap(tiny.decoder("qwen3"))
    handle = model.layers[2].register_forward_hook(lambda *_: calls.append(1))
    with opened(name, model, prompt):
        first = model.hf(prompt.input_ids[None], output_hidden_states=True).hidden_states
        second = model.hf(prompt.input_ids[None], output_hidden_states=True).hidden_states
    assert calls == [1, 1] and len(model.proofs) == 1
    assert len(first) == len(second) and all(map(torch.equal, first, second))
    run(name, model, prompt)
    assert calls == [1, 1, 1]  # the hook is where it was
    handle.remove()


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("layout", ["interleaved", "silent"])
def test_media_are_encoded_once(omni, layout, name):
    prompt, calls = tiny.av_prompt(layout), []
    omni.proofs.clear()
    (tower,) = (module for name, module in omni.hf.named_modules() if name.split(".")[-1] == "visual")
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    with opened(name, omni, prompt):
        omni.hf(**prompt.model_inputs)
    handle.remove()
    assert len(calls) == 1
    assert figures(omni)["kinds"] == 1 and figures(omni)["prompt"] == f"within avflow.{name}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BLOCKS)
def test_half_precision_is_judged_by_the_models_own_attention(name, dtype):
    prompt = tiny.text_prompt(64)
    model = avflow.wrap(tiny.decoder("qwen3").to(dtype))
    run(name, model, prompt)
    assert figures(model)["difference"] <= figures(model)["bound"]
    hf = tiny.decoder("qwen3").to(dtype)
    before = hf.model.forward

    def forward(*args, **kwargs):
        out = before(*args, **kwargs)
        if "avflow_call" in kwargs:
            out.last_hidden_state = out.last_hidden_state * 1.2
        return out

    hf.model.forward = forward
    with pytest.raises(UnsupportedModelError, match=DIFFER):
        run(name, avflow.wrap(hf), prompt)
    assert hf.config._attn_implementation == "sdpa"


def test_a_decoder_that_needs_a_cache_is_said_not_to_be_compared():
    hf = tiny.decoder("qwen3")
    layer = hf.model.layers[1].self_attn
    before = layer.forward

    def forward(*args, **kwargs):
        kwargs.get("cache", kwargs.get("past_key_values")).get_seq_length()
        return before(*args, **kwargs)

    layer.forward = forward
    model, prompt = avflow.wrap(hf), tiny.text_prompt(64)
    with opened("knockout", model, prompt), pytest.warns(AvflowWarning, match="does not run without a cache"):
        model.hf.generate(prompt.input_ids[None], max_new_tokens=2)
    with opened("knockout", model, prompt), warnings.catch_warnings():
        warnings.simplefilter("error", AvflowWarning)
        model.hf.generate(prompt.input_ids[None], max_new_tokens=2)


@pytest.mark.parametrize("check", ["sometimes", True, 0, -3, 1.5])
def test_other_checks_are_refused(qwen3, check):
    with pytest.raises(InputError, match="pass (one of error, warn, off|N of at least 1)"):
        run("knockout", qwen3, tiny.text_prompt(64), check=check)
