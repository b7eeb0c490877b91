"""Qwen3-Omni from checkpoint folders: as transformers' processor has it, and exact on real files."""

from __future__ import annotations

import dataclasses
import re

import evict_cases
import numpy as np
import oracle
import pytest
import torch
from clips import Clip, write_clip, write_wav
from command import avflow_
from tiny_families import qwen3_omni

import avflow
from avflow.knockouts.presets import as_knockouts
from avflow.models.proof import figures
from avflow.models.qwen2_5_omni import processor as processing
from avflow.models.qwen3_omni import PICTURE, VIDEO_PIXELS, agreeing_fps
from avflow.walk.capture import capture


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen3_omni.build(tmp_path_factory.mktemp("omni") / "full")


@pytest.fixture(scope="module")
def model(folder):
    found = avflow.load(folder)
    found.hf.generation_config.eos_token_id = None
    return found


@pytest.fixture(scope="module")
def prompts(model, media):
    return [model.prepare(sample) for sample in qwen3_omni.samples(media)]


def test_prompts_are_those_of_transformers_processor(folder, prompts):
    for prompt in prompts:
        theirs = qwen3_omni.published(folder, prompt)
        assert set(theirs) == set(prompt.model_inputs)
        for name, value in prompt.model_inputs.items():
            assert value == theirs[name] if isinstance(value, bool) else torch.equal(value, theirs[name]), name


def test_without_torchvision_it_is_the_same(folder, model, prompts):
    bare = processing._without_torchvision(str(folder), "Qwen3OmniMoeProcessor", PICTURE)
    bare.avflow_info = processing.ProcessorInfo("avflow", *processing.video_limits(str(folder), *VIDEO_PIXELS))
    other = avflow.wrap(model.hf, bare)
    for prompt in prompts:
        found = other.prepare(prompt.sample)
        assert found.media["processor"] == "avflow" and set(found.model_inputs) == set(prompt.model_inputs)
        for name, value in prompt.model_inputs.items():
            assert (
                value == found.model_inputs[name]
                if isinstance(value, bool)
                else torch.allclose(value.float(), found.model_inputs[name].float(), atol=1e-6)
            ), name


def test_doctor_looks_at_its_own_thinker(folder):
    told = avflow_("doctor", folder, "--no-weights")
    assert told.exit_code == 0 and "Qwen3OmniMoeThinkerForConditionalGeneration" in told.stdout
    assert re.search(r"layers +3\n", told.stdout)


def test_sound_stands_step_by_step(model, prompts):
    both, silent, image, sound = prompts
    marks = [i for i, g in enumerate(both.groups) if g in ("video", "audio")]
    assert [both.groups[i] for i in marks] == (["video"] * 4 + ["audio"] * 13) * 3
    assert [both.items[i] for i in marks] == [0] * 17 + [1] * 17 + [2] * 17
    assert [sound.items[i] for i, g in enumerate(sound.groups) if g == "audio"] == [0] * 26 + [1] * 13
    assert both.times[marks[17]] == 1.0 and both.times[marks[16]] == pytest.approx(12 / 13)
    assert "system" not in both.groups and silent.groups.count("video") == 12 and image.groups.count("image") == 4
    for prompt in prompts:  # from ids alone
        groups, items = model.family.label(model, prompt.input_ids, prompt.model_inputs.get("video_grid_thw"))
        for group, item, given, number in zip(groups, items, prompt.groups, prompt.items, strict=True):
            assert group == (given if given in model.family.told_by_ids else "question_text")
            assert item == (number if group in ("video", "audio", "image") else -1)


def test_the_thinker_alone_is_the_same_model(model, prompts, tmp_path):
    alone = avflow.load(qwen3_omni.build(tmp_path / "thinker", alone=True))
    with torch.no_grad():
        both = [m.hf(**prompts[0].model_inputs).logits for m in (model, alone)]
    assert torch.equal(*both)


def test_sweeps_are_exact(model, prompts):
    bare = avflow.wrap(model.hf)  # tables show ids, as the oracle does
    for prompt, names in zip(prompts, ("audio<->video video->last", "cross:video", "image->question", ""), strict=True):
        cuts = as_knockouts([*names.split(), "question->last"])
        rows = avflow.sweep(bare, prompt, cuts, window=1, select="all").table.to_pylist()
        done = [row for row in rows if row["status"] == "ok"]
        assert oracle.check_rows(model.hf, prompt, cuts, done, 1) > 1e-3
    assert figures(bare)["difference"] < 1e-4


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_evictions_are_exact_in_a_batch(model, prompts, decode):
    """Of a video with sound, and of fewer frames of it; labelled by their ids."""
    batch = model.prepare_batch([prompts[0], model.prepare(prompts[0].sample, max_frames=4)])
    how = dict(max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)
    steps = {"video": 0, "audio": 1}
    ends = [batch.model_inputs["input_ids"].shape[1]] if decode == "drop" else None
    with avflow.evict(model, steps, decode):
        ours = model.hf.generate(**batch.model_inputs, **how)
    cuts = evict_cases.cuts_of(evict_cases.leaves(batch.groups, steps), 4, ends, layers=model.n_layers)
    with oracle.dense(model.hf, cuts), torch.no_grad():
        theirs = model.hf.generate(**batch.model_inputs, **how)
    evict_cases.check(ours, theirs)


