"""The walk on a CUDA device: it never waits there between its first layer and its last. Skipped without a device."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import avflow
from avflow.experiments.sweep_plan import Plan
from avflow.walk.answers import Runner
from avflow.walk.capture import capture
from avflow_ext.device import why_not_cuda

pytestmark = pytest.mark.gpu

REASON = "no CUDA device" if not torch.cuda.is_available() else why_not_cuda(torch.cuda.current_device())
if REASON is not None:
    pytestmark = [pytest.mark.gpu, pytest.mark.skip(reason=REASON)]


def test_layers_are_launched_without_a_wait():
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = avflow.wrap(Qwen2ForCausalLM(config).to(torch.bfloat16).cuda().eval())
    groups = ["system"] * 4 + (["video"] * 30 + ["audio"] * 10) * 20 + ["question_text"] * 20 + ["last"]
    embeds = torch.randn(len(groups), 256, generator=torch.Generator().manual_seed(1)) * 0.1
    prompt = avflow.Prompt(inputs_embeds=embeds, groups=groups, answer_ids=[7], option_ids=[7, 9])
    request = avflow.SweepRequest(["video->question", "question->last"], window=2, select="all")
    plan = Plan(model, [prompt], request)
    captured = [capture(model, prompt)]
    Runner(plan, captured).run(plan.layouts[0])  # libraries start, and wait, at their first call
    layers = []

    def on_layer(rows: int) -> None:
        layers.append(rows)
        torch.cuda.set_sync_debug_mode("error" if len(layers) < model.n_layers else "default")

    runner = Runner(plan, captured)
    runner.on_layer = on_layer
    try:
        runner.run(plan.layouts[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert layers == plan.layouts[0].rows and layers[-1] > layers[0]
    assert len(runner.cut) == len(plan.jobs)
