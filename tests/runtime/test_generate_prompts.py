"""A prepared prompt goes into the model's own generate as it is, in every family."""

from __future__ import annotations

import pytest
import torch
from demo_folder import demo, model

from avflow.prompts.sample import Sample
from avflow.tiny.checkpoint import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_generation_equals_forward_after_forward(family):
    """With a cache, positions counted on; without, the prompt growing by a token, its position 1 + the largest."""
    sample = Sample.read_jsonl(demo(family)["samples"])[0]
    prompt = model(family).prepare(sample, fps=2.0, min_frames=4)
    inputs = dict(prompt.model_inputs)
    with torch.no_grad():
        made = model(family).hf.generate(**inputs, max_new_tokens=5, do_sample=False)[0, len(prompt) :]
        assert len(set(made.tolist())) > 1  # a model that repeats one token would show little
        for token in made:
            assert int(model(family).hf(**inputs).logits[0, -1].argmax()) == int(token)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], token.view(1, 1)], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if "position_ids" in inputs:
                after = inputs["position_ids"].max() + 1
                inputs["position_ids"] = torch.cat([inputs["position_ids"], after.expand(3, 1, 1)], 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_media_are_read_in_every_family(family):
    """Two clips of other colours and tones: other logits from the same words."""
    samples = Sample.read_jsonl(demo(family)["samples"])
    ask = {"id": "0", "question": "What is there?", "answer": "red"}
    prompts = [model(family).prepare(Sample(video=samples[i].video, **ask), fps=2.0, min_frames=4) for i in (0, 2)]
    assert prompts[0].groups == prompts[1].groups
    with torch.no_grad():
        one, other = (model(family).hf(**p.model_inputs).logits[0, -1].log_softmax(-1) for p in prompts)
    assert (one - other).abs().max() > 0.05
