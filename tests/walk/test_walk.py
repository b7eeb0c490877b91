"""The walk itself: rows per layer, work per row, memory, precision, broken models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import avflow
from avflow.experiments.sweep import sweep_prompt
from avflow.experiments.sweep_plan import Plan
from avflow.knockouts.presets import as_knockouts
from avflow.models.proof import checking
from avflow.walk import chunks, memory
from avflow.walk.answers import Runner
from avflow.walk.capture import capture


def test_rows_per_layer_are_those_of_the_estimate(omni):
    prompt = tiny.av_prompt("interleaved")
    request = avflow.SweepRequest("av_video", window=2, select="all")
    seen = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1])) for m in omni.layers]
    try:
        with checking(omni, "off"):  # the model's own forward would come behind
            rows = sweep_prompt(omni, prompt, request)
    finally:
        for handle in handles:
            handle.remove()
    told = avflow.estimate(omni, prompt, request)
    layout = Plan(omni, [prompt], request).layouts[0]
    assert seen == [len(prompt), *layout.rows]  # capture calls the first layer, and stops there
    assert told["rows"] == sum(layout.rows)
    assert told["ratio"] == rows.info["ratio"] == pytest.approx(told["rows"] / (4 * len(prompt)))
    assert told["tokens"] == len(prompt) and told["walks"] == 1
    assert told["flops"] > told["clean_flops"] > 0 and told["peak_bytes"] > 0


def test_last_layer_works_only_for_predicting_rows(omni):
    prompt = tiny.av_prompt("interleaved", answer_ids=(7, 8))
    seen = {}
    attn, mlp = omni.layers[-1].self_attn, omni.layers[-1].mlp
    parts = {"q": attn.q_proj, "k": attn.k_proj, "o": attn.o_proj, "down": mlp.down_proj}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                matrix, rows = args[-1], args[-2].shape[0]
                for name, part in parts.items():
                    if matrix.data_ptr() == part.weight.data_ptr():
                        seen[name] = rows
            return func(*args, **(kwargs or {}))

    with Count():  # check: the model's own forward has all rows
        avflow.sweep(
            omni, prompt, ["video->question", "audio->last"], window=1, layers=[1, 2], select="all", check="off"
        )
    assert seen["q"] == seen["o"] == seen["down"] == 2 * 5  # 2 answer tokens, clean run and 4 streams
    assert seen["k"] > len(prompt)


def test_mlp_chunks_change_nothing(omni, monkeypatch):
    prompt = tiny.av_prompt("interleaved")
    whole = avflow.sweep(omni, prompt, "av_video", select="all").table["logp_knockout"].to_pylist()
    monkeypatch.setattr(chunks, "MLP_CHUNK", 33)
    monkeypatch.setattr(chunks, "HEAD_CHUNK", 5)
    parts = avflow.sweep(omni, prompt, "av_video", select="all").table["logp_knockout"].to_pylist()
    assert parts == pytest.approx(whole, abs=2e-5)


class _Reads(TorchDispatchMode):
    """Counts what would wait for a device: a value read from a tensor, a size that depends on values, a copy."""

    waiting = ("_local_scalar_dense", "nonzero", "_to_copy", "masked_select", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.count, self.seen = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        cast = func.__name__.startswith("_to_copy") and (kwargs or {}).get("device") is None
        if func.__name__.split(".")[0] in self.waiting and not cast:
            self.count += 1
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("chunk", [64, 5])
def test_a_walk_reads_nothing_before_its_end(qwen3, monkeypatch, chunk):
    """No value is read between the first layer and the last one; after it as many as one knockout needs, whatever the
    number of streams and of pieces."""
    monkeypatch.setattr(chunks, "HEAD_CHUNK", chunk)
    prompt = tiny.text_prompt(64, answer_ids=(4, 5), option_ids=(4, 9))
    counts = []
    for knockouts in (["video->last"], as_knockouts("av_video")):
        plan = Plan(qwen3, [prompt], avflow.SweepRequest(knockouts, window=2, select="all"))
        runner = Runner(plan, [capture(qwen3, prompt)])
        with checking(qwen3, "off"), _Reads() as reads:
            at = []
            runner.on_layer = lambda rows, at=at, reads=reads: at.append(reads.count)
            runner.run(plan.layouts[0])
        assert len(at) == 4 and at[0] == at[2]  # the last layer's list of kept rows is checked, on the host
        counts.append(reads.count - at[-1])
    assert counts[0] == counts[1] <= 2, reads.seen


def test_predictions_are_those_of_each_row(qwen3):
    """Prompts with options, with others and with none in one walk; answers of one token and of two."""
    prompts = [
        tiny.text_prompt(64, id="a", seed=3, answer_ids=(4, 5), option_ids=(4, 9, 11)),
        tiny.text_prompt(64, id="b", seed=4),
        tiny.text_prompt(64, id="c", seed=5, answer_ids=(8,), option_ids=(8,)),
    ]
    plan = Plan(qwen3, prompts, avflow.SweepRequest("question->last", window=2, select="all"))
    runner = Runner(plan, [capture(qwen3, p) for p in prompts])
    runner.run(plan.layouts[0])
    for prompt, said in zip(prompts, runner.clean, strict=True):
        ids = torch.cat([prompt.input_ids, torch.tensor(prompt.answer_ids[:-1], dtype=torch.long)])
        with torch.no_grad():
            logits = qwen3.hf(ids[None]).logits[0, len(prompt) - 1 :].float()
        expected = logits.log_softmax(-1)[torch.arange(len(logits)), torch.tensor(prompt.answer_ids)]
        assert said.logp == pytest.approx(expected.tolist(), abs=1e-4)
        assert said.top == logits.argmax(-1).tolist()
        options = prompt.option_ids
        assert said.option == (options is not None and bool(logits[0, options[0]] >= logits[0, options].max()))


class _Device:
    """A CUDA device of 80 GB, as far as the chunks and the budget ask."""

    type = "cuda"


@pytest.fixture
def big_device(monkeypatch):
    properties = SimpleNamespace(total_memory=85_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30_000_000_000, properties.total_memory))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 48_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 8_000_000_000)
    return _Device()


def test_the_device_budget_counts_what_torch_keeps(big_device):
    assert memory.available_bytes(big_device) == int(0.7 * 70_000_000_000)


def test_chunks_of_a_large_device(big_device):
    sizes = SimpleNamespace(hidden_size=3584, intermediate_size=18944)
    model = SimpleNamespace(device=big_device, dtype=torch.bfloat16, vocab=152064, config=sizes)
    mlp, head = chunks.mlp_chunk(model), chunks.head_chunk(model)
    assert mlp > 16384 and 3 * 18944 * 2 * mlp < 2.2e9
    assert head > 433 and 14 * 152064 * head < 2.2e9  # 433 streams predict in the largest preset of one prompt
    model.device = torch.device("cpu")
    assert (chunks.mlp_chunk(model), chunks.head_chunk(model)) == (2048, 64)


def test_no_tensor_has_two_sequence_dimensions(qwen3):
    prompt = tiny.text_prompt(64, tokens=900)
    n = len(prompt)
    shapes = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(t, torch.Tensor):
                    shapes.add(tuple(t.shape))
            return out

    with Watch():
        avflow.sweep(qwen3, prompt, ["video->question", "cross:video", "question->last"], window=1, select="all")
    assert any(max(s, default=0) > n for s in shapes)
    assert not [s for s in shapes if sum(d >= n // 2 for d in s if d != tiny.VOCAB) > 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    model = avflow.wrap(tiny.thinker().to(dtype))
    prompt = tiny.av_prompt("interleaved")
    inputs = prompt.model_inputs
    prompt.model_inputs = {k: v.to(dtype) if v_is_float(v) else v for k, v in inputs.items()}
    low = avflow.sweep(model, prompt, "av_video", window=2, select="all").table.to_pylist()
    exact = avflow.sweep(avflow.wrap(tiny.thinker()), tiny.av_prompt("interleaved"), "av_video", window=2, select="all")
    exact = exact.table.to_pylist()
    scale = 0.5 if dtype is torch.bfloat16 else 0.1
    for a, b in zip(low, exact, strict=True):
        assert abs(a["logp_knockout"] - b["logp_knockout"]) < scale * 10
    mean = sum(abs(a["logp_clean"] - b["logp_clean"]) for a, b in zip(low, exact, strict=True)) / len(low)
    assert mean < scale


def v_is_float(value) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_broken_layer_is_named(layer):
    model = avflow.wrap(tiny.decoder("qwen3"))
    with torch.no_grad():
        model.layers[layer].mlp.down_proj.weight[0, 0] = float("nan")
    prompts = [tiny.text_prompt(64, id="first"), tiny.text_prompt(64, id="second", seed=2)]
    with pytest.raises(avflow.NumericError, match=f"prompt 'first': NaN or infinity after decoder layer {layer}"):
        avflow.sweep(model, prompts, "video->last", select="all")


def test_a_broken_head_is_named():
    model = avflow.wrap(tiny.decoder("qwen3"))
    with torch.no_grad():
        model.hf.lm_head.weight[3, 0] = float("inf")
    with pytest.raises(avflow.NumericError, match="prompt '0': NaN or infinity in the logits"):
        avflow.sweep(model, tiny.text_prompt(64), "video->last", select="all")


def test_select(qwen3):
    """correct, wrong, all; a dear sweep asks the clean model first, and then runs one clean pass for a wrong sample."""
    wrong = tiny.text_prompt(64, id="wrong")
    with torch.no_grad():
        top = int(qwen3.hf(wrong.input_ids[None]).logits[0, -1].argmax())
    right = tiny.text_prompt(64, id="right", answer_ids=(top,))
    ranked = tiny.text_prompt(64, id="ranked", answer_ids=(7,), option_ids=(7,))
    for knockouts in ("video->last", "av_video"):  # cheap, and dear
        found = {
            select: avflow.sweep(qwen3, [wrong, right, ranked], knockouts, select=select)
            for select in ("correct", "wrong", "all")
        }
        ids = {select: list(dict.fromkeys(r.table["prompt"].to_pylist())) for select, r in found.items()}
        assert ids == {"correct": ["right", "ranked"], "wrong": ["wrong"], "all": ["wrong", "right", "ranked"]}
        info = {p["prompt"]: p for p in found["correct"].meta["prompts"]}
        assert [info[i]["selected"] for i in ("wrong", "right", "ranked")] == [False, True, True]
        assert info["wrong"]["p_clean"] == pytest.approx(found["all"].table["p_clean"].to_pylist()[0], rel=1e-4)
        assert set(found["all"].table["correct"].to_pylist()) == {True, False}


def test_wrong_samples_cost_one_clean_pass(qwen3):
    prompt = tiny.text_prompt(64)
    seen = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1])) for m in qwen3.layers]
    try:
        avflow.sweep(qwen3, prompt, "av_video", select="correct", check="off")
    finally:
        for handle in handles:
            handle.remove()
    assert set(seen) == {len(prompt)} and len(seen) <= 5
