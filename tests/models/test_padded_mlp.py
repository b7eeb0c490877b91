"""The towers' MLP with zero-padded weights: the same values, in rows of whole 16 bytes; anything unusual as it was."""

from __future__ import annotations

import gc
from threading import Thread

import pytest
import tiny
import tiny_salmonn
import torch
from living import NewTensors
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as vl

import avflow
from avflow.models import padded_mlp, towers
from avflow.models.compat import attributes

WIDTH, HIDDEN = 60, 32  # 60: 120 bytes in half precision, as 3,420 is 4 above a multiple of 8
SOURCES = {"omni": omni, "vl": vl}


def tower(kind: str = "omni", width: int = WIDTH, act: str = "silu", dtype=torch.bfloat16):
    torch.manual_seed(0)
    sizes = dict(depth=2, hidden_size=HIDDEN, intermediate_size=width, num_heads=2, out_hidden_size=24)
    sizes |= dict(window_size=112, fullatt_block_indexes=[1], hidden_act=act, attn_implementation="sdpa")
    if kind == "omni":
        made = omni.Qwen2_5OmniVisionEncoder(omni.Qwen2_5OmniVisionEncoderConfig(**sizes))
    else:
        made = vl.Qwen2_5_VisionTransformerPretrainedModel(vl.Qwen2_5_VLVisionConfig(**sizes))
    with torch.no_grad():
        for p in made.blocks.parameters():
            p.normal_(0, 0.3)
    return made.to(dtype).eval()


def rows(n: int = 48, dtype=torch.bfloat16) -> torch.Tensor:
    return torch.randn(n, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture
def on_cpu(monkeypatch):
    """As if this were a GPU, with inputs of a few rows."""
    monkeypatch.setattr(padded_mlp, "DEVICES", ("cpu",))
    monkeypatch.setattr(padded_mlp, "ROWS", 16)


@pytest.fixture
def widths(monkeypatch):
    """Rows of the weight in every product of an MLP."""
    seen: list[tuple[int, ...]] = []
    linear = functional.linear

    def watched(x, weight, bias=None):
        seen.append(tuple(weight.shape))
        return linear(x, weight, bias)

    monkeypatch.setattr(functional, "linear", watched)
    return seen


PADDED = [(64, HIDDEN), (64, HIDDEN), (HIDDEN, 64)]
PLAIN = [(WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH)]


@torch.no_grad()
def both(mlp, source, x) -> tuple[torch.Tensor, torch.Tensor]:
    """By transformers, and padded."""
    want = mlp(x)
    with attributes(padded_mlp.patches([_Block(mlp)], source)):
        return want, mlp(x)


class _Block(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SOURCES)
def test_sums_that_are_exact_are_the_same_to_the_bit(kind, dtype, on_cpu, widths):
    """Small whole numbers, which no order of adding rounds: what the padding adds is nothing at all."""
    mlp = tower(kind, act="relu", dtype=dtype).blocks[0].mlp
    with torch.no_grad():
        for p in mlp.parameters():
            p.copy_(torch.randint(-1, 2, p.shape))
    x = torch.randint(-1, 2, (48, HIDDEN)).to(dtype)
    want, got = both(mlp, SOURCES[kind], x)
    assert torch.equal(got, want) and want.abs().max() > 8
    assert widths == PLAIN + PADDED


@pytest.mark.parametrize("kind", SOURCES)
def test_within_the_rounding_of_a_product(kind, on_cpu, monkeypatch):
    """In fp32, which is padded only when told so: its sums can be told from a mistake. Also in three dimensions."""
    monkeypatch.setattr(padded_mlp, "DTYPES", (torch.bfloat16, torch.float32))
    monkeypatch.setattr(padded_mlp, "BYTES", 32)
    mlp = tower(kind, dtype=torch.float32).blocks[0].mlp
    for x in (rows(dtype=torch.float32), rows(dtype=torch.float32).view(2, 24, HIDDEN)):
        want, got = both(mlp, SOURCES[kind], x)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6 * float(want.abs().max()))


