"""The model's own run of a prompt says what the walk says, and counts its cache."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch

import avflow
from avflow.experiments.sweep import sweep_prompt
from avflow.runtime.answering import own_run

OPTIONS = dict(option_ids=(7, 8, 9))
CASES = {
    "video": lambda: tiny.av_prompt("interleaved", seconds=3),
    "several answer tokens": lambda: tiny.av_prompt("separate", seconds=3, answer_ids=(7, 9, 100)),
    "options": lambda: tiny.av_prompt("question_first", seconds=2, **OPTIONS),
    "embeddings": lambda: tiny.text_prompt(64, ids=False, answer_ids=(4, 5)),
    "positions": lambda: tiny.text_prompt(
        64, ids=False, answer_ids=(4, 5), position_ids=3 * torch.arange(120).view(3, 40)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_the_walk_says(omni, name):
    prompt = CASES[name]()
    run = own_run(omni, prompt)
    info = sweep_prompt(omni, prompt, avflow.SweepRequest("video->last", layers=[0], select="all")).info
    assert run.logp == pytest.approx(info["logp_clean"], abs=1e-4)
    assert run.correct == info["correct"]
    assert run.logp == pytest.approx(oracle.answer_logp(omni.hf, prompt)[0], abs=1e-4)
    assert run.kv_bytes == 4 * len(prompt) * 2 * 2 * 16 * 4  # layers, tokens, keys and values, heads, width, bytes
    assert 0 < run.decoder_seconds < run.prefill_seconds


def test_a_plain_decoder(qwen3):
    prompt = tiny.text_prompt(64, answer_ids=(7, 8))
    assert own_run(qwen3, prompt).logp == pytest.approx(oracle.answer_logp(qwen3.hf, prompt)[0], abs=1e-4)


def test_a_right_answer_is_one(qwen3):
    prompt = tiny.text_prompt(64)
    with torch.no_grad():
        top = int(qwen3.hf(prompt.input_ids[None]).logits[0, -1].argmax())
    assert not own_run(qwen3, prompt).correct and own_run(qwen3, tiny.text_prompt(64, answer_ids=(top,))).correct


def test_it_leaves_the_model_as_it_was(omni):
    owner = next(m for m in omni.hf.modules() if "rope_deltas" in m.__dict__)
    before = owner.rope_deltas
    own_run(omni, tiny.av_prompt("interleaved"))
    assert owner.rope_deltas is before
    assert not omni.text_model._forward_hooks and not omni.text_model._forward_pre_hooks
