"""Attention that scales its queries by position (Ministral 3): every row at its own place, in every kind of run."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from transformers import CONFIG_MAPPING

import avflow
from avflow.knockouts.presets import as_knockouts
from avflow.models import Family, Model
from avflow.walk.places import places_of, wants_places, with_places


@pytest.fixture(scope="module")
def model():
    """Beyond 8 tokens queries grow with their position: a row at another's place would be wrong."""
    if "ministral3" not in CONFIG_MAPPING:
        pytest.skip("this transformers has no ministral3")
    from transformers import Ministral3ForCausalLM

    torch.manual_seed(0)
    rope = dict(rope_type="default", rope_theta=1e4, llama_4_scaling_beta=0.7, original_max_position_embeddings=8)
    config = CONFIG_MAPPING["ministral3"](
        vocab_size=tiny.VOCAB,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=None,
        rope_parameters=rope,
        pad_token_id=0,
    )
    hf = Ministral3ForCausalLM(config).eval()
    tiny._sharpen(hf, hf.model.layers)
    return Model(hf, Family())


def test_a_sweep_over_several_prompts_and_answers_of_several_tokens(model):
    prompts = [tiny.text_prompt(64, tokens=30 + 9 * n, seed=n, answer_ids=(7, 30, 9)[: n + 1]) for n in range(3)]
    for n, prompt in enumerate(prompts):
        prompt.id = str(n)
    knockouts = as_knockouts(["video->question", "question->last", "all->last"])
    rows = avflow.sweep(model, prompts, knockouts=knockouts, select="all", window=1).table.to_pylist()
    for prompt in prompts:
        own = [row for row in rows if row["prompt"] == prompt.id]
        assert oracle.check_rows(model.hf, prompt, knockouts, own, window=1) > 1e-3


def test_positions_of_the_callers(model):
    prompt = tiny.text_prompt(64)
    prompt.position_ids = torch.arange(len(prompt)) * 3
    knockouts = as_knockouts(["video->question"])
    rows = avflow.sweep(model, prompt, knockouts=knockouts, select="all", window=1).table.to_pylist()
    assert oracle.check_rows(model.hf, prompt, knockouts, rows, window=1) > 1e-3


def test_text_that_a_walk_generates(model):
    prompt = tiny.text_prompt(64)
    with torch.no_grad():
        made = model.hf.generate(prompt.input_ids[None], max_new_tokens=5, do_sample=False)[0, len(prompt) :]
    found = avflow.sweep_text(model, prompt, "video->question", window=1, layers=[0], max_new_tokens=5).table
    assert found["text_clean"][0].as_py() == " ".join(map(str, made.tolist()))
    with avflow.knockout(model, "video->question", layers=[0], groups=prompt), torch.no_grad():
        cut = model.hf.generate(prompt.input_ids[None], max_new_tokens=5, do_sample=False)[0, len(prompt) :]
    assert found["text_knockout"][0].as_py() == " ".join(map(str, cut.tolist()))


def test_what_looks_in(model):
    prompt, saved = tiny.text_prompt(64), {}
    with torch.no_grad(), oracle.dense(model.hf, {}, saved=saved):
        logits = model.hf(prompt.input_ids[None]).logits[0, -1]
    for row in avflow.attention_share(model, prompt).table.to_pylist():
        mine = torch.tensor([group == row["group"] for group in prompt.groups])
        assert row["share"] == pytest.approx(float(saved[row["layer"]][0, :, -1, mine].sum(-1).mean()), abs=1e-5)
    last = avflow.answer_lens(model, prompt, layers=[2]).table.to_pylist()[0]
    assert last["logp"] == pytest.approx(float(logits.log_softmax(-1)[prompt.answer_ids[0]]), abs=1e-4)


def test_without_places_it_would_be_refused(model, monkeypatch):
    monkeypatch.setattr("avflow.walk.walk.with_places", lambda model, places: [])
    with pytest.raises(avflow.UnsupportedModelError, match="does not run on hidden states and rotary tables"):
        avflow.sweep(model, tiny.text_prompt(64), "video->question", select="all")


def test_which_attention_wants_them(model, qwen3):
    assert all(wants_places(layer.self_attn) for layer in model.layers)
    assert not any(wants_places(layer.self_attn) for layer in qwen3.layers)
    assert with_places(qwen3, lambda layer: torch.zeros(1, 1)) == []
    device = torch.device("cpu")
    assert places_of(None, 3, device).tolist() == [[0, 1, 2]]
    assert places_of(torch.tensor([[4, 5]]), 2, device).tolist() == [[4, 5]]
    assert places_of(torch.tensor([[[4, 5]], [[1, 1]], [[2, 2]]]), 2, device).tolist() == [[4, 5]]