@pytest.mark.parametrize("kind", SOURCES)
def test_a_whole_tower(kind, on_cpu, widths):
    made, grid = tower(kind), torch.tensor([[2, 8, 12]])
    pixels = torch.randn(192, 1176, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.no_grad():
        want = made(pixels, grid_thw=grid).pooler_output
        assert PADDED[0] not in widths and widths.count(PLAIN[0]) == 4
        widths.clear()
        with attributes(towers.patches(made)):
            got = made(pixels, grid_thw=grid).pooler_output
    assert widths.count(PADDED[0]) == 4 and widths.count(PADDED[2]) == 2 and PLAIN[0] not in widths
    assert (got - want).abs().max() <= 0.02 * want.abs().max()
    assert not any("forward" in block.mlp.__dict__ for block in made.blocks)


def test_only_widths_that_need_it():
    assert padded_mlp.patches(tower(width=64).blocks, omni) == []
    assert len(padded_mlp.patches(tower(width=60).blocks, omni)) == 2
    assert padded_mlp.patches(tower(width=60).blocks, vl) == []  # classes of another file
    assert padded_mlp.patches(nn.ModuleList([nn.Linear(2, 2)]), omni) == []


class _Adapted(nn.Linear):
    """A Linear that is more than its weights, as LoRA's."""

    def forward(self, x):
        return super().forward(x) + 1


def _adapted(mlp):
    mlp.up_proj.__class__ = _Adapted


def _parametrized(mlp):
    nn.utils.parametrizations.weight_norm(mlp.down_proj)


def _hooked(mlp):
    mlp.gate_proj.register_forward_hook(lambda module, args, out: out + 1)


def _pre_hooked(mlp):
    mlp.act_fn.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def _of_their_own(mlp):
    mlp.down_proj.forward = lambda x: nn.Linear.forward(mlp.down_proj, x) + 1


def _of_another_dtype(mlp):
    mlp.down_proj.bias = nn.Parameter(mlp.down_proj.bias.half(), requires_grad=False)
    mlp.down_proj.forward = lambda x: functional.linear(x, mlp.down_proj.weight)


def _frozen_as_data(mlp):
    """As a quantised weight is: of a class of its own."""
    mlp.gate_proj.weight = type("Packed", (nn.Parameter,), {})(mlp.gate_proj.weight.detach())


UNUSUAL = [_adapted, _parametrized, _hooked, _pre_hooked, _of_their_own, _of_another_dtype, _frozen_as_data]


@pytest.mark.parametrize("change", UNUSUAL)
def test_unusual_parts_run_as_they_are(change, on_cpu):
    mlp = tower().blocks[0].mlp
    change(mlp)
    want, got = both(mlp, omni, rows())
    assert torch.equal(got, want)
    assert not padded_mlp._serves(mlp, rows())


def test_projections_cut_to_whole_rows_run_as_they_are(on_cpu, widths):
    """Pruned after it was made: the width in the MLP's own attribute is no longer that of its weights."""
    mlp = tower().blocks[0].mlp
    for name in ("gate_proj", "up_proj"):
        linear = getattr(mlp, name)
        linear.weight, linear.bias = nn.Parameter(linear.weight[:56].detach()), nn.Parameter(linear.bias[:56].detach())
    mlp.down_proj.weight = nn.Parameter(mlp.down_proj.weight[:, :56].detach())
    want, got = both(mlp, omni, rows())
    assert torch.equal(got, want) and widths == 2 * [(56, HIDDEN), (56, HIDDEN), (HIDDEN, 56)]


def test_asked_anew_in_every_call(on_cpu, widths):
    """A hook that comes within the block, few rows, gradients, autocast, a hook of all modules."""
    mlp, x = tower().blocks[0].mlp, rows()
    with attributes(padded_mlp.patches([_Block(mlp)], omni)):
        with torch.no_grad():
            mlp(x)
            assert widths == PADDED
            widths.clear()
            mlp(x[:8])
            handle = mlp.up_proj.register_forward_hook(lambda module, args, out: None)
            mlp(x)
            handle.remove()
            with torch.autocast("cpu", torch.bfloat16):
                mlp(x)
            handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
            mlp(x)
            handle.remove()
        out = mlp(x)  # with gradients
        out.float().sum().backward()
        assert mlp.gate_proj.weight.grad.abs().sum() > 0
        assert widths == PLAIN * 5
        widths.clear()
        with torch.no_grad():
            mlp(x)
        assert widths == PADDED


def test_weights_that_change_meanwhile_are_the_new_ones(on_cpu):
    mlp, x = tower().blocks[0].mlp, rows()
    with torch.no_grad(), attributes(padded_mlp.patches([_Block(mlp)], omni)):
        before = mlp(x)
        mlp.down_proj.weight.mul_(2)
        mlp.down_proj.bias.zero_()
        assert not torch.equal(mlp(x), before)
        want, got = both(mlp, omni, x)  # a block in a block
        assert torch.equal(got, want)


def test_nothing_is_held_and_the_model_is_as_it_was(on_cpu):
    made, x = tower(), rows()
    kept = {name: (p.data_ptr(), p.clone()) for name, p in made.state_dict().items()}
    padded = NewTensors(lambda t: 64 in t.shape)
    with torch.no_grad(), attributes(padded_mlp.patches(made.blocks, omni)):
        for block in made.blocks:
            block.mlp(x)
        gc.collect()
        assert not padded()
    now = made.state_dict()
    assert now.keys() == kept.keys()
    assert all(now[name].data_ptr() == at and torch.equal(now[name], value) for name, (at, value) in kept.items())


def test_threads_share_nothing(on_cpu):
    mlp, found = tower().blocks[0].mlp, {}
    inputs = [torch.randn(300, HIDDEN, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(4)]

    def run(i: int) -> None:
        with torch.no_grad():
            found[i] = [mlp(inputs[i]) for _ in range(10)]

    with attributes(padded_mlp.patches([_Block(mlp)], omni)):
        run(0)
        alone = found[0][0]
        threads = [Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(one, alone) for one in found[0])
    assert all(torch.equal(one, found[i][0]) for i in range(4) for one in found[i])


@pytest.mark.parametrize("script", [tiny, tiny_salmonn], ids=["omni", "video-SALMONN 2+"])
def test_models_that_read_media_are_patched(script, monkeypatch, on_cpu):
    """Both families' sweeps capture their media by it."""
    from avflow.walk.capture import capture

    hf = script.thinker(layers=1)
    visual = next(m for name, m in hf.named_modules() if name.endswith("visual"))
    source = omni if script is tiny else vl
    for block in visual.blocks:
        for linear in (block.mlp.gate_proj, block.mlp.up_proj):
            linear.weight = nn.Parameter(linear.weight[:60].clone())
            linear.bias = nn.Parameter(linear.bias[:60].clone())
        block.mlp.down_proj.weight = nn.Parameter(block.mlp.down_proj.weight[:, :60].clone())
        block.mlp.intermediate_size = 60
    monkeypatch.setattr(padded_mlp, "DTYPES", (torch.float32,))
    monkeypatch.setattr(padded_mlp, "BYTES", 32)
    assert len(padded_mlp.patches(visual.blocks, source)) == len(visual.blocks)
    seen = []
    serves = padded_mlp._serves
    monkeypatch.setattr(padded_mlp, "_serves", lambda *args: seen.append(serves(*args)) or seen[-1])
    model, prompt = avflow.wrap(hf), script.av_prompt()
    found = capture(model, prompt)
    assert seen == [True] * len(visual.blocks)
    monkeypatch.setattr(type(model.family), "patches", lambda self, model: [])
    wanted = capture(model, prompt)
    torch.testing.assert_close(found.hidden, wanted.hidden, rtol=0, atol=1e-5 * float(wanted.hidden.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_device(widths, monkeypatch):
    monkeypatch.setattr(padded_mlp, "ROWS", 256)
    mlp, x = tower().cuda().blocks[0].mlp, rows(300).cuda()
    want, got = both(mlp, omni, x)
    assert widths == PLAIN + PADDED
    assert (got - want).abs().max() <= 0.02 * want.abs().max()
