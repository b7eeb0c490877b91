"""Layers run by avflow's passes: the bits of the model's own where plain torch takes the kernels' place, else close."""

from __future__ import annotations

import copy

import pytest
import tiny
import tiny_families
import torch
import transformers
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import avflow
from avflow.models import fused
from avflow.models.attention import register
from avflow.models.compat import attention_name, attributes
from avflow.models.fused import fused_layers
from avflow.walk.layers import run_layers

EVERY = (torch.float32, *fused.DTYPES)


@pytest.fixture(autouse=True)
def every_dtype(monkeypatch):
    monkeypatch.setattr(fused, "DTYPES", EVERY)


class Counted:
    """The passes, and how often each was asked for."""

    def __init__(self, ops):
        self.ops, self.times = ops, {}

    def __getattr__(self, name):
        def call(*given):
            self.times[name] = self.times.get(name, 0) + 1
            return getattr(self.ops, name)(*given)

        return call


def mixed(module, q, k, v, mask, scale):
    """Attention to all rows: [1, rows, heads, d]."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return ((q @ k.transpose(2, 3) * scale).softmax(-1) @ v).transpose(1, 2)


@torch.no_grad()
def through_layers(model, patches, rows=7):
    """Hidden states [1, rows, D] behind all layers."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, rows, model.config.hidden_size, generator=g).to(model.dtype)
    angles = torch.randn(1, rows, model.head_dim, generator=g)
    tables = angles.cos().to(model.dtype), angles.sin().to(model.dtype)
    with attributes(patches):
        return run_layers(model, hidden, tables, lambda layer: mixed)


def assert_close(ours, expected):
    spread = expected.float().std()
    bound = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}[expected.dtype]
    assert (ours.float() - expected.float()).abs().max() <= bound * spread * 4


def model_of(name, folder):
    if name not in tiny_families.names():
        return avflow.wrap(tiny.decoder(name))
    found = tiny_families.family(name)
    for package in getattr(found, "NEEDS", ()):
        pytest.importorskip(package)
    return avflow.load(found.build(folder))


