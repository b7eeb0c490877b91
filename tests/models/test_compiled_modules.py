"""A model, decoder or layer that its user compiled: served where it can be, else refused by name with the mend."""

from __future__ import annotations

import pytest
import torch
from evict_cases import model, tiny

import avflow
from avflow.errors import UnsupportedModelError

SCHEDULE = {"video": 2}


def identity(graph, inputs):
    """A compiler backend that leaves the graph as it is."""
    return graph.forward


@pytest.fixture
def compiling():
    """compiles modules by their `.compile()`, and undoes it at the end."""
    done = []

    def compile_all(*modules):
        for module in modules:
            module.compile(backend=identity)
            done.append(module)

    yield compile_all
    for module in done:
        module._compiled_call_impl = None
    torch._dynamo.reset()


def swept(m, case):
    return avflow.sweep(m, case, "video->question", layers=[2], window=3, select="all").table["p_knockout"].to_pylist()


def read(m, case):
    ids = case.input_ids[None]
    return m.hf(**{"input_ids": ids, "attention_mask": torch.ones_like(ids)} | dict(case.model_inputs)).logits[:, -1]


def test_layers_that_are_compiled_by_themselves(compiling):
    m, case = model("omni"), tiny.av_prompt("interleaved", seconds=2)
    plain = swept(m, case)
    with avflow.evict(m, SCHEDULE, groups=case):
        left = read(m, case)
    compiling(m.layers[1])
    assert swept(m, case) == pytest.approx(plain, abs=1e-6)
    with avflow.evict(m, SCHEDULE, groups=case):  # rows leave after it
        torch.testing.assert_close(read(m, case), left, atol=1e-4, rtol=0)
    compiling(m.layers[2])
    wanted = (
        r"decoder layer 2 \(.*Layer\) is compiled by module.compile\(\): avflow.evict .* _compiled_call_impl to None"
    )
    with pytest.raises(UnsupportedModelError, match=wanted), avflow.evict(m, {"video": 1}, groups=case):
        pass
    assert m.tracker is None and not m.layers[2]._forward_pre_hooks  # nothing stays behind


@pytest.mark.parametrize("part", ["the model", "the decoder"])
def test_the_model_or_its_decoder(compiling, part):
    m, case = model("omni"), tiny.av_prompt("interleaved", seconds=2)
    compiling(m.hf if part == "the model" else m.text_model)
    wanted = rf"{part} \(.*\) is compiled by module.compile\(\): avflow labels .* set its _compiled_call_impl to None"
    for block in (avflow.evict(m, SCHEDULE, groups=case), avflow.knockout(m, "video->last", layers=[2], groups=case)):
        with pytest.raises(UnsupportedModelError, match=wanted), block:
            pass
    if part == "the model":  # a walk does not run the decoder as a whole
        with pytest.raises(UnsupportedModelError, match="the model .* is compiled .*: avflow stops its forward"):
            swept(m, case)


def test_what_torch_compile_made_of_a_module(monkeypatch):
    m, case = model("omni"), tiny.av_prompt("interleaved", seconds=2)
    made = torch.compile(m.layers[2], backend=identity)
    monkeypatch.setitem(m.text_model.layers._modules, "2", made)
    wanted = r"decoder layer 2 \(OptimizedModule\) is compiled by torch.compile\(module\).*its _orig_mod"
    with pytest.raises(UnsupportedModelError, match=wanted):
        swept(m, case)
    with pytest.raises(UnsupportedModelError, match=wanted), avflow.evict(m, {"video": 1}, groups=case):
        pass
    whole = avflow.wrap(torch.compile(m.hf, backend=identity), m.processor)
    with pytest.raises(UnsupportedModelError, match=r"the model \(OptimizedModule\) is compiled by torch.compile"):
        swept(whole, case)


@pytest.mark.parametrize("part", ["the model", "the decoder", "a layer"])
def test_a_forward_that_was_compiled(part, monkeypatch):
    """Of the model or its decoder: avflow ran within the graph, and a NameError came out. A layer's is fine."""
    m, case = model("omni"), tiny.av_prompt("interleaved", seconds=2)
    plain = swept(m, case)
    with avflow.evict(m, SCHEDULE, groups=case):
        left = read(m, case)
    module = {"the model": m.hf, "the decoder": m.text_model, "a layer": m.layers[3]}[part]
    monkeypatch.setitem(module.__dict__, "forward", torch.compile(module.forward, backend=identity))
    if part == "a layer":
        with avflow.evict(m, SCHEDULE, groups=case):
            torch.testing.assert_close(read(m, case), left, atol=1e-4, rtol=0)
    else:
        wanted = rf"{part} \(.*\) is compiled by module.forward = torch.compile.*: avflow labels .*del module.forward"
        with pytest.raises(UnsupportedModelError, match=wanted), avflow.evict(m, SCHEDULE, groups=case):
            pass
    if part == "the model":
        with pytest.raises(UnsupportedModelError, match="the model .* is compiled by .*: avflow stops its forward"):
            swept(m, case)
    else:
        assert swept(m, case) == pytest.approx(plain, abs=1e-6)
    torch._dynamo.reset()
