"""The walk's clean row beside the model's own forward: once per model and kind of prompt, in every experiment."""

from __future__ import annotations

import math
import re

import pytest
import tiny
import torch
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

import avflow
from avflow.errors import AvflowWarning, InputError, UnsupportedModelError
from avflow.models import Family, Model
from avflow.models.head import is_plain
from avflow.models.proof import CHECKS, checking, figures

CUT = "video->last"
SMALL = dict(
    vocab_size=tiny.VOCAB,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
DIFFER = r"differ by (\d\S*) in a logit, where (\d\S*) is the bound"


def experiments(model, prompt, **more) -> dict:
    return {
        "sweep": lambda: avflow.sweep(model, prompt, CUT, window=1, select="all", **more),
        "sweep_text": lambda: avflow.sweep_text(model, prompt, CUT, window=1, max_new_tokens=2, **more),
        "attention_share": lambda: avflow.attention_share(model, prompt, layers=[0], **more),
        "attention_map": lambda: avflow.attention_map(model, prompt, layers=[0], **more),
        "answer_lens": lambda: avflow.answer_lens(model, prompt, layers=[0], **more),
        "sinks": lambda: avflow.sinks(model, prompt, layers=[0], **more),
        "pathways": lambda: avflow.pathways(model, prompt, {"question->last": None}, **more),
    }


def scaled(factor: float = 1.01):
    """A decoder that does something behind its layers, which none of them does by itself."""
    hf = tiny.decoder("qwen3")
    hf.model.forward = scale_outputs(hf.model.forward, factor)
    return hf


def scale_outputs(run, factor: float = 1.01):
    def forward(*args, **kwargs):
        out = run(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state * factor
        return out

    return forward


def forwards_of(hf) -> list:
    """Grows by an entry with every forward of the model that reaches its end."""
    seen = []
    hf.register_forward_hook(lambda module, args, out: seen.append(out.logits.shape[1]))
    return seen


@pytest.mark.parametrize("name", tuple(experiments(None, None)))
def test_a_decoder_that_does_more_than_its_layers_is_an_error(name):
    model, prompt = avflow.wrap(scaled()), tiny.text_prompt(64)
    for _ in range(2):  # not only the first time
        with pytest.raises(UnsupportedModelError, match=DIFFER):
            experiments(model, prompt)[name]()
    with pytest.warns(AvflowWarning, match=DIFFER) as found:
        experiments(model, prompt, check="warn")[name]()
    assert len(found) == 1
    model.proofs.clear()
    experiments(model, prompt, check="off")[name]()
    assert not model.proofs and model.check == "error"


def test_a_plan_is_compared_in_its_walks_and_in_its_block():
    prompt = tiny.text_prompt(64)
    plan = dict(groups=["video"], layers=[0, 1], max_accuracy_drop=0.9)
    with pytest.raises(UnsupportedModelError, match=f"the walk's clean run.*{DIFFER}"):
        avflow.plan_eviction(avflow.wrap(scaled()), prompt, **plan)
    model = avflow.wrap(tiny.decoder("qwen3"))
    with torch.no_grad():
        prompt.answer_ids = [int(model.hf(prompt.input_ids[None]).logits[0, -1].argmax())]
    found = avflow.plan_eviction(model, prompt, **plan)
    assert found.steps and found.plan.check["kinds"] == found.plan.check["compared"] == 2
    assert found.results().meta["check"] == found.plan.check


def test_the_two_numbers_are_difference_and_bound():
    hf, prompt = scaled(), tiny.text_prompt(64)
    plain = tiny.decoder("qwen3")
    with torch.no_grad():
        ours, own = (m(prompt.input_ids[None]).logits[0, -1] for m in (plain, hf))
    with pytest.raises(UnsupportedModelError) as found:
        avflow.sweep(avflow.wrap(hf), prompt, CUT, window=1, select="all")
    difference, bound = map(float, re.search(DIFFER, str(found.value)).groups())
    assert difference == pytest.approx(float((ours - own).abs().max()), rel=1e-2)
    assert bound == pytest.approx(1e-3 * float(own.max() - own.min()), rel=1e-2)


def test_one_forward_for_a_thousand_prompts():
    """One per kind of prompt; of its logits only those that predict."""
    hf = tiny.decoder("qwen3")
    model, seen = avflow.wrap(hf), forwards_of(hf)
    prompts = [tiny.text_prompt(64, id=str(i), seed=i, tokens=32 + 4 * (i % 3)) for i in range(12)]
    done = avflow.sweep(model, prompts, CUT, window=1, layers=[0], select="all")
    assert seen == [1]
    avflow.sweep(model, prompts, CUT, window=1, layers=[0], select="all")
    assert seen == [1]
    avflow.sweep(model, tiny.text_prompt(64, answer_ids=(7, 8, 9)), CUT, window=1, layers=[0], select="all")
    assert seen == [1, 3]
    avflow.sweep(model, tiny.text_prompt(64, ids=False), CUT, window=1, layers=[0], select="all")
    assert seen == [1, 3, 1]
    assert done.meta["check"]["kinds"] == 1 and figures(model)["kinds"] == 3


@pytest.mark.parametrize("name", tuple(experiments(None, None)))
def test_every_third_prompt_is_compared_too(name):
    hf = tiny.decoder("qwen3")
    model, seen = avflow.wrap(hf), forwards_of(hf)
    prompts = [tiny.text_prompt(64, id=str(i), seed=i) for i in range(7)]
    if name == "attention_map":  # takes one
        for prompt in prompts:
            done = experiments(model, prompt, check=3)[name]().results()
    else:
        done = experiments(model, prompts, check=3)[name]()
    parts = 2 if name == "sweep_text" else 1  # the first token, and those behind it
    assert len(seen) == 3 * parts and done.meta["check"]["compared"] == 3 * parts
    assert model.check_every is None
    experiments(model, prompts[0])[name]()
    assert len(seen) == 3 * parts


def test_the_worst_of_the_compared_is_kept():
    hf = tiny.decoder("qwen3")
    model = avflow.wrap(hf)
    prompts = [tiny.text_prompt(64, id=str(i), seed=i) for i in range(4)]
    one_by_one = []
    for prompt in prompts:
        model.proofs.clear()
        one_by_one.append(avflow.answer_lens(model, prompt).meta["check"])
    model.proofs.clear()
    found = avflow.answer_lens(model, prompts, check=1).meta["check"]
    worst = max(one_by_one, key=lambda one: one["difference"] / one["bound"])
    assert found == {**worst, "compared": 4}


def test_a_walk_that_goes_wrong_later_is_found_by_the_nth():
    hf = tiny.decoder("qwen3")
    model = avflow.wrap(hf)
    prompts = [tiny.text_prompt(64, id=str(i), seed=i) for i in range(4)]
    avflow.sweep(model, prompts[0], CUT, window=1, select="all")
    hf.model.forward = scale_outputs(hf.model.forward)
    avflow.sweep(model, prompts[1], CUT, window=1, select="all")
    with pytest.raises(UnsupportedModelError, match="prompt '3'.*differ"):
        avflow.sweep(model, prompts[2:], CUT, window=1, select="all", check=3)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_generated_text_is_compared_token_by_token(kind, monkeypatch):
    """The steps after the first token are passes of their own."""
    from avflow.walk import decode

    prompt = tiny.text_prompt(64)
    texts = {"window": 1, "max_new_tokens": 5}
    model = avflow.wrap(tiny.decoder(kind))
    found = avflow.sweep_text(model, prompt, CUT, **texts).meta["check"]
    assert found["kinds"] == 2 and found["difference"] <= found["bound"]
    attend = decode.attention
    monkeypatch.setattr(decode, "attention", lambda q, k, v, *a, **more: attend(q, k, 1.5 * v, *a, **more))
    model.proofs.clear()
    with pytest.raises(UnsupportedModelError, match=f"text that the walk generates without a cut.*{DIFFER}"):
        avflow.sweep_text(model, prompt, CUT, **texts)
    avflow.sweep_text(model, prompt, CUT, window=1, max_new_tokens=1)  # no step after the first token


@pytest.mark.parametrize("answer_ids", [(7,), (7, 8, 9)])
@pytest.mark.parametrize("layout", ["interleaved", "question_first", "silent"])
def test_the_figure_stands_in_the_result(omni, layout, answer_ids):
    prompt = tiny.av_prompt(layout, answer_ids=answer_ids)
    omni.proofs.clear()
    for run in (experiments(omni, prompt)[name] for name in ("sweep", "sweep_text", "attention_share", "answer_lens")):
        check = run().meta["check"]
        assert 0 <= check["difference"] <= check["bound"] == pytest.approx(1e-3 * check["spread"])
        assert check["prompt"] == prompt.id


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_prompts_of_embeddings_and_of_positions_hold(qwen3, ids, positions):
    more = dict(position_ids=torch.arange(3, 43)) if positions else {}
    prompt = tiny.text_prompt(64, ids=ids, answer_ids=(7, 8), **more)
    qwen3.proofs.clear()
    check = avflow.sweep(qwen3, prompt, CUT, window=1, select="all").meta["check"]
    assert check["difference"] <= check["bound"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_holds_and_is_judged_by_the_models_own_attention(dtype):
    prompt = tiny.text_prompt(64)
    half = avflow.wrap(tiny.decoder("qwen3").to(dtype))
    check = avflow.sweep(half, prompt, CUT, window=1, select="all").meta["check"]
    assert check["difference"] <= check["bound"]
    hf = scaled(1.2).to(dtype)
    seen = forwards_of(hf)
    with pytest.raises(UnsupportedModelError, match=DIFFER):
        avflow.sweep(avflow.wrap(hf), prompt, CUT, window=1, select="all")
    assert seen == [1, 1]  # sdpa, then eager
    assert hf.config._attn_implementation == "sdpa"


def test_a_hook_that_only_some_rows_pass_is_found():
    """Activation patching of the last position: in a walk the last row is another run's."""
    model, prompt = avflow.wrap(tiny.decoder("qwen3")), tiny.text_prompt(64)

    def patch(module, args, out):
        out = out.clone()
        out[:, -1] += 0.4
        return out

    model.layers[1].register_forward_hook(patch)
    with pytest.warns(AvflowWarning, match="layers.1 of the decoder"), pytest.raises(UnsupportedModelError):
        avflow.sweep(model, prompt, CUT, window=1, select="all")


@pytest.mark.parametrize("check", ["sometimes", True, ""])
def test_other_words_are_refused(qwen3, check):
    with pytest.raises(InputError, match="pass one of error, warn, off"):
        avflow.sweep(qwen3, tiny.text_prompt(64), CUT, window=1, check=check)
    assert qwen3.check in CHECKS


def test_the_mode_is_put_back(qwen3):
    with pytest.raises(ZeroDivisionError), checking(qwen3, "off"):
        raise ZeroDivisionError
    assert qwen3.check == "error"


def other_heads() -> dict:
    torch.manual_seed(0)
    hfs = {
        "divided": GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
        "multiplied": CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.0625)),
    }
    capped = tiny.decoder("qwen3")
    run = capped.forward

    def forward(*args, **kwargs):
        out = run(*args, **kwargs)
        out.logits = 30 * torch.tanh(out.logits / 30)
        return out

    capped.forward = forward
    hidden = tiny.decoder("qwen3")
    run_hidden = hidden.forward

    def without(*args, **kwargs):
        out = run_hidden(*args, **kwargs)
        out.logits[..., 400:] = -1e9
        return out

    hidden.forward = without
    for hf in hfs.values():
        for p in hf.parameters():
            if p.dim() == 2:
                p.data.mul_(10)
    return {**hfs, "capped": capped, "tokens hidden": hidden}


@pytest.mark.parametrize("name", tuple(other_heads()))
def test_logits_are_those_of_the_models_own_forward(name):
    """Whatever follows the output matrix: in a sweep, in texts, in the lens and in pathways."""
    hf = other_heads()[name].eval()
    model, prompt = Model(hf, Family()), tiny.text_prompt(64, option_ids=(7, 9))
    assert not is_plain(model)
    with torch.no_grad():
        want = hf(prompt.input_ids[None]).logits[0, -1].float().log_softmax(-1)
        text = [int(want.argmax())]
        second = hf(torch.cat([prompt.input_ids, torch.tensor(text)])[None]).logits[0, -1]
    rows = avflow.sweep(model, prompt, CUT, window=1, select="all").table.to_pylist()
    assert all(row["logp_clean"] == pytest.approx(want[7].item(), abs=1e-4) for row in rows)
    lens = avflow.answer_lens(model, prompt, layers=[model.n_layers - 1]).table.to_pylist()
    assert [row["logp"] for row in lens] == pytest.approx([want[7].item(), want[9].item()], abs=1e-4)
    full = avflow.pathways(model, prompt, {"question->last": None}).table.to_pylist()[0]
    assert full["p"] == pytest.approx(math.exp(want[7].item()), abs=1e-4)
    texts = avflow.sweep_text(model, prompt, CUT, window=1, max_new_tokens=2).table.to_pylist()
    assert texts[0]["text_clean"] == model.text([*text, int(second.argmax())])


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
def test_a_plain_head_is_known_as_one(kind):
    for dtype in (torch.float32, torch.bfloat16):
        assert is_plain(avflow.wrap(tiny.decoder(kind).to(dtype)))


def test_the_omni_head_is_known_as_plain(omni):
    omni.hf.model.rope_deltas = marker = torch.tensor([[5]])
    assert is_plain(omni) and omni.hf.model.rope_deltas is marker
    omni.hf.model.rope_deltas = None
