"""What the benchmarks stand on: their timer, and peers that compute what avflow computes."""

from __future__ import annotations

import time

import pytest
import torch

import avflow
from avflow_ext import AttentionProblem


def test_best_times_are_of_one_call_and_leave_out_what_fails(scripts):
    timing = scripts("lib/timing")

    def no_kernel():
        raise RuntimeError("no kernel here\nsecond line")

    candidates = {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02), "missing": no_kernel}
    times, errors = timing.best_times(candidates, seconds=0.0, turns=2)
    assert errors == {"missing": "RuntimeError: no kernel here"}
    assert 0.002 <= times["short"] < 0.02 <= times["long"] < 0.1
    threads = torch.get_num_threads()
    seen = []
    timing.side_by_side({"one": lambda: seen.append(torch.get_num_threads())}, seconds=0.0, turns=1)
    assert set(seen) == {threads}  # torch's Timer sets one thread unless it is given the number
    with pytest.raises(RuntimeError, match="no kernel"):
        timing.side_by_side({"missing": no_kernel}, seconds=0.0)


def test_turns_alternate(scripts):
    timing, order = scripts("lib/timing"), []
    slow = {name: (lambda name=name: (order.append(name), time.sleep(0.06))) for name in "ab"}
    timing.side_by_side(slow, seconds=0.0, turns=3)
    assert "".join(order) == "aabb" * 3  # a call to warm up, and a block of one


def test_rows_indexed_are_those_that_eviction_leaves(scripts):
    """The peer that both eviction benchmarks compare with, for groups that leave behind different layers."""
    decoders, prompts, peers = (scripts(f"lib/{name}") for name in ("decoders", "prompts", "peers"))
    model = decoders.make_sized(4, 128)
    prompt = prompts.make_prompt(model, 160)
    embeds, schedule = prompt.inputs_embeds[None], {"video": 0, "audio": 2}
    with torch.no_grad():
        with peers.rows_indexed(model, prompt.groups, schedule):
            indexed = model.hf(inputs_embeds=embeds, logits_to_keep=1).logits
        with avflow.evict(model, schedule, groups=list(prompt.groups), items=list(prompt.items)):
            evicted = model.hf(inputs_embeds=embeds, logits_to_keep=1).logits
        clean = model.hf(inputs_embeds=embeds, logits_to_keep=1).logits
    torch.testing.assert_close(indexed, evicted, atol=1e-5, rtol=1e-4)
    assert (clean - evicted).abs().max() > 1e-3


def test_the_peers_of_attention_compute_what_the_op_computes(scripts):
    """Causal, and under the mask that the cut amounts to; the dense mask of a GPU's benchmark is the same one."""
    layouts, operands = scripts("lib/layouts"), scripts("lib/operands").Operands(300, 300, (4, 2, 64))
    tokens = layouts.av_tokens(300)
    cut = AttentionProblem(tokens, cuts=[layouts.VIDEO_TO_QUESTION])
    mask = layouts.dense_mask(tokens, layouts.VIDEO, layouts.QUESTION)
    assert torch.equal(mask[0, 0], layouts.open_edges(cut))
    for problem, dense in ((AttentionProblem(tokens), None), (cut, mask)):
        theirs = operands.sdpa(dense)()[0].transpose(0, 1)
        torch.testing.assert_close(operands.ours(problem)().out, theirs, atol=1e-5, rtol=1e-5)
