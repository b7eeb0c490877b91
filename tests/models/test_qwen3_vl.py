"""Qwen3-VL from checkpoint folders: as transformers' processor has it, and exact on real files."""

from __future__ import annotations

import evict_cases
import oracle
import pytest
import torch
from clips import Clip, write_clip
from tiny_families import qwen3_vl, qwen3_vl_moe

import avflow
from avflow.errors import InputError
from avflow.media.images import fit_video
from avflow.models.qwen3_vl import time_words
from avflow.prompts.timed_labels import TimedIds, count_timed_videos, expand_timed, label_timed

FAMILIES = {"dense": qwen3_vl, "moe": qwen3_vl_moe}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory, media):
    """A family's folder, its model, its samples' prompts."""
    found = FAMILIES[request.param]
    folder = found.build(tmp_path_factory.mktemp(request.param) / "model")
    model = avflow.load(folder)
    model.hf.generation_config.eos_token_id = None
    return folder, model, [model.prepare(sample) for sample in found.samples(media)]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return avflow.load(qwen3_vl.build(tmp_path_factory.mktemp("dense") / "model"))


def test_prompts_are_those_of_transformers_processor(case):
    folder, _, prompts = case
    for prompt in prompts:
        theirs = qwen3_vl.published(folder, prompt)
        assert set(theirs) == set(prompt.model_inputs)
        for name, value in prompt.model_inputs.items():
            assert torch.equal(value, theirs[name]), name


def test_a_processor_of_transformers_serves_as_well(case):
    folder, model, prompts = case
    other = avflow.wrap(model.hf, qwen3_vl.processor(folder))
    for prompt in prompts:
        found = other.prepare(prompt.sample)
        assert found.groups == prompt.groups and set(found.model_inputs) == set(prompt.model_inputs)
        for name, value in prompt.model_inputs.items():
            assert torch.equal(value, found.model_inputs[name]), name


def test_steps_of_a_video_are_items_and_its_times_template(case):
    _, model, (prompt, image) = case
    where = {group: [i for i, g in enumerate(prompt.groups) if g == group] for group in set(prompt.groups)}
    assert [prompt.items[at] for at in where["video"]] == [0] * 6 + [1] * 6 + [2] * 6
    assert [prompt.times[at] for at in where["video"][::6]] == [0.3, 1.4, 2.6]
    said = model.text(prompt.input_ids[where["template"]].tolist())
    assert said.startswith("<|im_start|>user\n<|vision_start|><0.3 seconds><|vision_start|><|vision_end|><1.4 seconds>")
    assert "system" not in where and image.groups.count("image") == 12


def test_labels_from_ids_alone(case):
    _, model, prompts = case
    for prompt, videos in zip(prompts, (1, 0), strict=True):
        groups, items = model.family.label(model, prompt.input_ids)
        for group, item, given, number in zip(groups, items, prompt.groups, prompt.items, strict=True):
            assert group == (given if given in model.family.told_by_ids else "question_text")
            assert item == (number if group in ("video", "image") else -1)
        assert model.family.count_videos(model, prompt.input_ids) == videos


def test_ids_without_marks_around_all_steps(case):
    """As transformers 4 laid them out, also behind text and behind another medium: what is not the time stays text."""
    _, model, (prompt, image) = case
    ids, tokenizer = prompt.input_ids.tolist(), model.processor.tokenizer
    first = ids.index(model.family.media_ids(model).begin)
    steps = slice(first + 1, len(ids) - ids[::-1].index(model.family.media_ids(model).end) - 1)
    timed, end = ids[steps], ids[steps.stop + 1 :]
    text = tokenizer("look here", add_special_tokens=False)["input_ids"]
    at = image.input_ids.tolist().index(model.family.media_ids(model).end) + 1
    picture = image.input_ids.tolist()[:at]
    for before, videos in ((ids[:first], 1), (ids[:first] + text, 1), (picture + text, 1), (ids[:first] + timed, 2)):
        whole = torch.tensor(before + timed + end)
        groups, items = model.family.label(model, whole)
        assert groups[len(before) : len(before) + len(timed)] == prompt.groups[steps]
        moved = 3 * (videos - 1)  # items count on from the video before
        want = [item + moved * (group == "video") for item, group in zip(prompt.items, prompt.groups, strict=True)]
        assert items[len(before) : len(before) + len(timed)] == want[steps]
        if before[-len(text) :] == text:
            assert set(groups[len(before) - len(text) : len(before)]) == {"question_text"}
        assert model.family.count_videos(model, whole) == videos


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_evictions_are_exact_in_a_batch_labelled_by_ids(case, decode):
    _, model, prompts = case
    batch = model.prepare_batch(prompts)
    how = dict(max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)
    steps, ends = {"video+image": 0}, [batch.model_inputs["input_ids"].shape[1]] if decode == "drop" else None
    with avflow.evict(model, steps, decode):
        ours = model.hf.generate(**batch.model_inputs, **how)
    cuts = evict_cases.cuts_of(evict_cases.leaves(batch.groups, steps), 4, ends, layers=model.n_layers)
    with oracle.dense(model.hf, cuts), torch.no_grad():
        theirs = model.hf.generate(**batch.model_inputs, **how)
    evict_cases.check(ours, theirs)


