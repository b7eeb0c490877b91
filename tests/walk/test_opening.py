"""A walk's first layer, which runs before the others are laid out: the same bits, once, and nothing stays behind."""

from __future__ import annotations

import importlib
import weakref

import pytest
import tiny
import tiny_deep
import torch

import avflow
from avflow.walk import layout as layouts
from avflow.walk.packing import Walks

answers, opening, packing = (
    importlib.import_module(f"avflow.walk.{name}") for name in ("answers", "opening", "packing")
)


def rows_of(results):
    return results.table.to_pylist()


def embedded(model, tokens: int = 40):
    """A prompt of embeddings: no media that a device could encode meanwhile."""
    groups = ["system"] * 2 + ["video"] * (tokens - 5) + ["question_text"] * 2 + ["last"]
    embeds = torch.randn(len(groups), model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    return avflow.Prompt(inputs_embeds=embeds, groups=groups, answer_ids=[7], id="embedded")


REQUESTS = {
    "preset": dict(knockouts="av_video", window=2),
    "inverse windows": dict(knockouts=["video->question", "video->last"], window=1, style="inverse"),
    "media gone": dict(knockouts=["cross:video", "video->last"], window=1, media_until=1, media_check=0.5),
    "louder": dict(knockouts=[avflow.Amplification("video", "question", 4), "video->last"], window=3),
    "several walks": dict(knockouts="av_video", window=2, memory="SMALL"),
    "own": dict(knockouts="video->question", target="own", semantics="zero"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_bits_of_a_walk_in_one_go(name, omni, monkeypatch):
    prompts = [tiny.av_prompt("interleaved", id="a"), tiny.av_prompt("separate", answer_ids=(7, 9), id="b")]
    asked = dict(REQUESTS[name], select="all")
    if asked.get("memory"):
        plan = avflow.SweepRequest(asked["knockouts"], window=2, select="all").plan(omni, prompts[:1])
        asked["memory"] = packing.fixed_bytes(omni, plan.lengths[0]) + (plan.peak_rows // 2) * packing.row_bytes(omni)
    opened = []
    own = opening.open_walk
    monkeypatch.setattr(answers, "open_walk", lambda *given: opened.append(given) or own(*given))
    found = rows_of(avflow.sweep(omni, prompts, **asked))
    assert len(opened) >= (2 if name == "several walks" else 1) or name == "media gone"
    monkeypatch.setattr(Walks, "opening", lambda self, walk: None)
    count = len(opened)
    assert rows_of(avflow.sweep(omni, prompts, **asked)) == found and len(opened) == count


def test_deepstack(monkeypatch):
    """The first layer's rows are given features as the others' are."""
    model, prompt = tiny_deep.model(), tiny_deep.prompt(3)
    found = rows_of(avflow.sweep(model, prompt, "video->question", window=2, select="all"))
    monkeypatch.setattr(Walks, "opening", lambda self, walk: None)
    assert rows_of(avflow.sweep(model, prompt, "video->question", window=2, select="all")) == found


def test_the_first_layer_runs_before_the_others_are_laid_out(omni, monkeypatch):
    """Whatever is selected: whether a sweep is cheap is told from its jobs alone."""
    happened = []
    build, call = layouts.build_layout, opening.LayerCall.__call__

    def built(lengths, jobs, n_layers, groups=()):
        happened.append(f"{n_layers} layers laid out")
        return build(lengths, jobs, n_layers, groups)

    def called(self, *given):
        happened.append(f"layer {self.layer}")
        return call(self, *given)

    monkeypatch.setattr(packing, "build_layout", built)
    monkeypatch.setattr(opening.LayerCall, "__call__", called)
    prompt = embedded(omni)
    for select in ("all", "wrong"):
        happened.clear()
        avflow.sweep(omni, prompt, "video->question", window=2, select=select, check="off")
        assert happened[:3] == ["1 layers laid out", "layer 0", "4 layers laid out"]
        assert [one for one in happened if one.startswith("layer")] == [f"layer {n}" for n in range(4)]


@pytest.mark.parametrize("frames", ["Python's", "TorchDynamo's"])
def test_nothing_holds_what_was_begun(omni, monkeypatch, frames):
    """While later layers run: the rows of one layer are what a walk's memory is planned for.

    TorchDynamo's evaluator of frames, which may stay in force once a process has compiled something, leaves a call's
    arguments on the caller's stack.
    """
    sweep = avflow.sweep if frames == "Python's" else torch._dynamo.run(avflow.sweep)
    held = []
    own, call = opening.open_walk, opening.LayerCall.__call__

    def begun(*given):
        out = own(*given)
        held.append(weakref.ref(out))
        return out

    def called(self, *given):
        if self.layer >= 2:
            assert held[-1]() is None
        return call(self, *given)

    monkeypatch.setattr(answers, "open_walk", begun)
    monkeypatch.setattr(opening.LayerCall, "__call__", called)
    sweep(omni, embedded(omni), "video->question", window=2, select="all", check="off")
    assert len(held) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError], ids=lambda e: e.__name__)
@pytest.mark.parametrize("where", ["first layer", "layouts"])
def test_what_was_changed_is_put_back(error, where, omni, monkeypatch):
    before = {id(module): dict(module.__dict__) for module in omni.hf.modules()}
    implementation = omni.text_model.config._attn_implementation

    def fails(*given, **named):
        raise error

    if where == "first layer":
        monkeypatch.setattr(opening.LayerCall, "__call__", fails)
    else:
        own = packing.build_layout
        monkeypatch.setattr(packing, "build_layout", lambda *g: own(*g) if g[2] == 1 else fails())
    with pytest.raises(error):
        avflow.sweep(omni, embedded(omni), "video->question", window=2, select="all", check="off")
    monkeypatch.undo()
    assert omni.text_model.config._attn_implementation == implementation
    for module in omni.hf.modules():
        assert module.__dict__.keys() == before[id(module)].keys() and "forward" not in module.__dict__
    assert avflow.sweep(omni, embedded(omni), "video->question", window=2, select="all").table.num_rows


def test_walks_with_evictions_begin_whole(omni):
    """What rests is saved before a layer and comes back later."""
    prompt = tiny.av_prompt("interleaved")
    sweep = avflow.SweepRequest(["cross:video"], window=1, media_until=1, select="all").plan(omni, [prompt])
    assert any(sweep.beside(job) is not None for job in sweep.jobs if isinstance(job, layouts.Job))
    assert sweep.opening(0) is None
    assert avflow.SweepRequest(["video->last"], select="all").plan(omni, [prompt]).opening(0) is not None
