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

import avflow
from avflow.models.compat import cache_of, rope_owners

SITUATIONS = {
    "greedy": {},
    "sampling": dict(do_sample=True, temperature=0.8, top_k=20),
    "beams": dict(num_beams=3),
    "beam sampling": dict(num_beams=2, do_sample=True, num_return_sequences=2),
    "lookup": dict(prompt_lookup_num_tokens=3),
    "static": dict(cache_implementation="static"),
}
# A static cache frees nothing; guesses come along with the prompt: both are refused, see test_evict_errors.
WAYS = [(how, d) for how in SITUATIONS for d in ("keep", "drop") if d == "keep" or how not in ("static", "lookup")]
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
    assert lengths(cache_of(ours)) == [int((gone > layer - 1).sum()) for layer in range(4)]


@pytest.mark.parametrize("how, decode", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_generate(name, how, decode):
    case = prompt(name)
    check(*both(name, case, decode=decode, **SITUATIONS[how]))


@pytest.mark.parametrize("how, decode", [way for way in WAYS if way[0] != "lookup"])  # which takes one sequence
@pytest.mark.parametrize("name", MODELS)
def test_batch(name, how, decode):
    """Left padding, and different numbers of tokens that stay."""
    case = batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    check(*both(name, case, decode=decode, **SITUATIONS[how]))


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_bytes(decode):
    """The cache's memory is that of the tokens that stay, no view into a larger one."""
    case = prompt("omni", 1, 4)
    gone = leaves(case.groups, SCHEDULE)
    with evicting("omni", case, decode=decode):
        cache = cache_of(model("omni").hf(**case.inputs))
    token = 2 * 16 * 4  # kv heads x head_dim x fp32
    for layer, part in enumerate(cache.layers):
        kept = int((gone > (layer - 1 if decode == "keep" else 9)).sum())
        for tensor in (part.keys, part.values):
            assert tensor.untyped_storage().nbytes() == kept * token
    assert cache.get_seq_length() == case.n


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["greedy", "lookup", "beams"])
def test_few_rows_reach_the_output_matrix(name, how):
    case, rows = prompt(name), []
    handle = model(name).lm_head.register_forward_hook(lambda m, a, out: rows.append(out.shape[1]))
    try:
        with evicting(name, case):
            generate(name, case, **SITUATIONS[how])
            assert max(rows) <= (4 if how == "lookup" else 1)
            rows.clear()
            model(name).hf(**case.inputs)
            assert rows == [int((leaves(case.groups, SCHEDULE) == 99).sum())]
    finally:
        handle.remove()


@pytest.mark.parametrize("how", ["greedy", "beams", "static"])
@pytest.mark.parametrize("sequences", [1, 2])
def test_position_ids_by_the_family(monkeypatch, how, sequences):
    """They replace the model's own loop, with the same tokens and the same memory of positions."""
    case = prompt("omni") if sequences == 1 else batch([prompt("omni", 1, 1), prompt("omni", 2, 3)])
    hf, calls = model("omni").hf, []
    owner = rope_owners(hf.modules())[0]
    for cls in {type(hf), type(owner)}:
        monkeypatch.setattr(
            cls, "get_rope_index", lambda *a, plain=cls.get_rope_index, **k: calls.append(1) or plain(*a, **k)
        )
    with evicting("omni", case):
        ours, deltas = generate("omni", case, **SITUATIONS[how]), owner.rope_deltas
    assert not calls
    monkeypatch.setattr(type(model("omni").family), "patches", lambda self, model: [])
    with evicting("omni", case):
        theirs = generate("omni", case, **SITUATIONS[how])
    assert calls and torch.equal(owner.rope_deltas, deltas)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


def test_labels_by_the_family():
    """Without groups=: a real clip with sound, read by the demo's processor."""
    from demo_folder import demo
    from demo_folder import model as demo_model

    wrapped = demo_model()
    made = wrapped.prepare(avflow.Sample.read_jsonl(demo()["samples"])[0])
    plain = dict(do_sample=False, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)
    schedule = {"video": 0, "audio": 1}
    with avflow.evict(wrapped, schedule):
        ours = wrapped.hf.generate(**made.model_inputs, **plain)
    with avflow.evict(wrapped, schedule, groups=made.groups, items=made.items):
        given = wrapped.hf.generate(**made.model_inputs, **plain)
    check(ours, given)
    counts = [made.groups.count(g) for g in ("video", "audio")]
    held = lengths(cache_of(ours))
    assert [held[0] - held[1], held[1] - held[2]] == counts and min(counts) > 0


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_right_padding(name):
    """In a plain forward rows are aligned to the right, so the last logits are those of each sequence's end."""
    cases = [prompt(name, 1, 1), prompt(name, 2, 3)]
    n = max(c.n for c in cases)
    pads = [n - c.n for c in cases]
    inputs = {
        k: torch.cat([torch.nn.functional.pad(c.inputs[k], (0, n - c.n)) for c in cases]) for k in cases[0].inputs
    }
    groups = [c.groups[0] + ["video"] * more for c, more in zip(cases, pads, strict=True)]
    with avflow.evict(model(name), SCHEDULE, groups=groups):
        ours = model(name).hf(**inputs).logits
    for b, case in enumerate(cases):
        gone = leaves(case.groups, SCHEDULE)
        with dense(name, cuts_of(gone, 0)):
            theirs = model(name).hf(**case.inputs).logits[0, gone[0] > 3]
        assert far(ours[b, -len(theirs) :], theirs) < 1e-4


def test_without_a_cache():
    case = prompt("qwen3")
    with evicting("qwen3", case):
        ours = generate("qwen3", case, use_cache=False)
    with dense("qwen3", cuts_of(leaves(case.groups, SCHEDULE), 8)):
        check(ours, generate("qwen3", case))


@pytest.mark.parametrize("name", MODELS)
def test_the_boundary_norm_is_fused(monkeypatch, name):
    """The op normalises what it gathers; a norm that computes something else is left to torch."""
    from avflow.runtime import boundary

    case = prompt(name)
    with evicting(name, case):  # a model's first block compares its decoder with nothing dropped, by the op too
        model(name).hf(**case.inputs)
    used, op = [], boundary.gather_rms_norm
    monkeypatch.setattr(boundary, "gather_rms_norm", lambda *a: used.append(len(a[3])) or op(*a))
    gone = leaves(case.groups, SCHEDULE)
    with evicting(name, case):
        fused = model(name).hf(**case.inputs).logits
    assert used == [int((gone > layer).sum()) for layer in (1, 2)]
    for layer in model(name).layers:
        norm = layer.input_layernorm
        assert "forward" not in norm.__dict__
        monkeypatch.setattr(norm, "forward", lambda x, plain=norm.forward: 2 * plain(x))
    with evicting(name, case):
        twice = model(name).hf(**case.inputs).logits
    with dense(name, cuts_of(gone, 0)):
        theirs = model(name).hf(**case.inputs).logits[:, gone[0] > 3]
    assert len(used) == 2 and far(twice, theirs) < 1e-4 and far(twice, fused) > 1e-2
