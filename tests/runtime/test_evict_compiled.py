"""Static caches with compiled decode: one graph, no breaks, also over two calls of generate; forced on the CPU."""

from __future__ import annotations

import pytest
import torch
from evict_cases import MODELS, SCHEDULE, batch, check, cuts_of, dense, evicting, generate, leaves, model, prompt
from rest_oracle import fate_of, resting
from test_evict_turns import plus
from transformers import CompileConfig, DynamicCache, StaticCache

import avflow
from avflow.models.compat import cache_argument

CACHE = cache_argument()

GRAPHS: list[object] = []


def counting(graph, inputs):
    """A compiler backend that only counts. A function: generate copies its options deeply."""
    GRAPHS.append(graph)
    return graph.forward


def compiled() -> CompileConfig:
    config = CompileConfig(fullgraph=True, backend=counting, mode=None, dynamic=False)
    config._compile_all_devices = True
    return config


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "0")  # as transformers sets it for good where it compiles
    torch._dynamo.reset()
    GRAPHS.clear()
    yield
    torch._dynamo.reset()
    for name in MODELS:
        for attribute in ("_compiled_call", "_last_compile_config"):
            model(name).hf.__dict__.pop(attribute, None)


@pytest.mark.parametrize("name, sequences", [("omni", 1), ("omni", 2), ("salmonn", 2), ("vl", 2), ("qwen3", 1)])
def test_decode(fresh, name, sequences):
    case = prompt(name) if sequences == 1 else batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    how = dict(cache_implementation="static", compile_config=compiled())
    with evicting(name, case):
        ours = generate(name, case, **how)
        again = generate(name, case, **how)
    assert len(GRAPHS) == 1
    with dense(name, cuts_of(leaves(case.groups, SCHEDULE), 8)):
        theirs = generate(name, case)
    check(ours, theirs, generate(name, case))
    check(again, theirs)


@pytest.mark.parametrize("sequences", [1, 2])
def test_groups_that_rest(fresh, sequences):
    """Layers that hold fewer keys lie between layers that hold all."""
    case = prompt("omni") if sequences == 1 else batch([prompt("omni", 1, 1), prompt("omni", 2, 3)])
    steps = [avflow.Step("video", 0, until=2), avflow.Step("audio", 0, until=1), avflow.Step("question", 2)]
    with evicting("omni", case, steps):
        ours = generate("omni", case, cache_implementation="static", compile_config=compiled())
    assert len(GRAPHS) == 1
    with resting("omni", fate_of("omni", case, steps)):
        theirs = generate("omni", case)
    check(ours, theirs, generate("omni", case))


@pytest.mark.parametrize("uncompiled", [False, True])
def test_the_next_turn_knows_what_compiled_steps_wrote(fresh, uncompiled):
    name = "qwen3"
    one = prompt(name)
    caches = [StaticCache(config=model(name).config, max_cache_len=128), DynamicCache()]
    with evicting(name, one):
        first = generate(name, one, **{CACHE: caches[0]}, compile_config=compiled())
    two = plus(one, first.sequences, ["video"] * 3 + ["last"], [31, 41, 59, 26])
    how = {} if uncompiled else {"compile_config": compiled()}
    with evicting(name, two):
        ours = generate(name, two, **{CACHE: caches[0]}, **how)
    with dense(name, cuts_of(leaves(two.groups, SCHEDULE), 8)):
        generate(name, one, **{CACHE: caches[1]})
        theirs = generate(name, two, **{CACHE: caches[1]})
    check(ours, theirs)
    gone = leaves(two.groups, SCHEDULE)
    held = [int(layer.cumulative_length) for layer in caches[0].layers]
    assert held == [int((gone > layer - 1).sum()) + 5 for layer in range(4)]


def test_knockout(fresh):
    case = prompt("omni")
    knockout = avflow.Knockout("video+question", "answer", random_share=0.7)
    with avflow.knockout(model("omni"), knockout, [1, 2], groups=case.groups, items=case.items):
        eager = generate("omni", case)
        ours = generate("omni", case, cache_implementation="static", compile_config=compiled())
        with avflow.evict(model("omni"), SCHEDULE):
            generate("omni", case, cache_implementation="static", compile_config=compiled())
    assert len(GRAPHS) == 2  # one of its own for the other set of cuts
    check(ours, eager)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_prompt_is_refused(fresh, fullgraph):
    case = prompt("qwen3")
    step = torch.compile(model("qwen3").hf, backend="eager", fullgraph=fullgraph)
    cache = StaticCache(config=model("qwen3").config, max_cache_len=128)
    with evicting("qwen3", case), pytest.raises(Exception, match="read the prompt uncompiled"):
        step(**case.inputs, **{CACHE: cache})
