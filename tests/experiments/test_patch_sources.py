"""Where the states of avflow.patch come from, what is shared with them, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import re
from zlib import crc32

import numpy as np
import oracle
import patch_oracle
import pytest
import tiny
import torch

import avflow
from avflow import plots
from avflow.experiments.patch_sites import as_sites
from avflow.models.blank import blanked
from avflow.results import average_change, significance
from avflow.walk.capture import capture

PARTS = ("residual", "attention", "mlp")


@pytest.fixture(scope="module")
def prompt():
    return tiny.av_prompt(seconds=2, seed=1, answer_ids=(7, 9))


@pytest.fixture(scope="module")
def small():
    return avflow.load("tiny-omni")


def rows_of(model, prompts, source, *args, **more):
    return avflow.patch(model, prompts, source, *args, select="all", **more).table.to_pylist()


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_noise_on_the_embeddings(omni, prompt, direction):
    source = avflow.PatchSource.noise(sd=0.05, group="video", seed=3)
    rows = rows_of(omni, prompt, source, ["video", "question", "last"], direction=direction)
    at = patch_oracle.tokens(prompt, "video")
    noise = torch.zeros(len(prompt) + 1, 64)
    noise[at] = 0.05 * torch.randn(len(at), 64, generator=torch.Generator().manual_seed(3 + crc32(b"0")))
    dirty, none = noise[None], None
    base, other = (none, dirty) if direction == "noise" else (dirty, none)
    given = patch_oracle.states(omni.hf, prompt, "residual", other)
    for row in rows:
        at = patch_oracle.tokens(prompt, row["site"])
        new = lambda layer, seen, at=at: given[layer][at]  # noqa: E731
        logp, top = patch_oracle.patched(omni.hf, prompt, "residual", [row["layer"]], at, new, noise=base)
        assert abs(row["logp_patched"] - logp) <= 1e-4 and row["top_patched"] == str(top), row
    assert max(abs(r["logp_patched"] - r["logp_base"]) for r in rows) > 1e-2
    assert rows[0]["source"] == "noise of sd 0.05 on video"


def test_a_run_with_noise_is_not_taken_for_the_models_own():
    """It comes first when it is the one that is patched; the other one is still compared with the model's forward."""
    model = avflow.wrap(tiny.thinker())
    found = avflow.patch(
        model, tiny.av_prompt(seconds=2), "noise 3", "last", direction="denoise", select="all", layers=0
    )
    assert found.meta["check"]["difference"] <= found.meta["check"]["bound"]


def test_noise_in_units_of_the_embeddings_own_spread(omni, prompt):
    own = capture(omni, prompt)
    noised = avflow.PatchSource.noise(times=3, group="audio").run(omni, own, 0)
    at = patch_oracle.tokens(prompt, "audio")
    change = (noised.hidden - own.hidden)[0]
    assert 2.8 < float(change[at].std() / own.hidden[0, at].std()) < 3.2
    change[at] = 0
    assert not change.any() and noised.altered


@pytest.mark.parametrize("part", PARTS)
def test_zero_mean_and_a_vector(omni, prompt, part):
    more = [tiny.av_prompt(seconds=2, seed=seed, id=str(seed)) for seed in (5, 6)]
    width = 64
    vector = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    at = patch_oracle.tokens(prompt, "question")
    seen = [patch_oracle.states(omni.hf, one, part) for one in more]
    means = {
        layer: torch.cat([s[layer][patch_oracle.tokens(more[0], "question")] for s in seen]).mean(0)
        for layer in range(4)
    }
    shape = (4, 4, 16) if part == "attention" else (4, width)
    cases = {
        avflow.PatchSource.zero(): lambda layer, states: torch.zeros(len(at), width),
        avflow.PatchSource.mean(more): lambda layer, states: means[layer].expand(len(at), -1),
        avflow.PatchSource.add(vector.view(shape), 2.0): lambda layer, states: states[at] + 2 * vector[layer],
    }
    for source, new in cases.items():
        rows = rows_of(omni, prompt, source, "question", part, window=2)
        largest = 0.0
        for row in rows:
            layers = oracle.window_layers(row["layer"], 2, "center", 4)
            logp, top = patch_oracle.patched(omni.hf, prompt, part, layers, at, new)
            assert abs(row["logp_patched"] - logp) <= 1e-4 and row["top_patched"] == str(top), (
                source.name,
                row["layer"],
            )
            assert row["logp_source"] is None and row["carried"] is None
            largest = max(largest, abs(logp - row["logp_base"]))
        assert largest > 1e-2, source.name


