"""Every row of a sweep equals a dense-mask, one-forward-per-knockout eager run of the same model."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch

import avflow
from avflow.experiments.sweep import sweep_prompt
from avflow.knockouts.presets import as_knockouts

AV_VIDEO = as_knockouts("av_video")
EXTRA = as_knockouts(["question->video", "question->audio", "video->template", "media->all", "all->all"])


def sweep_rows(model, prompts, knockouts, **more) -> list[dict]:
    return avflow.sweep(model, prompts, knockouts=knockouts, select="all", **more).table.to_pylist()


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first"])
def test_preset_on_layouts(omni, layout):
    prompt = tiny.av_prompt(layout)
    knockouts = AV_VIDEO + (EXTRA if layout == "question_first" else [])
    rows = sweep_rows(omni, prompt, knockouts, window=2)
    assert len(rows) == 4 * len(knockouts)
    assert {r["status"] for r in rows} == ({"ok", "no edge to cut"} if layout == "question_first" else {"ok"})
    assert oracle.check_rows(omni.hf, prompt, knockouts, rows, window=2) > 1e-2


@pytest.mark.parametrize("reference", ["image", "audio"])
def test_interleaved_items(omni, reference):
    prompt, knockouts = tiny.interleaved_prompt(reference), as_knockouts("interleaved")
    rows = sweep_rows(omni, prompt, knockouts, window=2)
    assert len(rows) == 4 * 13 and {r["status"] for r in rows} == {"ok"}
    assert oracle.check_rows(omni.hf, prompt, knockouts, rows, window=2) > 1e-2


def test_map_the_flow(omni):
    prompt, knockouts = tiny.av_prompt("silent"), as_knockouts("map_the_flow")
    rows = sweep_rows(omni, prompt, knockouts, window=3, style="inverse")
    assert len(rows) == 4 * 11 and {r["status"] for r in rows} == {"ok"}
    assert oracle.check_rows(omni.hf, prompt, knockouts, rows, window=3, style="inverse") > 1e-2


@pytest.mark.parametrize("heads, kv_heads", [(7, 1), (14, 2), (8, 1)])
def test_head_groups(heads, kv_heads):
    model = avflow.wrap(tiny.thinker(layers=3, heads=heads, kv_heads=kv_heads))
    prompt = tiny.av_prompt("interleaved", seconds=3, seed=heads)
    rows = sweep_rows(model, prompt, AV_VIDEO, window=3)
    assert oracle.check_rows(model.hf, prompt, AV_VIDEO, rows, window=3) > 1e-3


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize("ids", [True, False])
def test_plain_decoders(kind, ids):
    model = avflow.wrap(tiny.decoder(kind))
    prompt = tiny.text_prompt(64, ids=ids)
    rows = sweep_rows(model, prompt, AV_VIDEO, window=1)
    assert oracle.check_rows(model.hf, prompt, AV_VIDEO, rows, window=1) > 1e-3


VARIANTS = [
    avflow.Knockout("video", "question", heads=(0, 3)),
    avflow.Knockout("audio", "last", heads=2),
    avflow.Knockout("question", "question", cut_self=True),
    avflow.Knockout("all", "last", cut_self=True),  # a row with no open edge
    avflow.Knockout("all", "video", cut_self=True),
    avflow.Knockout("media", "question", random_share=0.3, seed=5),
    avflow.Knockout("all", "all", random_share=0.05, seed=9),
    avflow.Knockout("video", "video", scope="other_items", random_share=0.5, heads=(1, 2)),
    avflow.Knockout("video+audio", ["last", "template"]),
    avflow.Knockout("video", "audio", scope="other_items", both=True),
]


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
@pytest.mark.parametrize("layout", ["interleaved", "separate"])
def test_variants(omni, layout, semantics):
    prompt = tiny.av_prompt(layout, seconds=3, seed=4)
    rows = sweep_rows(omni, prompt, VARIANTS, window=2, semantics=semantics)
    assert oracle.check_rows(omni.hf, prompt, VARIANTS, rows, window=2, semantics=semantics) > 1e-2


@pytest.mark.parametrize("style", ["center", "inverse", "top_down", "bottom_up"])
@pytest.mark.parametrize("width", [1, 3, 7])
def test_window_styles(omni, style, width):
    prompt = tiny.av_prompt("interleaved", seconds=2, seed=6)
    knockouts = as_knockouts(["video->question", "audio<->video", "cross:video", "question->last"])
    rows = sweep_rows(omni, prompt, knockouts, window=width, style=style)
    oracle.check_rows(omni.hf, prompt, knockouts, rows, window=width, style=style)


def test_several_widths_are_one_sweep(omni):
    prompt = tiny.av_prompt("interleaved", seconds=2, seed=6)
    knockouts = as_knockouts(["video->question", "question->last"])
    rows = sweep_rows(omni, prompt, knockouts, window=[1, 3, 4])
    assert len(rows) == 3 * 4 * 2 and {r["window"] for r in rows} == {1, 3, 4}
    for width in (1, 3, 4):
        own = [r for r in rows if r["window"] == width]
        oracle.check_rows(omni.hf, prompt, knockouts, own, window=width)
    request = avflow.SweepRequest(knockouts, window=[1, 3, 4], select="all")
    apart = sum(
        avflow.estimate(omni, prompt, avflow.SweepRequest(knockouts, w, select="all"))["rows"] for w in (1, 3, 4)
    )
    assert avflow.estimate(omni, prompt, request)["rows"] < apart - 2 * len(prompt)  # the clean rows ran once
    for wrong in ([], [3, 3], [0], "7"):
        with pytest.raises(avflow.InputError, match="width"):
            avflow.SweepRequest(knockouts, window=wrong)


def test_whether_the_knocked_out_answer_is_right(omni):
    prompt = tiny.av_prompt("interleaved", seconds=2, seed=6)
    knockouts = as_knockouts(["video->question", "question->last", "all->last", "image->last"])
    prompt.option_ids = list(range(3, 40))
    seen = set()
    for answer in range(3, 40):
        prompt.answer_ids = [answer]
        rows = sweep_rows(omni, prompt, knockouts, window=1)
        if not seen:
            tops = {r["layer"]: None for r in rows}
        for row in rows:
            if row["knockout"] == "image->last":
                assert row["correct_knockout"] is None
            elif row["correct_knockout"]:
                key = (row["knockout"], row["layer"])
                assert key not in seen  # one option alone has the highest logit
                seen.add(key)
                assert row["correct"] or row["p_knockout"] != row["p_clean"]
    assert len(seen) == 3 * len(tops)


def test_many_windows_of_deeper_model():
    model = avflow.wrap(tiny.thinker(layers=9, heads=2, kv_heads=1))
    prompt = tiny.av_prompt("interleaved", seconds=2)
    knockouts = as_knockouts(["video->question", "cross:audio"])
    for style in ("center", "inverse"):
        rows = sweep_rows(model, prompt, knockouts, window=4, style=style)
        oracle.check_rows(model.hf, prompt, knockouts, rows, window=4, style=style)


@pytest.mark.parametrize("answer", [(7, 9), (100, 3, 250, 8)])
def test_answers_of_several_tokens(omni, answer):
    prompt = tiny.av_prompt("interleaved", seconds=3, answer_ids=answer)
    knockouts = AV_VIDEO + as_knockouts(["video->answer", "all->answer", "last->answer", "question->last+answer"])
    rows = sweep_rows(omni, prompt, knockouts, window=2)
    assert oracle.check_rows(omni.hf, prompt, knockouts, rows, window=2) > 1e-2
    assert any(abs(r["logp_knockout"] - r["logp_clean"]) > 1e-3 for r in rows if r["knockout"] == "video->answer")


def test_position_ids_given(qwen3, omni):
    prompt = tiny.text_prompt(64, position_ids=torch.arange(44) * 2 + 5, answer_ids=(4, 5), tokens=44)
    rows = sweep_rows(qwen3, prompt, AV_VIDEO, window=2)
    oracle.check_rows(qwen3.hf, prompt, AV_VIDEO, rows, window=2)
    g = torch.Generator().manual_seed(3)
    position = torch.randint(0, 60, (3, 40), generator=g)
    prompt = tiny.text_prompt(64, ids=False, position_ids=position, answer_ids=(4, 5))
    rows = sweep_rows(omni, prompt, AV_VIDEO, window=2)
    oracle.check_rows(omni.hf, prompt, AV_VIDEO, rows, window=2)


def test_several_prompts_in_one_walk(omni):
    prompts = [
        tiny.av_prompt("interleaved", seconds=2, seed=1, id="a"),
        tiny.av_prompt("silent", seconds=3, seed=2, id="b", answer_ids=(9, 3)),
        tiny.av_prompt("question_first", seconds=2, seed=3, id="c", options=False),
        tiny.av_prompt("separate", seconds=2, seed=4, id="d"),
    ]
    rows = sweep_rows(omni, prompts, AV_VIDEO, window=3)
    assert len(rows) == 4 * 4 * len(AV_VIDEO)
    for prompt in prompts:
        own = [r for r in rows if r["prompt"] == prompt.id]
        there = [r for r in own if r["logp_knockout"] is not None]
        oracle.check_rows(omni.hf, prompt, AV_VIDEO, there, window=3)
        alone = sweep_rows(omni, prompt, AV_VIDEO, window=3)
        for a, b in zip(own, alone, strict=True):
            assert a["status"] == b["status"] and a["knockout"] == b["knockout"]
            assert a["logp_knockout"] == pytest.approx(b["logp_knockout"], abs=1e-4)


def test_small_memory_means_more_walks(omni):
    prompt = tiny.av_prompt("interleaved")
    big, small = (avflow.SweepRequest(AV_VIDEO, select="all", memory=m) for m in ("1GB", "2.2MB"))
    assert avflow.estimate(omni, prompt, big)["walks"] == 1
    assert avflow.estimate(omni, prompt, small)["walks"] >= 3
    one, many = sweep_prompt(omni, prompt, big), sweep_prompt(omni, prompt, small)
    assert many.info["walks"] >= 3
    for a, b in zip(one.rows, many.rows, strict=True):
        assert a["logp_knockout"] == pytest.approx(b["logp_knockout"], abs=2e-5)
        assert {k: v for k, v in a.items() if isinstance(v, str)} == {k: v for k, v in b.items() if isinstance(v, str)}


def test_real_files():
    """From a clip with sound to a row: the demo's checkpoint, its processor, its labels."""
    from demo_folder import demo, model

    model = model()
    sample = avflow.Sample.read_jsonl(demo()["samples"])[0]
    prompt = model.prepare(sample)
    knockouts = as_knockouts(["cross:video", "audio<->video", "video->question", "option_correct->last"])
    rows = avflow.sweep(model, sample, knockouts, window=3, layers=[1], select="all").table.to_pylist()
    assert {r["status"] for r in rows} == {"ok"} and {r["prompt"] for r in rows} == {sample.id}
    for row in rows:  # the top tokens are text here, which the oracle does not know
        knockout = next(k for k in knockouts if k.name == row["knockout"])
        logp, _ = oracle.answer_logp(model.hf, prompt, knockout, range(row["first_layer"], row["last_layer"] + 1))
        assert abs(row["logp_knockout"] - logp) <= 1e-4
    with avflow.knockout(model, "video->question", range(0, 3)):  # the family labels the ids itself
        logits = model.hf(**prompt.model_inputs).logits[0, -1].float()
        generated = model.hf.generate(**prompt.model_inputs, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] == len(prompt) + 3
    logp = torch.log_softmax(logits, -1)[prompt.answer_ids[0]].item()
    (row,) = [r for r in rows if r["knockout"] == "video->question"]
    assert logp == pytest.approx(row["logp_knockout"], abs=1e-4)
