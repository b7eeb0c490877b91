"""A walk is what the model itself computes, or says that it is not: replaced attention, hooks, training, autocast."""

from __future__ import annotations

import types
import warnings

import pytest
import tiny
import torch
from torch.nn import functional
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

import avflow
from avflow.errors import AvflowWarning, InputError, UnsupportedModelError

CUT = "video->last"


def own_attention(self, hidden_states, position_embeddings, attention_mask=None, cache=None, **kwargs):
    """An attention forward as fine-tuning libraries install it: right, and deaf to transformers' attention function."""
    b, n, _ = hidden_states.shape
    q, k, v = (
        p(hidden_states).view(b, n, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
    )
    q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
    if cache is not None:
        k, v = cache.update(k, v, self.layer_idx)
    k, v = repeat_kv(k, self.num_key_value_groups), repeat_kv(v, self.num_key_value_groups)
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] == k.shape[2], scale=self.scaling)
    return self.o_proj(out.transpose(1, 2).reshape(b, n, -1)), None


@pytest.fixture
def replaced():
    """A model whose layer 2 has an attention forward of somebody else's."""
    hf = tiny.decoder("qwen2")
    attention = hf.model.layers[2].self_attn
    attention.forward = types.MethodType(own_attention, attention)
    return avflow.wrap(hf)


def runs(model, prompt):
    """Ways to run the model, by name."""

    def block(open_block):
        with open_block:
            model.hf(input_ids=prompt.input_ids[None])

    def knockout():
        block(avflow.knockout(model, CUT, groups=prompt.groups, items=prompt.items))

    def evict(after):
        block(avflow.evict(model, {"video": after}, groups=prompt.groups, items=prompt.items))

    return {
        "sweep": lambda: avflow.sweep(model, prompt, CUT, window=1, select="all"),
        "text": lambda: avflow.sweep_text(model, prompt, CUT, window=1, max_new_tokens=2),
        "share": lambda: avflow.attention_share(model, prompt),
        "lens": lambda: avflow.answer_lens(model, prompt),
        "knockout": knockout,
        "evict": lambda: evict(1),
        "evict late": lambda: evict(2),
    }


@pytest.mark.parametrize("run", tuple(runs(None, None)))
def test_a_replaced_attention_forward_is_an_error(replaced, run):
    message = r"attention of decoder layer 2 \(Qwen2DecoderLayer\) did not go .*self_attn.forward is .*own_attention"
    with pytest.raises(UnsupportedModelError, match=message):
        runs(replaced, tiny.text_prompt(64))[run]()


def test_a_replaced_forward_that_calls_the_attention_function_is_served():
    prompt = tiny.text_prompt(64)
    hf = tiny.decoder("qwen2")
    plain = avflow.sweep(avflow.wrap(hf), prompt, CUT, window=1, select="all").table.to_pylist()
    for layer in hf.model.layers:
        before = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, before=before, **kwargs: before(*args, **kwargs)
    assert avflow.sweep(avflow.wrap(hf), prompt, CUT, window=1, select="all").table.to_pylist() == plain


def test_attention_that_is_asked_for_twice_is_an_error():
    hf = tiny.decoder("qwen2")
    attention = hf.model.layers[1].self_attn
    before = attention.forward
    attention.forward = lambda *a, **k: (before(*a, **{**k, "cache": None}), before(*a, **k))[1]
    for name in ("sweep", "knockout"):
        with pytest.raises(UnsupportedModelError, match="decoder layer 1 .* asked for attention 2 times"):
            runs(avflow.wrap(hf), tiny.text_prompt(64))[name]()


@pytest.mark.parametrize("run", ["sweep", "text", "share", "lens", "knockout", "evict"])
def test_training_mode_is_left_for_the_run_alone(run):
    """Dropout in the model changes nothing, one warning says so, and the modules are as they were."""
    prompt = tiny.text_prompt(64)
    hf = tiny.decoder("qwen2")
    hf.model.layers[1].mlp.down_proj = torch.nn.Sequential(hf.model.layers[1].mlp.down_proj, torch.nn.Dropout(0.5))
    hf.eval()
    model = avflow.wrap(hf)
    first = runs(model, prompt)[run]()
    hf.model.layers[1].train()
    before = {name for name, module in hf.named_modules() if module.training}
    with pytest.warns(AvflowWarning, match=r"training mode .*model.hf.eval") as found:
        again = [runs(model, prompt)[run]() for _ in range(2)]
    assert len(found) == 1 and found[0].filename == __file__
    assert {name for name, module in hf.named_modules() if module.training} == before
    if first is not None:
        assert all(one.table.equals(first.table) for one in again)


