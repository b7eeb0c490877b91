"""Every error of the engine names the bad value and the mend; a group without a token is a row, not an error."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

import avflow

EMBEDS = torch.zeros(3, 64)
GOOD = dict(inputs_embeds=EMBEDS, groups=["video", "question_text", "last"], answer_ids=[7], id="p")
NAN = EMBEDS.clone()
NAN[1, 3] = float("nan")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs_embeds": None}, "pass inputs_embeds .* or input_ids"),
        ({"input_ids": torch.arange(3)}, "one of the two"),
        ({"inputs_embeds": EMBEDS[None]}, r"must be a floating tensor \[N, hidden\], got torch.float32 \(1, 3, 64\)"),
        ({"inputs_embeds": EMBEDS.long()}, "got torch.int64"),
        ({"inputs_embeds": EMBEDS.tolist()}, "got <class 'list'>"),
        ({"inputs_embeds": NAN}, "NaN or infinity, first at token 1"),
        ({"inputs_embeds": EMBEDS[:0], "groups": []}, "no tokens"),
        ({"groups": ["video", "last"]}, "3 tokens, but groups has 2 names"),
        ({"groups": ["video", "last", "answer"]}, r'"last" must be the final token \(2\) and no other, it is at \[1\]'),
        ({"groups": ["last", "video", "last"]}, r"it is at \[0, 2\]"),
        ({"items": [0, 1]}, "3 tokens, but items has 2 entries"),
        ({"items": [0, -2, 1]}, "items holds -2"),
        ({"items": [0, 0.5, 1]}, "items must be integers"),
        ({"answer_ids": []}, "answer_ids is empty"),
        ({"answer_ids": [-3]}, "answer_ids holds -3"),
        ({"answer_ids": 7}, "answer_ids must be integers"),
        ({"answer_ids": ["B"]}, "answer_ids must be integers"),
        ({"option_ids": [1, 2]}, r"token 7 is not among option_ids \[1, 2\]"),
        ({"position_ids": torch.arange(4)}, r"position_ids must be integers \[3\] or \[3, 3\], got torch.int64 \(4,\)"),
        ({"position_ids": torch.zeros(3)}, "got torch.float32"),
        ({"inputs_embeds": None, "input_ids": torch.zeros(3)}, "input_ids must be integers"),
    ],
)
def test_prompt(change, message):
    with pytest.raises(avflow.InputError, match=message):
        avflow.Prompt(**(GOOD | change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs_embeds": torch.zeros(3, 32)}, "prompt 'p': inputs_embeds is 32 wide, the model 64"),
        ({"answer_ids": [512]}, "answer_ids holds 512, the model's vocabulary has 512 tokens"),
        ({"option_ids": [7, 9999]}, "option_ids holds 9999"),
        ({"inputs_embeds": None, "input_ids": torch.tensor([1, 2, 600])}, "input_ids reach 1 .. 600"),
        ({"groups": ["vid", "audio", "last"]}, "no group is called 'vid'"),
    ],
)
def test_prompt_and_model(qwen3, change, message):
    prompt = avflow.Prompt(**(GOOD | change))
    with pytest.raises(avflow.InputError, match=message):
        avflow.sweep(qwen3, prompt, "video->last", select="all")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"knockouts": "video=>last"}, "knockout 'video=>last': write"),
        ({"knockouts": []}, "no knockout is given"),
        ({"window": 0}, "window width 0"),
        ({"style": "middle"}, "window style 'middle'"),
        ({"select": "right"}, "select = 'right': pass one of correct, wrong, all"),
        ({"semantics": "drop"}, "semantics = 'drop': pass one of renormalize, zero"),
        ({"memory": "lots"}, "memory = 'lots'"),
        ({"memory": "0GB"}, "positive amount"),
        ({"memory": -5}, "memory = -5"),
        ({"layers": [3, 4]}, r"layers \[4\] are out of range: the model has layers 0 .. 3"),
        ({"layers": [-1]}, r"layers \[-1\]"),
        ({"layers": []}, "layers is empty"),
        (
            {"knockouts": avflow.Knockout("video", "last", heads=4)},
            "head 4 is out of range, the model has heads 0 .. 3",
        ),
        ({"knockouts": "video->lsat"}, "no group or alias is called 'lsat'"),
        ({"memory": "10KB"}, r"memory = 10000 bytes is too little for prompt 'p' \(40 tokens\): .* pass memory=\d+MB"),
    ],
)
def test_request(qwen3, change, message):
    with pytest.raises(avflow.InputError, match=message):
        avflow.sweep(qwen3, tiny.text_prompt(64, id="p"), **({"knockouts": "video->last", "select": "all"} | change))


def test_prompts_of_one_id(qwen3):
    prompts = [tiny.text_prompt(64, id="x"), tiny.text_prompt(64, id="x", seed=2)]
    with pytest.raises(avflow.InputError, match="two prompts have the id 'x'"):
        avflow.sweep(qwen3, prompts, "video->last", select="all")


def test_a_group_without_a_token_gives_a_row_that_says_so(omni):
    prompt = tiny.av_prompt("silent", options=False)
    rows = avflow.sweep(omni, prompt, "av_video", window=2, select="all").table.to_pylist()
    status = {row["knockout"]: row["status"] for row in rows}
    assert status["cross:audio"] == status["audio<->video"] == status["audio->question"] == "no token: audio"
    assert status["option_correct->last"] == "no token: option_correct"
    assert status["video->question"] == status["question->last"] == "ok"
    for row in rows:
        if row["status"].startswith("no token"):
            values = ("p_knockout", "logp_knockout", "change_percent", "top_knockout")
            assert all(row[name] is None for name in values) and row["p_clean"] > 0
    assert len(rows) == 4 * 15


def test_a_knockout_that_cuts_nothing_equals_the_clean_run(omni):
    prompt = tiny.av_prompt("question_first")
    rows = avflow.sweep(omni, prompt, ["video->question", "question->video"], window=2, select="all").table.to_pylist()
    for row in rows:
        if row["knockout"] == "video->question":  # the question comes first: there is no such edge
            assert row["status"] == "no edge to cut"
            assert row["logp_knockout"] == row["logp_clean"] and row["change_percent"] == 0.0
        else:
            assert row["status"] == "ok"


def test_an_empty_window_says_so(qwen3):
    rows = avflow.sweep(qwen3, tiny.text_prompt(64), "video->last", window=9, style="inverse", select="all").table
    assert set(rows["status"].to_pylist()) == {"no layer in the window"}
    assert set(rows["first_layer"].to_pylist()) == {None} and set(rows["change_percent"].to_pylist()) == {0.0}


def test_layers_of_another_kind_are_refused():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1)
    config = Qwen2Config(**small, num_hidden_layers=3, max_position_embeddings=64)
    config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    model = avflow.wrap(Qwen2ForCausalLM(config).eval())
    prompt = avflow.Prompt(input_ids=torch.arange(3), groups=["video", "audio", "last"], answer_ids=[1])
    with pytest.raises(avflow.UnsupportedModelError, match=r"decoder layer 1 uses linear_attention \(window None\)"):
        avflow.sweep(model, prompt, "video->last", select="all")
    with pytest.raises(avflow.UnsupportedModelError, match="avflow carries full causal attention"):
        with avflow.knockout(model, "video->last"):
            pass


def test_models_of_no_family(tmp_path):
    from transformers import BertConfig, BertModel

    small = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1)
    with pytest.raises(avflow.UnsupportedModelError, match="BertModel is of model type 'bert', which no family serves"):
        avflow.wrap(BertModel(BertConfig(**small)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(avflow.UnsupportedModelError, match="'bert', which no family serves; there are .*qwen2_5_omni"):
        avflow.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(avflow.UnsupportedModelError, match="model type None"):
        avflow.load(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(avflow.InputError, match="is not a checkpoint's config.json"):
        avflow.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(avflow.InputError, match="has no config.json"):
        avflow.load(tmp_path)
    with pytest.raises(avflow.InputError, match="no folder .*nowhere"):
        avflow.load(tmp_path / "nowhere")
    with pytest.raises(avflow.InputError, match="dtype 'int8': pass one of float32"):
        avflow.load(tmp_path, dtype="int8")


def test_a_decoder_without_head_is_refused(qwen3):
    with pytest.raises(avflow.UnsupportedModelError, match="Qwen3Model has no lm_head"):
        avflow.wrap(qwen3.text_model)
    with pytest.raises(avflow.UnsupportedModelError, match="TextFamily prepares no samples"):
        qwen3.prepare(avflow.Sample(id="0", question="What?", answer="a dog", video="x.mp4"))


def test_labels_that_do_not_fit_the_models_tokens(omni):
    prompt = tiny.av_prompt("interleaved")
    inputs = prompt.model_inputs
    short = {"input_ids": inputs["input_ids"][:, -8:], "attention_mask": inputs["attention_mask"][:, -8:]}
    prompt.model_inputs = short
    with pytest.raises(avflow.InputError, match=f"the model reads 8, groups name {len(prompt)}"):
        avflow.sweep(omni, prompt, "video->last", select="all")
