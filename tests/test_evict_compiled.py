"""Static caches with compiled decode: one graph, no breaks, also over two calls of generate; forced on the CPU."""

from __future__ import annotations

import pytest
import torch
from evict_cases import SCHEDULE, batch, check, cuts_of, dense, evicting, generate, leaves, model, prompt
from transformers import CompileConfig

import avflow


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
def fresh():
    torch._dynamo.reset()
    GRAPHS.clear()
    yield
    torch._dynamo.reset()
    for name in ("omni", "vl", "qwen3"):
        for attribute in ("_compiled_call", "_last_compile_config"):
            model(name).hf.__dict__.pop(attribute, None)


@pytest.mark.parametrize("name", ["omni", "vl", "qwen3"])
@pytest.mark.parametrize("sequences", [1, 2])
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
