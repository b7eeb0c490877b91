"""A ctrl-C at any moment at which Python can raise one leaves the model as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from interrupts import CtrlC
from torch import nn

import avflow
from avflow.models import fused, towers
from avflow.models.compat import attributes, implementation
from avflow.models.undoing import pre_hooked


def state(model) -> list:
    """All that blocks change: attributes and hooks of every module, the attention function, the tracker, gradients."""
    out: list = [model.tracker, torch.is_grad_enabled()]
    for name, module in model.hf.named_modules():
        own = {k: v for k, v in module.__dict__.items() if not k.startswith("_") or k == "_avflow_block"}
        hooks = [list(module._forward_hooks.values()), list(module._forward_pre_hooks.values())]
        config = getattr(module, "config", None)
        out.append((name, own, hooks, getattr(config, "_attn_implementation", None)))
    return out


def check_everywhere(use, is_as_before) -> int:
    """Calls use(ctrl_c), with the interrupt at each place in turn; how many there were."""
    for n in range(1, 100_000):
        ctrl_c = CtrlC(n, __name__)
        try:
            use(ctrl_c)
            return n
        except KeyboardInterrupt:
            pass
        finally:
            ctrl_c.stop()
        assert is_as_before(), f"interrupt at place {n}"
    raise AssertionError("no end")


def test_the_end_of_blocks(omni):
    prompt = tiny.av_prompt()
    labels = {"groups": prompt.groups, "items": prompt.items}

    def use(ctrl_c: CtrlC) -> None:
        with avflow.knockout(omni, "video->last", layers=[1], **labels), avflow.evict(omni, {"video": 1}, **labels):
            ctrl_c.start()

    before = state(omni)
    assert check_everywhere(use, lambda: state(omni) == before) > 100


def test_the_end_of_a_block_with_layers_by_the_kernels(omni, monkeypatch):
    """Of two contexts that set one attribute the outer one may end first, and what the inner one found stays."""
    monkeypatch.setattr(fused, "DTYPES", (torch.float32,))
    prompt = tiny.av_prompt()

    def use(ctrl_c: CtrlC) -> None:
        with avflow.evict(omni, {"video": 1}, groups=prompt.groups, items=prompt.items):
            assert all("forward" in layer.mlp.__dict__ for layer in omni.layers)
            ctrl_c.start()

    before = state(omni)
    assert check_everywhere(use, lambda: state(omni) == before) > 50


class Part(nn.Linear):
    """A module with what blocks change."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.config = SimpleNamespace(_attn_implementation="sdpa")


def hook(module, args) -> None:
    pass


@pytest.mark.parametrize(
    "change",
    [
        lambda part: attributes([(part, "extra", 1), (part, "in_features", 3), (part, "extra", 2)]),
        lambda part: implementation([part.config], "avflow"),
        lambda part: pre_hooked(part, hook),
    ],
    ids=["attributes", "implementation", "pre_hooked"],
)
def test_begin_and_end_of_every_change(change):
    part = Part()

    def use(ctrl_c: CtrlC) -> None:
        changed = change(part)
        ctrl_c.start()
        with changed:
            pass

    def now() -> dict:
        hooks = {name: dict(value) for name, value in part.__dict__.items() if name.endswith("_hooks")}
        return part.__dict__ | hooks | {"config": part.config._attn_implementation}

    before = now()
    assert check_everywhere(use, lambda: now() == before) > 10


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_towers_forward_that_was_left_behind_is_as_if_it_were_not_there(attention):
    """At the one place where nothing can be put back: before `__exit__`'s first step, while the traceback is kept."""
    hf = tiny.thinker()
    hf.set_attn_implementation(attention)
    inputs = tiny.av_prompt().model_inputs
    model = avflow.wrap(hf)
    with torch.no_grad():
        plain = hf(**inputs).logits
        for part in [*(b.attn for b in hf.model.visual.blocks), *(a.self_attn for a in hf.model.audio_tower.layers)]:
            part.__dict__["forward"] = towers._quick_attention(part, lambda cu_seqlens, device: 1 / 0)
        assert torch.equal(hf(**inputs).logits, plain)
        with avflow.knockout(model, "video->audio", groups=["last"] * len(inputs["input_ids"][0])):
            torch.testing.assert_close(hf(**inputs).logits, plain, atol=1e-4, rtol=1e-4)