def test_one_head_is_ablated(omni, prompt):
    site = avflow.PatchSite("question+last", "attention", heads=2)
    at = patch_oracle.tokens(prompt, "question+last")
    for row in rows_of(omni, prompt, "zero", site):
        zero = lambda layer, states: torch.zeros(len(at), 64)  # noqa: E731
        logp, _ = patch_oracle.patched(omni.hf, prompt, "attention", [row["layer"]], at, zero, heads=(2,))
        assert abs(row["logp_patched"] - logp) <= 1e-4
        assert row["site"] == "question+last (heads 2)"


def test_sink_tokens_are_a_site(prompt):
    model = avflow.wrap(tiny.thinker())
    first = prompt.groups.index("audio")
    marked = avflow.mark_sinks(model, prompt, [first, first + 3])
    other = tiny.av_prompt(seconds=2, seed=2)
    given = patch_oracle.states(model.hf, dataclasses.replace(other, answer_ids=prompt.answer_ids), "residual")
    source = avflow.PatchSource.of(lambda one: avflow.mark_sinks(model, other, [first, first + 3]))
    at = torch.tensor([first, first + 3])
    for row in rows_of(model, marked, source, "sink"):
        new = lambda layer, seen: given[layer][at]  # noqa: E731
        logp, _ = patch_oracle.patched(model.hf, prompt, "residual", [row["layer"]], at, new)
        assert abs(row["logp_patched"] - logp) <= 1e-4


def test_silence_and_black_are_what_the_processor_makes_of_them(small, tmp_path):
    items = avflow.synthetic.make_items("heldout", 1)
    sample = avflow.data.read(avflow.synthetic.write_items(items, tmp_path)).samples[0]
    prompt = small.prepare(sample)
    frames = torch.zeros(4, 3, 56, 56, dtype=torch.uint8)
    black = small.processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    silent = small.processor.feature_extractor(
        np.zeros(16000, np.float32), sampling_rate=16000, return_tensors="np", padding="max_length"
    )["input_features"]
    blank = blanked(small, prompt, ("silence", "black")).model_inputs
    assert torch.allclose(blank["pixel_values_videos"][0], black["pixel_values_videos"][0], atol=1e-6)
    assert np.allclose(silent, float(blank["input_features"].flatten()[0]), atol=1e-6)
    assert blank["pixel_values_videos"].shape == prompt.model_inputs["pixel_values_videos"].shape
    rows = rows_of(small, prompt, "silence+black", ["video", "audio", "question", "last"])
    last = [r for r in rows if r["site"] == "last"]
    assert last[0]["p_source"] < last[0]["p_base"] and last[-1]["carried"] == pytest.approx(1, abs=1e-3)
    assert all(r["status"] == "ok" for r in rows)


def test_black_needs_a_processor_and_silence_a_sound(omni):
    with pytest.raises(avflow.InputError, match="processor"):
        avflow.patch(omni, tiny.av_prompt(seconds=2), "black", "video", select="all")
    with pytest.raises(avflow.InputError, match="no sound"):
        avflow.patch(omni, tiny.av_prompt("silent", seconds=2), "silence", "video", select="all")


def test_sites_of_ones_own_in_the_prompts_and_in_those_that_give_the_states(small, tmp_path):
    samples = avflow.data.read(
        avflow.synthetic.write_items(avflow.synthetic.make_items("heldout", 2), tmp_path)
    ).samples
    labels = avflow.Labels(lambda p, s: [{"group": "begun", "of": "video", "items": [0]}], ["begun"])
    own, other = (small.prepare(one, labels=labels) for one in samples)
    sources = {"of": [samples[1]], "mean": [samples[1]]}
    for kind, given in sources.items():
        make = getattr(avflow.PatchSource, kind)
        with pytest.warns(avflow.AvflowWarning, match=r"'video' no longer .* video\+begun"):
            small.warned.clear()
            found = rows_of(small, samples[0], make(given), ["begun", "video"], layers=[2], labels=labels)
        assert found == rows_of(small, own, make([other]), ["begun", "video"], layers=[2])
        assert all(row["status"] == "ok" for row in found)


