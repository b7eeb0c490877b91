"""What the walk starts from is what the model's own decoder is given."""

from __future__ import annotations

import importlib

import pytest
import tiny
import torch

import avflow
from avflow.planning.trials import EvictionRequest, try_schedules
from avflow.walk.capture import begin_capture, capture, check_embeddings


def seen_by_first_layer(model, inputs: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden, cos, sin of a plain forward."""
    seen = {}

    def hook(module, args, kwargs):
        seen["hidden"], (seen["cos"], seen["sin"]) = args[0], kwargs["position_embeddings"]

    handle = model.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        model.hf(**inputs)
    handle.remove()
    return seen["hidden"], seen["cos"], seen["sin"]


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first", "silent"])
@pytest.mark.parametrize("answer", [(7,), (7, 9, 11)])
def test_equals_the_models_own_forward(omni, layout, answer):
    prompt = tiny.av_prompt(layout, answer_ids=answer)
    got = capture(omni, prompt)
    ids = torch.cat([prompt.input_ids, torch.tensor(answer[:-1], dtype=torch.long)])[None]
    inputs = dict(prompt.model_inputs) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    hidden, cos, sin = seen_by_first_layer(omni, inputs)
    assert torch.equal(got.hidden, hidden) and torch.equal(got.cos, cos) and torch.equal(got.sin, sin)
    assert len(got) == len(prompt) + len(answer) - 1 and got.columns.n_prompt == len(prompt)
    names = [omni.groups.names[g] for g in got.columns.group]
    assert names == [*prompt.groups, *["answer"] * (len(answer) - 1)]


def test_positions_go_on_after_the_largest(omni):
    position = torch.tensor([[0, 1, 9, 3], [0, 1, 2, 30], [0, 1, 2, 3]])
    embeds = torch.randn(4, 64)
    prompt = avflow.Prompt(
        inputs_embeds=embeds, position_ids=position, groups=["video"] * 3 + ["last"], answer_ids=[1, 2, 3]
    )
    got = capture(omni, prompt)
    more = torch.tensor([31, 32]).expand(3, 2)
    cos, sin = omni.text_model.rotary_emb(embeds, torch.cat([position, more], 1)[:, None])
    assert torch.equal(got.cos, cos) and torch.equal(got.sin, sin)
    assert torch.equal(got.hidden[0, :4], embeds)
    assert torch.equal(got.hidden[0, 4:], omni.text_model.embed_tokens.weight[[1, 2]])


def test_media_are_encoded_once_and_nothing_is_left_behind(omni):
    prompt = tiny.av_prompt("interleaved")
    omni.hf.model.rope_deltas = marker = torch.tensor([[123]])
    calls = []
    towers = [m for n, m in omni.hf.named_modules() if n.endswith(("visual", "audio_tower"))]
    handles = [m.register_forward_pre_hook(lambda module, args: calls.append(type(module).__name__)) for m in towers]
    try:
        avflow.sweep(omni, prompt, "av_video", select="all", memory="2.2MB", check="off")  # several walks
        assert len(towers) == 2 and len(calls) == 2
        assert omni.hf.model.rope_deltas is marker
        omni.proofs.clear()
        for encoded in (6, 8):  # the first time in the model's own forward too
            avflow.sweep(omni, prompt, "av_video", select="all", memory="2.2MB")
            assert len(calls) == encoded
            assert omni.hf.model.rope_deltas is marker
    finally:
        for handle in handles:
            handle.remove()
        omni.hf.model.rope_deltas = None


def test_a_forward_that_fails_leaves_no_hook(omni):
    prompt = tiny.av_prompt("interleaved")
    prompt.model_inputs = {k: v for k, v in prompt.model_inputs.items() if k != "video_grid_thw"}
    implementation = omni.config._attn_implementation
    with pytest.raises(Exception):  # noqa: B017  what transformers raises is its own business
        capture(omni, prompt)
    assert not omni.text_model._forward_pre_hooks and not omni.layers[0]._forward_pre_hooks
    assert omni.config._attn_implementation == implementation


def test_a_captured_prompt_is_waited_for_when_it_is_checked(omni):
    """The finite ones are asked once; others are refused, whoever asks."""
    captured = begin_capture(omni, tiny.av_prompt("interleaved"))
    assert captured.finite is not None and bool(captured.finite)
    check_embeddings(captured)
    assert captured.finite is None and capture(omni, tiny.av_prompt("interleaved")).finite is None
    captured.finite = torch.tensor(False)
    for _ in range(2):
        with pytest.raises(avflow.NumericError, match="its embeddings hold NaN or infinity"):
            check_embeddings(captured)


LEAVES = avflow.EvictionSchedule({"video": 1})
EXPERIMENTS = {
    "sweep": lambda model, prompt: avflow.sweep(model, prompt, "video->question", select="all"),
    "plan": lambda model, prompt: try_schedules(model, [prompt], EvictionRequest([LEAVES])),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_walks_are_laid_out_before_the_embeddings_are_waited_for(experiment, omni, monkeypatch):
    """The device encodes media meanwhile. Embeddings that are not finite are refused before a layer runs."""
    happened = []

    def noted(module, name):
        own = getattr(module, name)

        def call(*given, **named):
            happened.append(name)
            return own(*given, **named)

        monkeypatch.setattr(module, name, call)

    users = {"sweep": "avflow.experiments.sweep", "plan": "avflow.planning.trials"}
    user = importlib.import_module(users[experiment])
    noted(user, "begin_capture")
    noted(user, "check_embeddings")
    noted(importlib.import_module("avflow.walk.packing"), "build_layout")
    noted(importlib.import_module("avflow.walk.answers"), "run_walk")
    EXPERIMENTS[experiment](omni, tiny.av_prompt("interleaved"))
    first = [happened.index(name) for name in ("begin_capture", "build_layout", "check_embeddings", "run_walk")]
    assert first == sorted(first)

    happened.clear()
    finite = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda x: finite(x) & False)
    with pytest.raises(avflow.NumericError, match="embeddings"):
        EXPERIMENTS[experiment](omni, tiny.av_prompt("interleaved"))
    assert "run_walk" not in happened and not omni.text_model._forward_pre_hooks