@pytest.mark.parametrize("name", [*tiny_families.names(), "qwen2", "qwen3", "llama", "mistral"])
def test_every_family_takes_part_with_its_own_bits(name, tmp_path, monkeypatch):
    model = model_of(name, tmp_path)
    expected = through_layers(model, [])
    plain = Counted(fused._PLAIN)
    monkeypatch.setattr(fused, "_KERNELS", plain)
    assert torch.equal(through_layers(model, fused_layers(model)), expected)
    n = model.n_layers
    assert plain.times["add_rms_norm"] == plain.times["rotary"] == n and plain.times["rms_norm"] >= n
    assert plain.times.get("silu_mul", 0) == sum(hasattr(layer.mlp, "gate_proj") for layer in model.layers)
    monkeypatch.undo()
    monkeypatch.setattr(fused, "DTYPES", EVERY)
    assert_close(through_layers(model, fused_layers(model)), expected)
    assert not any("forward" in part.__dict__ for part in model.text_model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves(dtype):
    model = avflow.wrap(tiny.decoder("qwen3").to(dtype))
    patches = fused_layers(model)
    assert len(patches) == 5 * model.n_layers
    assert_close(through_layers(model, patches), through_layers(model, []))


# ---------------------------------------------------------------- in experiments


EXPERIMENTS = {
    "sweep": lambda model, prompt: avflow.sweep(model, prompt, "av_video", window=2, select="all"),
    "text": lambda model, prompt: avflow.sweep_text(model, prompt, "av_video", window=2, max_new_tokens=3),
    "lens": lambda model, prompt: avflow.answer_lens(model, prompt),
}


def columns_of(results):
    return {name: results.table.column(name).to_pylist() for name in results.table.column_names}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_have_the_bits_of_the_model(experiment, omni, monkeypatch):
    """In the whole walk: rows that join, chunks, the last layer's few rows, decoding."""
    prompt, run = tiny.av_prompt("interleaved"), EXPERIMENTS[experiment]
    monkeypatch.setattr(fused, "DTYPES", ())
    expected = columns_of(run(omni, prompt))
    monkeypatch.setattr(fused, "DTYPES", EVERY)
    counted = Counted(fused._PLAIN)
    monkeypatch.setattr(fused, "_KERNELS", counted)
    assert columns_of(run(omni, prompt)) == expected
    assert set(counted.times) == {"rms_norm", "add_rms_norm", "rotary", "silu_mul"}
    monkeypatch.setattr(fused, "_KERNELS", kernels := Counted(KERNELS))
    found = columns_of(run(omni, prompt))
    assert kernels.times == counted.times
    for name, column in expected.items():
        if column and isinstance(column[0], float):
            assert found[name] == pytest.approx(column, abs=2e-3), name


KERNELS = fused._KERNELS


def test_float32_stays_with_plain_torch(omni, monkeypatch):
    """Its results are compared bit for bit between versions."""
    monkeypatch.undo()
    assert fused_layers(omni) == []
    assert fused_layers(avflow.wrap(tiny.decoder("qwen3").bfloat16()))


# ---------------------------------------------------------------- who does not take part


def taking_part(model):
    names = {id(layer): index for index, layer in enumerate(model.layers)}
    return sorted(names[id(owner)] for owner, _, _ in fused_layers(model) if id(owner) in names)


class Adapter(nn.Linear):
    """A projection as an adapter makes it."""


def spoiled(layer):
    """Changes to a layer, each of which keeps it from taking part."""
    yield "adapter", lambda: setattr(layer.self_attn.q_proj, "__class__", Adapter)
    yield "hook", lambda: layer.self_attn.register_forward_hook(lambda *_: None)
    yield "hook on a projection", lambda: layer.mlp.up_proj.register_forward_pre_hook(lambda *_: None)
    yield "patched norm", lambda: setattr(layer.post_attention_layernorm, "forward", lambda x: x)
    yield "patched layer", lambda: setattr(layer, "forward", lambda x, **_: x)
    yield "quantised", lambda: layer.mlp.up_proj.to(torch.float16)
    yield "another activation", lambda: setattr(layer.mlp, "act_fn", nn.GELU())
    yield "one more part", lambda: setattr(layer, "third_norm", nn.LayerNorm(64))
    yield "own class", lambda: setattr(layer.mlp, "__class__", type("Mine", (type(layer.mlp),), {}))
    yield "layer norm", lambda: setattr(layer, "input_layernorm", nn.LayerNorm(64))


SPOILED = [name for name, _ in spoiled(None)]


@pytest.mark.parametrize("what", SPOILED)
def test_a_changed_layer_runs_as_it_is(what):
    model = avflow.wrap(tiny.decoder("qwen2", layers=3))
    assert taking_part(model) == [0, 1, 2]
    dict(spoiled(model.layers[1]))[what]()
    patched = {id(owner) for owner, _, _ in fused_layers(model)}
    inside = {id(part) for part in model.layers[1].modules()}
    if what != "another activation":
        assert taking_part(model) == [0, 2] and not patched & inside
    else:  # its MLP runs as it is
        assert taking_part(model) == [0, 1, 2] and id(model.layers[1].mlp) not in patched


def test_a_layer_without_a_norm_of_queries_names_it_as_none():
    """After it was tried too: None is no child, and no setting."""
    model = avflow.wrap(tiny.decoder("qwen2"))
    expected = [(id(owner), name) for owner, name, _ in fused_layers(model)]
    for layer in model.layers:
        layer.self_attn.register_module("q_norm", None)
    assert [(id(owner), name) for owner, name, _ in fused_layers(model)] == expected


def test_other_sums_are_noticed():
    """Layers of the same parts that compute something else: factors on residuals, no rotary embedding in some."""
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4)
    sizes |= dict(num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
    granite = transformers.GraniteForCausalLM(transformers.GraniteConfig(**sizes, residual_multiplier=0.5))
    family = avflow.wrap(tiny.decoder("qwen2")).family  # none is for these: what their layers compute decides alone
    assert taking_part(avflow.Model(granite, family, None)) == []
    smol = transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(**sizes, no_rope_layers=[1, 1, 0, 1]))
    assert taking_part(avflow.Model(smol, family, None)) == [0, 1, 3]


