"""The towers' rotary positions: transformers' own to the last bit, for every tower that avflow runs in batches."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as vl
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni3
from transformers.models.qwen3_vl import modeling_qwen3_vl as vl3
from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe as moe3

from avflow.models import tower_rotary
from avflow.models.tower_rotary import NAME, with_quick_rotary

SOURCES = [omni, vl, omni3, vl3, moe3]
ATTENTION = {
    omni: "Qwen2_5OmniVisionAttention",
    vl: "Qwen2_5_VLVisionAttention",
    omni3: "Qwen3OmniMoeVisionAttention",
    vl3: "Qwen3VLVisionAttention",
    moe3: "Qwen3VLMoeVisionAttention",
}


def operands(dtype, d: int = 20, rows: int = 37):
    """As the modules have them: parts of one projection, angles of two axes twice."""
    g = torch.Generator().manual_seed(0)
    q, k, _ = torch.randn(rows, 3, 2, d, generator=g).to(dtype).unbind(1)  # not contiguous
    angles = 50 * torch.rand(rows, d, generator=g)
    return q, k, angles.cos(), angles.sin()


def module(source, dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    config = types.SimpleNamespace(hidden_size=40, num_heads=2, _attn_implementation="sdpa")
    return getattr(source, ATTENTION[source])(config=config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__.rpartition("_")[2])
def test_equal_to_the_last_bit(source, dtype):
    theirs = getattr(source, NAME)
    assert tower_rotary.agrees(theirs)
    with torch.no_grad():
        for d in (20, 8, 80):
            given = operands(dtype, d)
            wanted = theirs(*given)
            for found in (tower_rotary.quick(theirs)(*given), tower_rotary.plain(*given)):
                assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("way", ["rotary", "plain"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__.rpartition("_")[2])
def test_a_modules_forward(source, way, monkeypatch):
    """It rotates by ours, computes what it did, and neither the module nor transformers' file has changed."""
    attention, before = module(source, torch.bfloat16), dict(vars(source))
    rows, (cos, sin) = torch.randn(24, 40).bfloat16(), operands(torch.float32, rows=24)[2:]
    call = dict(hidden_states=rows, cu_seqlens=torch.tensor([0, 16, 24]), position_embeddings=(cos, sin))
    seen = []
    with_quick_rotary(attention.forward, source)  # a file's first use compares its function with ours
    for name in ("rotary", "plain"):
        ours = getattr(tower_rotary, name)
        monkeypatch.setattr(tower_rotary, name, lambda *args, name=name, ours=ours: seen.append(name) or ours(*args))
    if way == "plain":
        monkeypatch.setattr(tower_rotary, "runs_here", lambda *args: False)
    made = with_quick_rotary(attention.forward, source)
    with torch.no_grad():
        assert torch.equal(made(**call), attention(**call)) and seen == [way]
    assert vars(source) == before and "forward" not in attention.__dict__
    made(**call).float().sum().backward()  # gradients: by theirs
    assert seen == [way] and attention.proj.weight.grad.abs().sum() > 0


def test_what_is_unusual_is_left_as_it_is(monkeypatch):
    attention = module(omni)
    plain = attention.forward
    assert with_quick_rotary(plain, omni) is not plain
    assert with_quick_rotary(plain, None) is plain
    assert with_quick_rotary(plain, vl) is plain  # of another file

    def forward(hidden_states, **kwargs):  # of the module's own, as a library that offloads it sets
        return plain(hidden_states, **kwargs)

    assert with_quick_rotary(forward, omni) is forward
    monkeypatch.setattr(omni, NAME, lambda q, k, cos, sin: (q, k))  # somebody's, such as a fused kernel
    assert with_quick_rotary(plain, omni) is plain


def test_another_rotation_is_noticed(monkeypatch):
    """A version of transformers whose function does something else, or takes something else."""

    def doubled(q, k, cos, sin):
        return tuple(2 * t for t in tower_rotary.quick(None)(q, k, cos, sin))

    for theirs in (doubled, lambda q, k, cos: (q, k)):
        theirs.__module__ = omni.__name__
        assert not tower_rotary.agrees(theirs)
        monkeypatch.setattr(omni, NAME, theirs)
        attention = module(omni)
        plain = attention.forward
        assert with_quick_rotary(plain, omni) is plain


def test_float64_is_theirs():
    given = [t.double() for t in operands(torch.float32)]
    calls = []
    tower_rotary.quick(lambda *args: calls.append(args) or args[:2])(*given)
    assert len(calls) == 1


def test_what_the_kernel_does_not_take():
    """Runs by plain torch, and gives the same."""
    q, k, cos, sin = operands(torch.bfloat16)
    assert tower_rotary.runs_here(q, k, cos, sin)
    batched = [t[None] for t in (q, k, cos, sin)]  # [1, rows, heads, d] and [1, rows, d]
    refused = [batched, (q, k.half(), cos, sin), (q, k, cos[:1], sin[:1]), [t.to("meta") for t in (q, k, cos, sin)]]
    for given in refused:
        assert not tower_rotary.runs_here(*given)
    for given in refused[:3]:
        with torch.no_grad():
            found, wanted = tower_rotary.quick(None)(*given), getattr(omni, NAME)(*given)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