def test_positions_are_the_models_own(case):
    """Interleaved M-RoPE: what a prompt's forward gives its decoder, captured."""
    from avflow.walk.capture import capture

    _, model, (prompt, _) = case
    inputs = {name: prompt.model_inputs[name] for name in ("input_ids", "mm_token_type_ids", "video_grid_thw")}
    theirs, delta = model.hf.model.get_rope_index(**inputs)
    found = capture(model, prompt)
    assert torch.equal(found.positions, theirs) and found.after == len(prompt) + int(delta)
    assert model.text_model.rotary_emb.mrope_section == [4, 2, 2]


def test_sizes_of_videos_are_those_of_transformers():
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    rng = torch.Generator().manual_seed(0)
    for _ in range(300):
        frames, height, width = (int(torch.randint(1, most, (1,), generator=rng)) for most in (300, 1400, 1400))
        if max(height, width) > 100 * min(height, width):
            continue
        for least, most in ((4096, 25_165_824), (131_072, 786_432)):
            theirs = smart_resize(2 * frames, height, width, 2, 32, least, most)
            assert fit_video(2 * frames, height, width, 32, least, most) == theirs


def test_limits_of_a_frame(dense, media):
    path = str(write_clip(Clip(seconds=2.0, width=320, height=224), media / "wide.mp4", sound=False))
    sample = avflow.Sample(id="0", video=path, **qwen3_vl.ASK)

    def grid(**limits):
        return dense.prepare(sample, **limits).model_inputs["video_grid_thw"][0].tolist()

    assert grid() == [2, 4, 8]  # 4 frames of at most 12 tokens: the folder's 48 of all
    assert grid(max_pixels=6 * 1024) == [2, 4, 4]
    assert grid(min_pixels=20 * 1024) == [2, 6, 10]  # a limit that is given goes before the folder's
    assert grid(fps=1.0, min_frames=2) == [1, 8, 10]
    with pytest.raises(InputError, match="need 0 < min_pixels <= max_pixels"):
        grid(min_pixels=2048, max_pixels=1024)


def test_a_system_text_where_one_is_given(dense, media):
    sample = avflow.Sample(id="0", image=str(qwen3_vl.samples(media)[1].image), **qwen3_vl.ASK)
    prompt = dense.prepare(sample, system="Be brief.")
    at = [i for i, group in enumerate(prompt.groups) if group == "system"]
    assert dense.text(prompt.input_ids[at].tolist()) == "Be brief." and at[0] > 0


@pytest.mark.parametrize(
    "more, options, message",
    [
        (dict(audio="a.wav"), {}, "hears nothing"),
        (dict(use_audio_in_video=True), {}, "hears nothing"),
        ({}, dict(timing="published"), "leave timing out"),
    ],
)
def test_what_it_cannot_read(dense, media, more, options, message):
    sample = avflow.Sample(id="0", video=str(media / "silent.mp4"), **qwen3_vl.ASK, **more)
    with pytest.raises(InputError, match=message):
        dense.prepare(sample, **options)


VIDEO, IMAGE, BEGIN, END = 90, 91, 92, 93
IDS = TimedIds(VIDEO, IMAGE, BEGIN, END)


def test_two_videos_beside_an_image():
    step = [5, BEGIN, VIDEO, VIDEO, END]  # its time in words, then its tokens
    plain = [1, BEGIN, VIDEO, END, 2, BEGIN, IMAGE, END, BEGIN, VIDEO, END, 3]
    real = [1, BEGIN, *step, *step, END, 2, BEGIN, IMAGE, IMAGE, END, BEGIN, *step, END, 3]
    source = expand_timed(plain, real, IDS)
    assert source == [0, 1, *[2] * 10, 3, 4, 5, 6, 6, 7, 8, *[9] * 5, 10, 11]
    assert count_timed_videos(real, IDS) == 2 and count_timed_videos(plain[4:8], IDS) == 0
    found = label_timed(real, IDS)
    assert [found[at] for at, token in enumerate(real) if token in (VIDEO, IMAGE)] == [
        *[("video", 0)] * 2,
        *[("video", 1)] * 2,
        *[("image", 0)] * 2,
        *[("video", 2)] * 2,
    ]
    assert [at for at, label in found.items() if label[0] == "template"] == [2, 3, 7, 8, 19, 20]
    with pytest.raises(InputError, match="token 2 of the chat text is 90"):
        expand_timed(plain, [1, BEGIN, 2, 3], IDS)
    with pytest.raises(InputError, match="1 tokens more"):
        expand_timed(plain, [*real, 3], IDS)


def test_the_time_of_a_step_is_the_middle_of_its_frames():
    assert [time_words([0.0, 0.5, 1.0, 1.5], step) for step in (0, 1)] == ["<0.2 seconds>", "<1.2 seconds>"]
