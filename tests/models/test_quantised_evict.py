"""Eviction on weights that torchao has quantised: exactly the matching knockout in the same quantised model."""

from __future__ import annotations

import pytest
import torch

import avflow
from avflow.synthetic import make_items, write_items


def test_eight_bit_weights(tmp_path):
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = avflow.load("tiny-omni")
    samples = avflow.Sample.read_jsonl(write_items(make_items("heldout", 2, seed=3), tmp_path))
    prompts = [model.prepare(sample) for sample in samples]
    with avflow.evict(model, {"video": 3, "audio": 4}, groups=prompts[0]), torch.no_grad():
        full = model.hf(**prompts[0].model_inputs).logits[0, -1]  # [vocab]
    quantize_(model.text_model, Int8WeightOnlyConfig())
    for number, prompt in enumerate(prompts):
        with torch.no_grad():
            with avflow.evict(model, {"video": 3, "audio": 4}, groups=prompt):
                evicted = model.hf(**prompt.model_inputs).logits[0, -1]
            video = avflow.knockout(model, ["video->all"], layers=range(4, 12), groups=prompt.groups)
            audio = avflow.knockout(model, ["audio->all"], layers=range(5, 12), groups=prompt.groups)
            with video, audio:
                cut = model.hf(**prompt.model_inputs).logits[0, -1]
            plain = model.hf(**prompt.model_inputs).logits[0, -1]
        assert (evicted - cut).abs().max() < 1e-4 < (evicted - plain).abs().max()
        if number == 0:
            assert 1e-4 < (evicted - full).abs().max() < 0.5  # the weights are others, a little
