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


@pytest.mark.parametrize("n, ratio", [(1024, 8), (1000, 7), (256, 1), (130, 2)])
def test_the_plan_as_blocks_of_a_peer(n, ratio, scripts):
    """Closed blocks hold no open edge and full ones no closed edge; that is how torch finds them too."""
    layouts, plan_blocks = scripts("lib/layouts"), scripts("lib/plan_blocks")
    tokens, size = layouts.frames(n, 100), plan_blocks.BLOCK
    for problem in (AttentionProblem(tokens), AttentionProblem(tokens, cuts=[layouts.OTHER_FRAMES])):
        open_ = layouts.open_edges(problem)
        kinds = plan_blocks.block_kinds(problem, ratio)
        assert kinds.shape == (-(-n // size),) * 2
        for row, col in torch.cartesian_prod(*(torch.arange(k) for k in kinds.shape)).tolist():
            block = open_[row * size : (row + 1) * size, col * size : (col + 1) * size]
            whole = block.numel() == size**2
            expected = 0 if not block.any() else 2 if block.all() and whole else 1
            shared = ratio == 7 and expected != 1  # row tiles of 9, of which no number is a block
            assert int(kinds[row, col]) in ({expected, 1} if shared else {expected}), (row, col)
        assert kinds[0, 0] == 1 and (n < 1000 or len(kinds.unique()) > 1)


def test_the_blocks_of_the_plan_are_those_of_torch(scripts):
    from torch.nn.attention.flex_attention import create_block_mask

    layouts, plan_blocks = scripts("lib/layouts"), scripts("lib/plan_blocks")
    tokens = layouts.av_tokens(1024)
    group = tokens.group

    def rule(b, h, i, j):
        return (i >= j) & ~((group[i] == layouts.QUESTION) & (group[j] == layouts.VIDEO))

    theirs = create_block_mask(rule, None, None, 1024, 1024, device="cpu")
    problem = AttentionProblem(tokens, cuts=[layouts.VIDEO_TO_QUESTION])
    ours = plan_blocks.block_mask(problem, 8, rule, torch.device("cpu"))
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for count, places in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        counts = getattr(ours, count)
        assert torch.equal(counts, getattr(theirs, count)) and counts.sum() > 0
        for row, n in enumerate(counts[0, 0].tolist()):
            found, wanted = (getattr(one, places)[0, 0, row, :n] for one in (ours, theirs))
            assert torch.equal(found.sort().values, wanted.sort().values)