def test_more_other_prompts_than_are_patched_are_no_pairs(omni, prompt):
    others = [tiny.av_prompt(seconds=2, seed=seed, id=str(seed)) for seed in (2, 3)]
    with pytest.raises(avflow.InputError, match="2 other prompts are given for 1 that are patched"):
        rows_of(omni, prompt, avflow.PatchSource.of(others), "last")


@pytest.mark.parametrize("part", PARTS)
def test_the_mean_of_a_sum_is_over_all_its_tokens_in_the_last_layer_too(omni, prompt, part):
    more = [tiny.av_prompt(seconds=2, seed=seed, id=str(seed)) for seed in (3, 4)]
    last, site = omni.n_layers - 1, "question+last"
    (row,) = rows_of(omni, prompt, avflow.PatchSource.mean(more), site, part, layers=last)
    seen = [patch_oracle.states(omni.hf, one, part)[last][patch_oracle.tokens(one, site)] for one in more]
    at, mean = patch_oracle.tokens(prompt, site), torch.cat(seen).mean(0)
    new = lambda layer, states: mean.expand(len(at), *mean.shape)  # noqa: E731
    logp, _ = patch_oracle.patched(omni.hf, prompt, part, [last], at, new)
    assert abs(row["logp_patched"] - logp) <= 1e-4


def test_a_sample_is_no_other_run_of_itself(small, tmp_path):
    items = avflow.synthetic.make_items("heldout", 1)
    sample = avflow.data.read(avflow.synthetic.write_items(items, tmp_path)).samples[0]
    with pytest.raises(avflow.InputError, match="as its own other run"):
        rows_of(small, [sample], avflow.PatchSource.of([dataclasses.replace(sample)]), "last", layers=[3])


def question_changed(prompt):
    ids, first = prompt.input_ids.clone(), prompt.groups.index("question_text")
    ids[first + 1] = (ids[first + 1] + 1) % 400
    inputs = {**prompt.model_inputs, "input_ids": ids[None]}
    return dataclasses.replace(prompt, input_ids=ids, model_inputs=inputs), first + 1


def test_rows_before_the_first_difference_are_shared(omni, prompt):
    other, first = question_changed(prompt)
    for direction in ("noise", "denoise"):
        found = avflow.patch(
            omni, prompt, avflow.PatchSource.of(other), ["question", "last"], select="all", direction=direction
        )
        assert found.meta["prompts"][0]["shared"] == first
        base, source = (prompt, other) if direction == "noise" else (other, prompt)
        given = patch_oracle.states(omni.hf, source, "residual")
        for row in found.table.to_pylist():
            at = patch_oracle.tokens(prompt, row["site"])
            new = lambda layer, seen, at=at, given=given: given[layer][at]  # noqa: E731
            logp, _ = patch_oracle.patched(omni.hf, base, "residual", [row["layer"]], at, new)
            assert abs(row["logp_patched"] - logp) <= 1e-4
            assert abs(row["logp_source"] - oracle.answer_logp(omni.hf, source)[0]) <= 1e-4
    # All that differs is patched before anything has read it: the run is the other one.
    whole = rows_of(omni, prompt, avflow.PatchSource.of(other), "all", layers=0)
    assert whole[0]["carried"] == pytest.approx(1, abs=1e-3)


def test_a_trace_after_long_media_costs_little_more_than_its_two_runs():
    model = avflow.wrap(tiny.decoder(layers=8, heads=2, kv_heads=1))
    prompt = tiny.text_prompt(32, tokens=2000)
    other = dataclasses.replace(prompt, input_ids=prompt.input_ids.clone())
    other.input_ids[10:1900] = (other.input_ids[10:1900] + 1) % 400
    found = avflow.patch(model, prompt, avflow.PatchSource.of(other), ["question", "last"], select="all")
    info = found.meta["prompts"][0]
    assert info["walks"] == 1 and 1.9 < info["ratio"] < 2.1
    changed, _ = question_changed(dataclasses.replace(prompt, model_inputs={}))
    changed = dataclasses.replace(changed, model_inputs=None)
    found = avflow.patch(model, prompt, avflow.PatchSource.of(changed), ["question", "last"], select="all")
    assert found.meta["prompts"][0]["ratio"] < 1.1


