"""A prompt's arguments serve forward and generate alike: the same tokens, with and without a cache."""

from __future__ import annotations

import pytest
import tiny
import torch
from evict_cases import model

import avflow
from avflow.models.inputs import forward_inputs

GAPS = 3 * torch.arange(120).view(3, 40)  # positions that transformers could take for many packed sequences


def prompt_of(kind: str):
    more = {"position_ids": GAPS} if "three" in kind else {"position_ids": GAPS[0]} if "one" in kind else {}
    return tiny.text_prompt(64, ids="embeddings" not in kind, answer_ids=(4,), **more)


@pytest.mark.parametrize("kind", ["ids", "ids, three positions", "embeddings", "embeddings, three positions"])
def test_shapes(omni, kind):
    inputs = forward_inputs(omni, prompt_of(kind))
    assert inputs["attention_mask"].tolist() == [[1] * 40]
    assert ("input_ids" in inputs) == ("ids" in kind.split(",")[0]) != ("inputs_embeds" in inputs)
    positions = inputs.get("position_ids")
    if "three" in kind:
        assert torch.equal(positions, GAPS[:, None])
    elif kind == "ids":
        assert positions is None
    else:
        assert positions.tolist() == [list(range(40))]


def test_one_dimensional_positions(qwen3):
    assert forward_inputs(qwen3, prompt_of("ids, one"))["position_ids"].tolist() == [GAPS[0].tolist()]


def test_a_mask_of_the_prompts_own_stays(omni):
    prompt = tiny.av_prompt("interleaved", seconds=2)
    inputs = forward_inputs(omni, prompt)
    own = prompt.model_inputs
    assert all(inputs[name] is value for name, value in own.items() if isinstance(value, torch.Tensor))
    assert "attention_mask" not in own or torch.equal(inputs["attention_mask"], own["attention_mask"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ids, three positions", "embeddings, three positions"])
@pytest.mark.parametrize("name", ["omni", "vl", "salmonn"])
def test_generate_continues_what_forward_reads(name, kind):
    """Also where it drops the mask, has no cache, and could take the gaps for the ends of packed sequences."""
    one, prompt = model(name), prompt_of(kind)
    inputs = forward_inputs(one, prompt)
    for module in one.hf.modules():  # transformers goes on from those of the last prompts, of another test's batch too
        if "rope_deltas" in module.__dict__:
            module.rope_deltas = None
    wanted = one.hf(**inputs).logits[0, -1]
    text = torch.arange(40)[None, None]
    four = {**inputs, "position_ids": torch.cat([text, inputs["position_ids"]])}
    assert torch.equal(one.hf(**four).logits[0, -1], wanted)
    counted = {name: value for name, value in inputs.items() if name != "position_ids"}
    assert (one.hf(**counted).logits[0, -1] - wanted).abs().max() > 1e-2  # positions matter
    how = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True)
    runs = [one.hf.generate(**given, use_cache=cache, **how) for given in (inputs, four) for cache in (True, False)]
    for run in runs:
        assert (run.logits[0][0] - wanted).abs().max() < 1e-4
        assert run.sequences.tolist() == runs[0].sequences.tolist()


def test_a_prompt_of_another_model_is_told_by_its_inputs(omni):
    """A text decoder's forward takes any keyword, and would leave the media out without a word."""
    prompt = tiny.av_prompt("interleaved")
    text = avflow.wrap(tiny.decoder("qwen3"))
    prompt.input_ids = prompt.input_ids % text.vocab
    prompt.model_inputs = prompt.model_inputs | {"input_ids": prompt.input_ids[None]}
    runs = (
        lambda: avflow.sweep(text, prompt, "video->last", window=1),
        lambda: avflow.attention_share(text, prompt),
        lambda: avflow.generate(text, prompt),
    )
    for run in runs:
        with pytest.raises(avflow.InputError, match=r"pixel_values_videos.*which Qwen3ForCausalLM does not take"):
            run()
    assert forward_inputs(omni, prompt)
