"""Text under knockouts from one walk's streams: the same tokens as a run for each, cut by avflow.knockout."""

import pytest
import torch
from tiny import av_prompt, decoder, interleaved_prompt, text_prompt, thinker

import avflow
from avflow.knockouts.presets import as_knockouts


def _own_run(model, prompt, knockout, layers, count):
    """Tokens of model.hf.generate under the knockout."""
    inputs = dict(prompt.model_inputs or {"input_ids": prompt.input_ids[None]})
    inputs.setdefault("attention_mask", torch.ones(1, len(prompt), dtype=torch.long))
    groups, items = list(prompt.groups), list(prompt.items)
    with avflow.knockout(model, knockout, layers, groups=groups, items=items):
        return model.hf.generate(**inputs, max_new_tokens=count, do_sample=False)[0, len(prompt) :].tolist()


def _check(model, prompt, knockouts, count=5, quick=False, **more):
    table = avflow.sweep_text(model, prompt, knockouts, max_new_tokens=count, **more).table.to_pylist()
    by_name = {k.name: k for k in as_knockouts(knockouts)}

    for row in table[::2] if quick else table:
        layers = range(row["first_layer"], row["last_layer"] + 1)
        want = _own_run(model, prompt, by_name[row["knockout"]], layers, count)
        assert row["tokens_knockout"] == want, (row["knockout"], row["layer"])
        assert row["text_knockout"] == model.text(want) and row["changed"] == (want != row["tokens_clean"])
    changed = sum(row["changed"] for row in table)
    inputs = dict(prompt.model_inputs or {"input_ids": prompt.input_ids[None]})
    inputs.setdefault("attention_mask", torch.ones(1, len(prompt), dtype=torch.long))
    clean = model.hf.generate(**inputs, max_new_tokens=count, do_sample=False)[0, len(prompt) :].tolist()
    assert all(row["tokens_clean"] == clean for row in table)
    return table, changed


PATHS = ["video->question", "question->last", "cross:video", "audio<->video", "last->last (self)", "video->answer"]
PATHS += ["all->answer", "question->last+answer"]


@pytest.mark.parametrize("layout", ["interleaved", "question_first"])
def test_audio_visual_prompts(layout):
    model = avflow.wrap(thinker())
    table, changed = _check(model, av_prompt(layout, seconds=2), PATHS, window=2)
    assert len(table) == 4 * len(PATHS) and changed > 5
    assert {r["changed"] for r in table if r["knockout"] == "video->answer"} == {True, False} or changed > 10


def test_interleaved_items():
    model = avflow.wrap(thinker())
    _, changed = _check(
        model, interleaved_prompt("audio"), ["candidates->reference", "reference->last+answer"], window=3
    )
    assert changed


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_plain_decoders_and_few_rows_a_walk(kind):
    model = avflow.wrap(decoder(kind, layers=5))
    prompt = text_prompt(64)
    big, changed = _check(model, prompt, PATHS, window=2, quick=kind == "qwen2")
    assert changed > 3
    small = avflow.sweep_text(model, prompt, PATHS, window=2, max_new_tokens=5, memory="0.8MB").table.to_pylist()
    assert small == big
    with pytest.raises(avflow.InputError, match="too little"):
        avflow.sweep_text(model, prompt, PATHS, memory="100KB")


def test_an_answer_ends_with_its_end_token():
    model, prompt = avflow.wrap(decoder("qwen2")), text_prompt(64)
    paths = ["all->answer", "video->last"]
    long = avflow.sweep_text(model, prompt, paths, window=1, max_new_tokens=8).table.to_pylist()
    ends = {row["tokens_knockout"][2] for row in long} - {row["tokens_knockout"][0] for row in long}
    model.hf.generation_config.eos_token_id = list(ends)
    short = avflow.sweep_text(model, prompt, paths, window=1, max_new_tokens=8).table.to_pylist()
    lengths = set()
    for a, b in zip(long, short, strict=True):
        at = next((i for i, token in enumerate(a["tokens_knockout"]) if token in ends), 7)
        assert b["tokens_knockout"] == a["tokens_knockout"][: at + 1]
        lengths.add(len(b["tokens_knockout"]))
    assert len(lengths) > 1 or min(lengths) < 8
    assert ends


def test_zero_semantics_and_the_answer_of_a_sweep():
    """The first token is what the sweep calls top_knockout."""
    model, prompt = avflow.wrap(decoder("llama")), text_prompt(64, answer_ids=(7, 9))
    text = avflow.sweep_text(model, prompt, PATHS[:5], window=2, max_new_tokens=1, semantics="zero").table.to_pylist()
    rows = avflow.sweep(model, prompt, PATHS[:5], window=2, select="all", semantics="zero").table.to_pylist()
    for a, b in zip(text, rows, strict=True):
        assert (a["knockout"], a["layer"], a["text_knockout"]) == (b["knockout"], b["layer"], b["top_knockout"])


def test_nothing_to_cut_and_bad_input():
    model, prompt = avflow.wrap(decoder("qwen2")), text_prompt(64)
    rows = avflow.sweep_text(
        model, prompt, ["image->question", "answer->video"], layers=1, max_new_tokens=2
    ).table.to_pylist()
    assert [r["status"] for r in rows] == ["no edge to cut"] * 2 and not any(r["changed"] for r in rows)
    with pytest.raises(avflow.InputError, match="max_new_tokens = 0"):
        avflow.sweep_text(model, prompt, max_new_tokens=0)
    with pytest.raises(avflow.InputError, match="out of range"):
        avflow.sweep_text(model, prompt, layers=[7])
