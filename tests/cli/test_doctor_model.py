"""`avflow doctor MODEL`: one that is served, one that is refused, one that is not what it seems, one of no family."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from command import avflow_
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from avflow.cli import model_check
from avflow.models.text import TextFamily

SMALL = dict(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)


def saved(folder, kind: str, **more) -> str:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL | more)).float()
    tiny._sharpen(hf, hf.model.layers)
    hf.generation_config.eos_token_id = None
    hf.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def without_tokenizer(monkeypatch):
    monkeypatch.setattr(TextFamily, "load_processor", lambda self, folder, **options: None)


def told(*arguments: str) -> tuple[dict, int]:
    result = avflow_("doctor", *arguments, "--json")
    return json.loads(result.stdout), result.exit_code


def test_a_model_that_is_served(tmp_path, without_tokenizer):
    facts, code = told(saved(tmp_path, "qwen3"))
    assert code == 0 and facts["problems"] == [] and facts["runs"]["verdict"] == "exact"
    assert "4 compared, of 4 kinds" in facts["runs"]["clean runs beside its own forward"]
    apart = facts["runs"]["a group cut in all layers beside evicted"]
    assert 0 <= float(apart.split()[0]) < float(apart.split("bound ")[1].rstrip(")"))
    hf = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = facts["model"]
    assert model["parameters"] == sum(p.numel() for p in hf.parameters()) and model["layers"] == 3
    assert model["heads"] == "4 / 2 of 16"
    assert model["KiB of keys and values per token"] == round(2 * 2 * 3 * 2 * 16 / 1024, 2)
    text = avflow_("doctor", str(tmp_path)).stdout
    assert "exact" in text and "no problem found" in text and "Qwen3ForCausalLM" in text


def test_a_small_model_with_its_tokenizer():
    facts, code = told("tiny-omni")
    assert code == 0 and facts["runs"]["verdict"] == "exact" and facts["model"]["family"] == "Qwen25Omni"


def test_weights_that_are_not_there_or_not_wanted_or_too_large(tmp_path, without_tokenizer, monkeypatch):
    name = saved(tmp_path, "llama")
    facts, code = told(name, "--no-weights")
    assert code == 0 and facts["runs"] == {"verdict": "not run: --no-weights"} and facts["model"]["layers"] == 3
    with monkeypatch.context() as patch:
        patch.setattr("avflow.walk.memory.available_bytes", lambda device: 2**10)
        facts, code = told(name)
        assert code == 0 and "GiB to spare" in facts["runs"]["verdict"]
        facts, code = told(name, "--weights")
        assert code == 0 and facts["runs"]["verdict"] == "exact"
    (tmp_path / "model.safetensors").unlink()
    facts, code = told(name)
    assert code == 0 and "its weights are not here" in facts["runs"]["verdict"] and "full causal" in str(facts)


def test_a_window_that_the_made_prompt_is_longer_than(tmp_path, without_tokenizer):
    facts, code = told(saved(tmp_path, "mistral", sliding_window=16))
    assert code == 0 and facts["runs"]["verdict"] == "exact"


def test_a_model_that_is_refused(tmp_path, without_tokenizer):
    """By its layers alone, before a weight is read."""
    config = tmp_path / "config.json"
    name = saved(tmp_path, "qwen2")
    changed = json.loads(config.read_text())
    changed["layer_types"] = ["full_attention", "chunked_attention", "full_attention"]
    config.write_text(json.dumps(changed))
    facts, code = told(name)
    assert code == 1 and "decoder layer 1 uses chunked_attention" in facts["problems"][0] and "runs" not in facts
    assert "problem: " in avflow_("doctor", str(tmp_path)).stdout


def test_a_model_that_moves_information_beside_attention(tmp_path, without_tokenizer, monkeypatch):
    """A row that is read by itself, as generated tokens are, does not see the one before."""
    load = TextFamily.load_hf

    class Mixing(torch.nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.mlp = mlp

        def forward(self, x):
            return self.mlp(x) + torch.nn.functional.pad(x[:, :-1], (0, 0, 1, 0))  # the row before

    def broken(self, *arguments, **options):
        hf = load(self, *arguments, **options)
        hf.model.layers[1].mlp = Mixing(hf.model.layers[1].mlp)
        return hf

    monkeypatch.setattr(TextFamily, "load_hf", broken)
    facts, code = told(saved(tmp_path, "llama"))
    assert code == 1
    assert "with nothing dropped: the decoder" in facts["problems"][0] and "differ by" in facts["problems"][0]


def test_an_eviction_that_is_not_the_knockout_is_told(tmp_path, without_tokenizer, monkeypatch):
    monkeypatch.setattr(model_check, "compare", lambda model, prompt: (0.5, 0.01))
    monkeypatch.setattr("avflow.models.proof.figures", lambda model: dict(difference=0.0, bound=0.01, prompt="made"))
    facts, code = told(saved(tmp_path, "llama"))
    assert code == 1 and facts["runs"]["verdict"] == "not exact" and "differ by 0.5 in a logit" in facts["problems"][0]


def test_a_model_of_no_family(tmp_path):
    """Its decoder is tried all the same: what a family for it can count on."""
    facts, code = told(saved(tmp_path / "good", "granite"))
    assert code == 1 and len(facts["problems"]) == 1 and "no family serves model type 'granite'" in facts["problems"][0]
    assert facts["runs"]["verdict"] == "exact"
    facts, code = told(saved(tmp_path / "bad", "gemma2"))
    assert code == 1 and "asks for softcap" in facts["problems"][1] and "runs" not in facts


def test_what_cannot_be_looked_at(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "minicpmo", "architectures": ["MiniCPMO"],
                                                       "auto_map": {"AutoModel": "modeling.MiniCPMO"}}))  # fmt: skip
    facts, code = told(str(tmp_path))
    assert code == 1 and "code of its own, which avflow does not run" in facts["problems"][0]
    result = avflow_("doctor", "--weights")
    assert result.exit_code == 2 and "name one (avflow doctor MODEL)" in result.stderr
    facts, code = told(str(tmp_path / "nothing"))
    assert code == 1 and "no folder" in facts["problems"][0]