def test_which_prompts_are_selected(omni, prompt):
    answers = {"right": oracle.answer_logp(omni.hf, dataclasses.replace(prompt, answer_ids=[7]))[1], "wrong": 7}
    for name, answer in answers.items():
        one = dataclasses.replace(prompt, answer_ids=[answer], id=name)
        for direction in ("noise", "denoise"):
            for select in ("correct", "wrong"):
                source = avflow.PatchSource.of(tiny.av_prompt(seconds=2, seed=2))
                found = avflow.patch(omni, one, source, "last", select=select, direction=direction)
                wanted = (name == "right") == (select == "correct")
                assert bool(len(found)) == wanted and found.meta["prompts"][0]["selected"] == wanted


def test_statistics_and_figures_of_a_sweep_take_it(omni, prompt, tmp_path):
    prompts = [dataclasses.replace(tiny.av_prompt(seconds=2, seed=s), id=str(s)) for s in range(1, 8)]
    found = avflow.patch(
        omni, prompts, avflow.PatchSource.noise(times=1), ["video", "last", "image"], layers=[0, 1], select="all"
    )
    missing = [r for r in found.table.to_pylist() if r["site"] == "image"]
    assert {r["status"] for r in missing} == {"no token: image"} and missing[0]["p_patched"] is None
    means = average_change(found).to_pylist()
    assert [(m["knockout"], m["layer"]) for m in means] == [("video", 0), ("video", 1), ("last", 0), ("last", 1)]
    changes = [r["change_percent"] for r in found.table.to_pylist() if r["site"] == "video" and r["layer"] == 1]
    assert means[1]["change"] == pytest.approx(np.mean(changes))
    assert len(significance(found)) == 4
    assert "video" in found.to_latex()
    # A site may lift an answer from next to nothing: its figures are in points, with BCa's bands.
    for drawn, table in ((plots.flow(found), found), (plots.flow(found.table), found.table)):
        _, ax = drawn
        assert ax.get_ylabel() == "Change in answer probability (points)"
        points = average_change(table, center="difference", interval="bca").to_pylist()
        (line,) = [line for line in ax.get_lines() if line.get_label() == "video"]
        assert line.get_ydata().tolist() == [row["change"] for row in points if row["knockout"] == "video"]
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert {points[0]["low"], points[0]["high"]} <= {*band.tolist()}
    assert plots.flow(found, center="mean")[1].get_ylabel() == "Change in answer probability (%)"
    figure, ax = plots.heat_map(found)
    assert figure.axes[-1].get_ylabel() == "Change (points)"
    assert ax.collections[0].get_array().ravel().tolist() == [row["change"] for row in points]
    found.save(tmp_path)
    again = avflow.read(tmp_path)
    assert again.experiment == "patch" and again.table.equals(found.table)
    assert len(again.select("wrong")) + len(again.select("correct")) == len(again)


def test_what_is_put_in_is_all_that_is_read_after_the_last_token_is_patched(omni, prompt):
    """The last token's residual after the last layer is the other run's prediction."""
    other = tiny.av_prompt(seconds=2, seed=2)
    one = dataclasses.replace(prompt, answer_ids=[7])
    row = rows_of(omni, one, avflow.PatchSource.of(other), "last", layers=3)[0]
    assert row["logp_patched"] == pytest.approx(row["logp_source"], abs=1e-5)
    video = rows_of(omni, one, avflow.PatchSource.of(other), "video", layers=3)[0]
    assert video["logp_patched"] == video["logp_base"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(source="loud"), "write"),
        (dict(source=3), "PatchSource"),
        (dict(source="noise -1"), "times"),
        (dict(sites=[]), "sites"),
        (dict(sites=["video", "video"]), "twice"),
        (dict(sites="vidio"), "vidio"),
        (dict(sites=[3]), "site 3"),
        (dict(part="heads"), "part"),
        (dict(direction="both"), "direction"),
        (dict(source="zero", direction="denoise"), "denoise"),
        (dict(layers=9), "layers"),
        (dict(window=0), "width"),
        (dict(select="some"), "select"),
        (dict(source=avflow.PatchSource.of([])), "0 other prompts"),
        (dict(source=avflow.PatchSource.of({"other": None})), "no other run"),
        (dict(source=avflow.PatchSource.of(lambda prompt: prompt)), "its own other run"),
        (dict(source=avflow.PatchSource.add(torch.zeros(3))), "the states are"),
        (dict(source=avflow.PatchSource.add(torch.zeros(3, 64))), "3 vectors"),
        (dict(source=avflow.PatchSource.add({0: torch.zeros(64)})), "layer 1"),
        (dict(source=avflow.PatchSource.mean(tiny.av_prompt("silent")), sites="audio"), "'audio'"),
    ],
)
def test_refused(omni, prompt, arguments, message):
    given = dict(source="noise 3", sites="video", select="all") | arguments
    with pytest.raises(avflow.InputError, match=message):
        avflow.patch(omni, prompt, given.pop("source"), **given)


