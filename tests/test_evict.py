"""avflow.evict equals the endless knockout, in every way of decoding, for every kind of model."""

from __future__ import annotations

import pytest
import torch
from evict_cases import (
    MODELS,
    SCHEDULE,
    batch,
    check,
    cuts_of,
    dense,
    evicting,
    far,
    generate,
    leaves,
    lengths,
    model,
    prompt,
)

SITUATIONS = {
    "greedy": {},
    "sampling": dict(do_sample=True, temperature=0.8, top_k=20),
    "beams": dict(num_beams=3),
    "beam sampling": dict(num_beams=2, do_sample=True, num_return_sequences=2),
    "lookup": dict(prompt_lookup_num_tokens=3),
    "static": dict(cache_implementation="static"),
}
NOT_IN_THE_ORACLE = ("prompt_lookup_num_tokens", "cache_implementation")  # which gives plain decoding's tokens


def both(name, case, schedule=SCHEDULE, decode="keep", **how):
    """Our run, the oracle's, and one without eviction."""
    with evicting(name, case, schedule, decode):
        ours = generate(name, case, **how)
    plain = {k: v for k, v in how.items() if k not in NOT_IN_THE_ORACLE}
    ends = [case.n] if decode == "drop" else None
    cuts = cuts_of(leaves(case.groups, schedule), 8, ends)
    with dense(name, cuts if len(case.groups) == 1 else repeated(cuts, how)):
        theirs = generate(name, case, **plain)
    return ours, theirs, generate(name, case, **plain)


def repeated(cuts, how):
    times = max(how.get("num_beams", 1), how.get("num_return_sequences", 1))
    return {layer: cut.repeat_interleave(times, 0) for layer, cut in cuts.items()}


@pytest.mark.parametrize("name", MODELS)
def test_forward(name):
    case = prompt(name)
    gone = leaves(case.groups, SCHEDULE)
    with evicting(name, case):
        ours = model(name).hf(**case.inputs)
    with dense(name, cuts_of(gone, 0)):
        theirs = model(name).hf(**case.inputs)
    with torch.no_grad():
        clean = model(name).hf(**case.inputs)
    stays = (gone[0] > 3).nonzero()[:, 0]
    assert ours.logits.shape[1] == len(stays)
    assert far(ours.logits, theirs.logits[:, stays]) < 1e-4
    assert far(ours.logits, clean.logits[:, stays]) > 1e-2
    assert lengths(ours.past_key_values) == [int((gone > layer - 1).sum()) for layer in range(4)]


@pytest.mark.parametrize("how", SITUATIONS)
@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("name", MODELS)
def test_generate(name, how, decode):
    if decode == "drop" and how in ("static", "lookup"):
        pytest.skip("refused, see test_errors")
    case = prompt(name)
    check(*both(name, case, decode=decode, **SITUATIONS[how]))


@pytest.mark.parametrize("how", SITUATIONS)
@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("name", MODELS)
def test_batch(name, how, decode):
    """Left padding, and different numbers of tokens that stay."""
    if decode == "drop" and how in ("static", "lookup"):
        pytest.skip("refused, see test_errors")
    if how == "lookup":
        pytest.skip("transformers: assisted decoding takes one sequence")
    case = batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    check(*both(name, case, decode=decode, **SITUATIONS[how]))
