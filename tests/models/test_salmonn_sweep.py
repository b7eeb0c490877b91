"""Sweeps and knockouts over video-SALMONN 2+ equal a dense-mask, one-forward-per-knockout run of the same model."""

from __future__ import annotations

import oracle
import pytest
import tiny_salmonn
import torch

import avflow
from avflow.knockouts.presets import as_knockouts
from avflow.runtime.answering import own_run

AV_VIDEO = as_knockouts("av_video")
EXTRA = as_knockouts(["question->video", "question->audio", "video->template", "media->all"])
VARIANTS = [
    avflow.Knockout("video", "question", heads=(0, 3)),
    avflow.Knockout("all", "last", cut_self=True),
    avflow.Knockout("media", "question", random_share=0.3, seed=5),
    avflow.Knockout("video", "audio", scope="other_items", both=True),
]


@pytest.fixture(scope="module", params=["released", "trained"])
def model(request):
    return avflow.wrap(tiny_salmonn.thinker(position_layout=request.param))


@pytest.fixture(scope="module")
def released():
    return avflow.wrap(tiny_salmonn.thinker())


def check(model, prompt, knockouts, least: float = 1e-2, **more) -> None:
    rows = avflow.sweep(model, prompt, knockouts=knockouts, select="all", **more).table.to_pylist()
    assert len(rows) == model.n_layers * len(knockouts)
    done = [row for row in rows if row["status"] == "ok"]
    assert oracle.check_rows(model.hf, prompt, knockouts, done, **more) > least


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first"])
def test_preset_on_layouts(model, layout):
    knockouts = AV_VIDEO + (EXTRA if layout == "question_first" else [])
    check(model, tiny_salmonn.av_prompt(layout), knockouts, window=2)


@pytest.mark.parametrize("layout, knockouts", [("silent", ["video->question"]), ("sound", ["audio->question"])])
def test_one_medium(model, layout, knockouts):
    check(model, tiny_salmonn.av_prompt(layout), as_knockouts([*knockouts, "question->last"]), window=2)


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
def test_variants(released, semantics):
    check(released, tiny_salmonn.av_prompt(seconds=3), VARIANTS, window=2, semantics=semantics)


@pytest.mark.parametrize("seconds, cells", [(12, (2, 3)), (1, (60, 1))])
def test_answers_of_several_tokens(model, seconds, cells):
    """Two pieces of sound; and one tall picture, whose rows reach beyond all later text under "trained"."""
    prompt = tiny_salmonn.av_prompt(seconds=seconds, answer_ids=(7, 9, 100), cells=cells)
    knockouts = as_knockouts(["video->question", "audio<->video", "video->answer", "question->last+answer"])
    check(model, prompt, knockouts, window=2)


def test_many_heads_deeper():
    model = avflow.wrap(tiny_salmonn.thinker(layers=7, heads=7, kv_heads=1))
    knockouts = as_knockouts(["video->question", "cross:audio"])
    check(model, tiny_salmonn.av_prompt(seconds=3), knockouts, least=1e-3, window=3, style="center")


@pytest.mark.parametrize("knockout", ["video->question", "audio->last", "cross:video"])
@torch.no_grad()
def test_knockout(model, knockout):
    """The context manager in a plain forward, and in generate."""
    prompt = tiny_salmonn.av_prompt()
    (rule,) = as_knockouts([knockout])
    layers = range(1, 3)
    logp, top = oracle.answer_logp(model.hf, prompt, rule, layers)
    clean, _ = oracle.answer_logp(model.hf, prompt)
    with avflow.knockout(model, rule, layers, groups=prompt.groups, items=prompt.items):
        logits = model.hf(**prompt.model_inputs).logits[0, -1].float()
        new = model.hf.generate(**prompt.model_inputs, max_new_tokens=3, do_sample=False)[0, len(prompt) :]
    found = torch.log_softmax(logits, -1)[prompt.answer_ids[0]].item()
    assert found == pytest.approx(logp, abs=1e-4) and abs(logp - clean) > 1e-3
    assert int(new[0]) == top and len(new) == 3


@torch.no_grad()
@pytest.mark.parametrize("seconds, cells", [(3, (2, 3)), (1, (60, 1))])
def test_generated_tokens_stand_where_the_model_puts_them(model, seconds, cells):
    """Behind one tall picture too, whose rows reach beyond all later text under "trained"."""
    prompt = tiny_salmonn.av_prompt(seconds=seconds, answer_ids=(7, 9, 100), cells=cells)
    model.proofs.clear()
    found = avflow.sweep_text(model, prompt, "video->question", window=1, layers=[1], max_new_tokens=6)
    own = avflow.generate(model, prompt, max_new_tokens=6)
    assert found.table["tokens_clean"][0].as_py() == own.ids
    with avflow.knockout(model, "video->question", layers=[1], groups=prompt.groups, items=prompt.items):
        assert found.table["tokens_knockout"][0].as_py() == avflow.generate(model, prompt, max_new_tokens=6).ids
    logp, _ = oracle.answer_logp(model.hf, prompt)
    assert own_run(model, prompt).logp == pytest.approx(logp, abs=1e-4)
    assert found.meta["check"]["kinds"] == 2  # the walk, and its text