def test_sites_and_sources_refuse_what_makes_none():
    for wrong, message in [
        (lambda: avflow.PatchSite("video", heads=1), "heads"),
        (lambda: avflow.PatchSite("video", "attention", heads=64), "63"),
        (lambda: avflow.PatchSite("video", items=[]), "items"),
        (lambda: avflow.PatchSource.noise(), "one of them"),
        (lambda: avflow.PatchSource.noise(sd=1, times=1), "one of them"),
        (lambda: avflow.PatchSource.noise(sd=0), "sd"),
        (lambda: avflow.PatchSource.add(torch.tensor([math.nan])), "NaN"),
    ]:
        with pytest.raises(avflow.InputError, match=message):
            wrong()


@pytest.mark.parametrize(
    "text, site",
    [
        ("video", avflow.PatchSite("video", "mlp")),  # the default part, here "mlp"
        (" video[0-2, 5] ", avflow.PatchSite("video", "mlp", items=[0, 1, 2, 5])),
        ("video[1]+audio[1]", avflow.PatchSite("video+audio", "mlp", items=1)),
        ("last (heads 1,5)", avflow.PatchSite("last", "attention", heads=[1, 5])),
        ("video[2] (head 3)", avflow.PatchSite("video", "attention", items=2, heads=3)),
        ("question (residual)", avflow.PatchSite("question")),
        ("video (items 0-2) (attention)", avflow.PatchSite("video", "attention", items=range(3))),
    ],
)
def test_sites_in_text_form(text, site):
    (found,) = as_sites(text, "mlp")
    assert found == site
    assert as_sites(found.name, "residual") == [site]  # a name is a text form too


@pytest.mark.parametrize(
    "text, message",
    [
        ("video[1]+audio[2]", "unlike items"),
        ("video[3-1]", "is no range"),
        ("video->last", "site 'video->last': write a group"),
        ("video (norm)", "write a group"),
        ("video[1] (items 2)", "its items are said twice"),
        ("video (mlp) (attention)", "its part are said twice"),
        ("video (mlp) (heads 1)", 'only part="attention" has heads'),
    ],
)
def test_texts_that_are_no_site(text, message):
    with pytest.raises(avflow.InputError, match=re.escape(message)):
        as_sites(text)


def test_a_text_patches_what_its_site_does(omni, prompt):
    other = tiny.av_prompt("b", seconds=2, seed=8)
    source = avflow.PatchSource.of(other)
    texts = avflow.patch(omni, prompt, source, ["video[1,2] (mlp)", "last (heads 2)"], layers=[1], select="all").table
    sites = [avflow.PatchSite("video", "mlp", items=(1, 2)), avflow.PatchSite("last", "attention", heads=2)]
    assert texts.equals(avflow.patch(omni, prompt, source, sites, layers=[1], select="all").table)


def test_a_layer_without_its_own_mlp_is_told(omni, prompt, monkeypatch):
    layer = omni.layers[1]
    monkeypatch.setattr(layer, "forward", _without_mlp_call(layer))
    with pytest.raises(avflow.UnsupportedModelError, match="mlp of decoder layer 1"):
        avflow.patch(omni, prompt, "zero", "video", "mlp", layers=1, select="all", check="off")


def _without_mlp_call(layer):
    def forward(hidden, position_embeddings=None, avflow_call=None, **_):
        normed = layer.input_layernorm(hidden)
        given = dict(position_embeddings=position_embeddings, attention_mask=None, avflow_call=avflow_call)
        hidden = hidden + layer.self_attn(normed, **given)[0]
        return hidden + type(layer.mlp).forward(layer.mlp, layer.post_attention_layernorm(hidden))

    return forward