def test_a_class_whose_code_differs_is_noticed(monkeypatch):
    """Same modules, same names, transformers' own module: only what it computes tells."""
    from transformers.models.qwen2 import modeling_qwen2 as module

    model = avflow.wrap(tiny.decoder("qwen2", layers=2))
    own = module.Qwen2RMSNorm.forward

    def in_fp32(self, hidden_states):  # rounded once, not twice: other bits in halves alone
        x = hidden_states.float()
        x = self.weight.float() * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))
        return x.to(hidden_states.dtype)

    monkeypatch.setattr(module.Qwen2RMSNorm, "forward", in_fp32)
    half = avflow.wrap(copy.deepcopy(model.hf).to(torch.bfloat16))
    with torch.no_grad():
        for layer in half.layers:  # weights of 1 round alike
            layer.input_layernorm.weight.uniform_(0.5, 1.5)
    assert taking_part(half) == []
    monkeypatch.setattr(module.Qwen2RMSNorm, "forward", own)
    again = avflow.wrap(copy.deepcopy(half.hf))
    assert taking_part(again) == [0, 1]


def test_code_that_is_exchanged_later_is_noticed(monkeypatch):
    """A class's forward, or a function that it calls, patched between two calls on one model: the layers run it."""
    from transformers.models.qwen2 import modeling_qwen2 as module

    model = avflow.wrap(tiny.decoder("qwen2", layers=2))
    kinds = [module.Qwen2RMSNorm, module.Qwen2MLP, module.Qwen2Attention, type(model.layers[0].mlp.act_fn)]
    for owner, name in [*((kind, "forward") for kind in kinds), (module, "apply_rotary_pos_emb")]:
        assert taking_part(model) == [0, 1]
        own = getattr(owner, name)

        def doubled(*given, own=own, **named):
            found = own(*given, **named)
            return (2 * found[0], *found[1:]) if isinstance(found, tuple) else 2 * found

        monkeypatch.setattr(owner, name, doubled)
        expected = through_layers(model, [])
        assert torch.equal(through_layers(model, fused_layers(model)), expected) and taking_part(model) == [], owner
        monkeypatch.setattr(owner, name, own)


# ---------------------------------------------------------------- while the patches are on


@torch.no_grad()
def test_hooks_that_come_later_are_called(omni):
    """On every part of a layer that takes part already, also on those that the kernels pass over."""
    expected = through_layers(omni, [])
    layer, seen = omni.layers[1], []
    with attributes(fused_layers(omni)):
        handles = [
            part.register_forward_hook(lambda part, args, out, name=name: seen.append(name))
            for name, part in layer.named_modules()
            if name
        ]
        try:
            assert_close(through_layers(omni, []), expected)
        finally:
            for handle in handles:
                handle.remove()
    assert sorted(seen) == sorted(name for name, _ in layer.named_modules() if name)


@torch.no_grad()
@pytest.mark.parametrize("hook", [register_module_forward_hook, register_module_forward_pre_hook])
def test_hooks_of_all_modules_are_called(hook, qwen3):
    """torch's global hooks, set before the layers are looked at or while the patches are on."""
    patches, seen = fused_layers(qwen3), []
    with attributes(patches):
        handle = hook(lambda module, *_: seen.append(module))
        try:
            ours = through_layers(qwen3, [])
            assert fused_layers(qwen3) == []
        finally:
            handle.remove()
    assert {id(part) for part in qwen3.layers.modules()} - {id(qwen3.layers)} == {id(module) for module in seen}
    assert_close(ours, through_layers(qwen3, []))
    assert len(fused_layers(qwen3)) == len(patches)  # nothing is remembered of it


def test_gradients_flow_by_the_models_own_forward(omni):
    hidden = torch.randn(1, 5, omni.config.hidden_size, requires_grad=True)
    tables = (torch.randn(1, 5, omni.head_dim), torch.randn(1, 5, omni.head_dim))
    with attention_name(omni.text_model, register()), attributes(fused_layers(omni)):
        out = omni.layers[0](hidden, attention_mask=None, position_embeddings=tables, avflow_call=mixed)
    out.sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0
    omni.hf.zero_grad()
