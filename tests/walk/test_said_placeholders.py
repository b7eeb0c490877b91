"""A model that says its own image token: a word of the answer like any other, as transformers' generate has it."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_families
import torch

import avflow
from avflow.models.inputs import forward_inputs, placeholders

PATH = "image->last"


@pytest.fixture(scope="module", params=["qwen2_5_vl", "smolvlm"])
def case(request, tmp_path_factory):
    """A model whose likeliest token is that of pictures, and a prompt with a picture."""
    family = tiny_families.family(request.param)
    for package in getattr(family, "NEEDS", ()):
        pytest.importorskip(package)
    model = avflow.load(family.build(tmp_path_factory.mktemp("model")))
    prompt = model.prepare(tiny_families.ask(image=tiny_families.picture(tmp_path_factory.mktemp("media"))))
    token = int(prompt.input_ids[list(prompt.groups).index("image")])
    assert token in placeholders(model)
    head = model.lm_head
    louder = torch.nn.Linear(head.in_features, head.out_features)
    louder.weight, louder.bias.data = head.weight, torch.zeros(head.out_features)
    louder.bias.data[token] = 20.0
    model.hf.set_output_embeddings(louder)
    model.hf.generation_config.eos_token_id = None
    return avflow.wrap(model.hf, model.processor), prompt, token


def test_generated_text(case):
    model, prompt, token = case
    row = avflow.sweep_text(model, prompt, PATH, layers=[1], window=1, max_new_tokens=5).table.to_pylist()[0]
    plain = dict(max_new_tokens=5, do_sample=False)
    with torch.no_grad():
        own = model.hf.generate(**forward_inputs(model, prompt), **plain)[0, len(prompt) :].tolist()
        with avflow.knockout(model, PATH, layers=[1], groups=prompt):
            cut = model.hf.generate(**forward_inputs(model, prompt), **plain)[0, len(prompt) :].tolist()
    assert own[0] == token and row["tokens_clean"] == own and row["tokens_knockout"] == cut


@pytest.mark.parametrize("at", [0, 1])
def test_an_answer_that_holds_it(case, at):
    """Teacher-forced, against the model's own generate, held to it; what precedes it is proved as ever."""
    model, prompt, token = case
    answer = [5, 9, 7]
    answer[at] = token
    asked = dataclasses.replace(prompt, answer_ids=answer, option_ids=None)
    model.proofs.clear()
    row = avflow.sweep(model, asked, PATH, layers=[1], window=1, select="all").table.to_pylist()[0]
    assert [proof.compared for proof in model.proofs.values()] == [1]
    with torch.no_grad():
        said = model.hf.generate(
            **forward_inputs(model, prompt),
            max_new_tokens=3,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, ids: [answer[len(ids) - len(prompt)]],
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert said.sequences[0, len(prompt) :].tolist() == answer
    logp = sum(float(logits[0].log_softmax(-1)[one]) for logits, one in zip(said.logits, answer, strict=True))
    assert row["logp_clean"] == pytest.approx(logp, abs=1e-4)