@pytest.fixture(scope="module")
def uneven(model, media):
    """A clip whose steps last no whole number of positions: text after it stands at fractions."""
    path = write_clip(Clip(seconds=2.3, fps=10, width=112, height=84), media / "uneven.mp4")
    return model.prepare(avflow.Sample(id="0", video=str(path), **qwen3_omni.ASK))


def test_positions_may_be_fractions(model, uneven):
    uneven = model.prepare(dataclasses.replace(uneven.sample, use_audio_in_video=False))
    found = capture(model, uneven)
    assert found.positions.is_floating_point() and found.positions[0, 0, -1] % 1 != 0
    assert found.after == pytest.approx(found.positions[0, 0, -1].item() + 1, abs=1e-4)
    bare = avflow.wrap(model.hf)
    text = avflow.sweep_text(bare, uneven, "video->question", window=1, layers=[1], max_new_tokens=4).table.to_pylist()
    with torch.no_grad():
        own = model.hf.generate(**uneven.model_inputs, max_new_tokens=4, do_sample=False)[0, len(uneven) :]
    assert text[0]["text_clean"] == bare.text(own.tolist())
    with avflow.evict(model, {"video": 1}):
        ours = model.hf.generate(**uneven.model_inputs, max_new_tokens=3, do_sample=False)
    cuts = evict_cases.cuts_of(evict_cases.leaves([uneven.groups], {"video": 1}), 4, layers=model.n_layers)
    with oracle.dense(model.hf, cuts), torch.no_grad():
        assert torch.equal(ours, model.hf.generate(**uneven.model_inputs, max_new_tokens=3, do_sample=False))


def test_tokens_and_positions_stand_in_one_order(model, uneven):
    """A row's position is one that a token of its kind has: a step's tokens share their time, sound counts on."""
    found = capture(model, uneven).positions[:, 0]
    video = [i for i, g in enumerate(uneven.groups) if g == "video"]
    audio = [i for i, g in enumerate(uneven.groups) if g == "audio"]
    start = found[0, audio[0]]
    assert torch.equal(found[:, audio], (start + torch.arange(len(audio))).expand(3, -1))
    step = torch.tensor([uneven.items[i] for i in video]) * uneven.model_inputs["video_second_per_grid"] * 13
    assert torch.equal(found[0, video], (step + start).float())


@pytest.mark.parametrize("seconds", [0.5, 1 / 3, 2 / 3, 0.2, 11.7 / 18, 20 / 39])
def test_a_rate_at_which_processor_and_model_agree(seconds):
    for steps, before in ((3, 20), (60, 40), (384, 300)):
        fps = agreeing_fps(seconds, steps, 13, before)
        assert fps == pytest.approx(1 / seconds, rel=3e-4)
        sounds = np.ceil(np.arange(steps) * (2 / fps) * 13.0)  # that are laid out before each step
        for start in (1, before // 2, before):
            place = start + torch.arange(steps) * torch.tensor(2 / fps, dtype=torch.float32) * 13
            assert (torch.ceil(place) - start).tolist() == sounds.tolist()


def test_long_sound_is_heard_to_its_end(model, media, monkeypatch):
    extractor = model.processor.feature_extractor
    for name, most in {"n_samples": 2 * 16_000, "nb_max_frames": 200, "chunk_length": 2}.items():
        monkeypatch.setattr(extractor, name, most)  # of a Qwen2.5-Omni, which cuts there
    path = write_wav(Clip(seconds=5.0), media / "long.wav")
    prompt = model.prepare(avflow.Sample(id="0", audio=str(path), **qwen3_omni.ASK))
    assert prompt.groups.count("audio") == 5 * 13 and "notes" not in prompt.media


def test_published_timing_and_a_system_text(model, media):
    sample = qwen3_omni.samples(media)[0]
    prompt = model.prepare(sample, timing="published", system="Be brief.")
    assert prompt.model_inputs["video_second_per_grid"].tolist() == [1.0]
    assert model.text([t for t, g in zip(prompt.input_ids.tolist(), prompt.groups, strict=True) if g == "system"]) == (
        "Be brief."
    )