class _DroppingHead(torch.nn.Linear):
    """An output matrix as an adapter makes it: in training mode it drops some of what it reads."""

    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("experiment", ["sweep", "answer_lens", "pathways", "sweep_text"])
def test_the_output_matrix_is_in_eval_mode_too(experiment):
    prompt, hf = tiny.text_prompt(64), tiny.decoder("qwen2")
    head = _DroppingHead(hf.lm_head.in_features, hf.lm_head.out_features, bias=False)
    head.weight = hf.lm_head.weight
    hf.lm_head = head.eval()
    model = avflow.wrap(hf)
    more = {"sweep": {"knockouts": CUT, "select": "all"}, "sweep_text": {"knockouts": CUT, "max_new_tokens": 3}}
    more["pathways"] = {"keep": {CUT: None}}

    def rows():
        return getattr(avflow, experiment)(model, prompt, **more.get(experiment, {})).table

    first = rows()
    head.train()
    assert rows().equals(first) and head.training


def test_training_mode_is_left_and_put_back_after_an_error(qwen3):
    qwen3.hf.train()
    try:
        with pytest.warns(AvflowWarning), pytest.raises(ZeroDivisionError):
            with avflow.knockout(qwen3, CUT, groups=["last"]):
                assert not any(m.training for m in qwen3.hf.modules())
                raise ZeroDivisionError
        assert all(m.training for m in qwen3.hf.modules())
    finally:
        qwen3.hf.eval()
        qwen3.warned.clear()


def test_hooks_on_the_decoder_are_named_once():
    model, prompt = avflow.wrap(tiny.decoder("qwen3")), tiny.text_prompt(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AvflowWarning)
        model.hf(prompt.input_ids[None], output_hidden_states=True)  # leaves hooks of transformers' own
        runs(model, prompt)["sweep"]()
        handle = model.layers[1].mlp.register_forward_hook(lambda module, args, out: out)
        runs(model, prompt)["share"]()  # one sequence: the hook sees what it expects
        runs(model, prompt)["knockout"]()
    with pytest.warns(AvflowWarning, match=r"^layers.1.mlp of the decoder carry forward hooks.*avflow.knockout"):
        runs(model, prompt)["sweep"]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AvflowWarning)
        runs(model, prompt)["sweep"]()
    handle.remove()


@pytest.mark.parametrize("run", ["sweep", "share", "knockout", "evict"])
def test_autocast_is_a_clear_error(qwen3, run):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=r"leave torch.autocast"):
        runs(qwen3, tiny.text_prompt(64))[run]()


def test_an_experiment_within_a_block_is_an_error(qwen3):
    prompt = tiny.text_prompt(64)
    with avflow.knockout(qwen3, CUT, groups=prompt.groups, items=prompt.items):
        for name in ("sweep", "share", "text"):
            with pytest.raises(InputError, match=r"within a block of avflow.knockout .* leave the block"):
                runs(qwen3, prompt)[name]()
    runs(qwen3, prompt)["sweep"]()


def test_a_second_wrap_of_a_model_takes_no_block_beside_the_first(qwen3):
    prompt = tiny.text_prompt(64)
    other = avflow.wrap(qwen3.hf)
    with avflow.knockout(qwen3, CUT, groups=prompt.groups):
        with pytest.raises(InputError, match="wrapped twice"), avflow.knockout(other, CUT):
            pass
        with pytest.raises(InputError, match="within a block of avflow.knockout"):
            avflow.attention_share(other, prompt)
    runs(other, prompt)["knockout"]()


def test_the_output_matrix_is_that_of_now():
    """Resized embeddings make a new one after the model was wrapped."""
    prompt = tiny.text_prompt(64)
    model = avflow.wrap(tiny.decoder("qwen3"))
    runs(model, prompt)["sweep"]()
    model.hf.resize_token_embeddings(tiny.VOCAB + 64)
    assert model.hf.lm_head.training  # transformers makes it so; a matrix does the same in either mode
    with torch.no_grad():
        model.hf.lm_head.weight[tiny.VOCAB :] = 3 * model.hf.lm_head.weight[:64]
        want = model.hf(prompt.input_ids[None]).logits[0, -1].log_softmax(-1)[7].item()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AvflowWarning)
        got = runs(model, prompt)["sweep"]().table["logp_clean"][0].as_py()
    assert got == pytest.approx(want, abs=1e-4) and model.vocab == tiny.VOCAB + 64
