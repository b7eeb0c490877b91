"""Mixtures of experts: what a walk costs counts those that run, and rows in chunks are routed as they are together."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import avflow
from avflow.models import Family, Model
from avflow.models.experts import experts_per_token, working_weights
from avflow.walk import chunks
from avflow.walk.cost import layer_flops

SIZES = dict(hidden=64, inner=32, experts=8, run=2)


@pytest.fixture(scope="module")
def mixture():
    """Four layers, the second of which has no experts."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=SIZES["hidden"],
        intermediate_size=96,
        moe_intermediate_size=SIZES["inner"],
        num_experts=SIZES["experts"],
        num_experts_per_tok=SIZES["run"],
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        mlp_only_layers=[1],
    )
    hf = Qwen3MoeForCausalLM(config).eval()
    tiny._sharpen(hf, hf.model.layers)
    return Model(hf, Family())


def test_experts_that_run_are_counted(mixture):
    width, inner = SIZES["hidden"], SIZES["inner"]
    attention = 2 * width * 64 + 2 * width * 32  # q and o, k and v
    sparse = attention + width * SIZES["experts"] + SIZES["run"] * 3 * width * inner
    assert layer_flops(mixture) == [2 * sparse, 2 * (attention + 3 * width * 96), 2 * sparse, 2 * sparse]
    assert chunks.inner_size(mixture) == 96 and experts_per_token(mixture.config) == 2
    more = avflow.estimate(mixture, tiny.text_prompt(64))["clean_flops"]
    mixture.config.num_experts_per_tok = 4
    try:
        assert avflow.estimate(mixture, tiny.text_prompt(64))["clean_flops"] > more
        assert chunks.inner_size(mixture) == 128
    finally:
        mixture.config.num_experts_per_tok = 2


def test_experts_that_are_modules_are_counted_alike():
    experts = torch.nn.ModuleList(torch.nn.Linear(8, 16) for _ in range(4))
    layer = torch.nn.ModuleDict({"experts": experts, "shared_expert": torch.nn.Linear(8, 8)})
    assert working_weights(layer, 1) == 128 + 64 and working_weights(layer, None) == 4 * 128 + 64
    assert working_weights(torch.nn.Linear(8, 16), None) == 128  # of a layer without experts as before


@pytest.mark.filterwarnings("ignore:.*carry forward hooks")
def test_chunks_of_rows_are_routed_as_all_rows_together(mixture, monkeypatch):
    prompt = tiny.text_prompt(64, tokens=50)
    routed: list[torch.Tensor] = []
    gates = [layer.mlp.gate for layer in mixture.layers if hasattr(layer.mlp, "gate")]
    hooks = [gate.register_forward_hook(lambda _m, _a, out: routed.append(out[2])) for gate in gates]
    found = []
    try:
        for chunk in (2048, 7):
            monkeypatch.setattr(chunks, "MLP_CHUNK", chunk)
            routed.clear()
            table = avflow.sweep(mixture, prompt, "video->question", window=1, select="all", check="off").table
            found.append((table["logp_knockout"].to_pylist(), torch.cat(routed)))
    finally:
        for hook in hooks:
            hook.remove()
    assert torch.equal(found[0][1], found[1][1]) and len(found[0][1].unique()) == SIZES["experts"]
    assert found[0][0] == pytest.approx(found[1][0], abs=2e-5)
