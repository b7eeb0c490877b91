"""Families that transformers' own processor prepares: which frames, items, times, and what they do not read.

That their prompts are the processor's, and that every entry point is exact on them, is in test_family_matrix.py.
"""

from __future__ import annotations

import pytest
import tiny_families
import torch
from clips import Clip, write_clip, write_wav
from prompt_reading import runs
from tiny_families import ask

import avflow
from avflow.errors import InputError, MediaError, UnsupportedModelError
from avflow.models.processor_labels import byte_offsets, label_expanded, media_items
from avflow.prompts.labels import Span
from avflow.tiny.tokenizer import build_tokenizer


def loaded(name: str, tmp_path_factory):
    found = tiny_families.family(name)
    for package in getattr(found, "NEEDS", ()):
        pytest.importorskip(package)
    return avflow.load(found.build(tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def internvl(tmp_path_factory):
    return loaded("internvl", tmp_path_factory)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory):
    return loaded("smolvlm", tmp_path_factory)


@pytest.fixture(scope="module")
def qwen2_audio(tmp_path_factory):
    return loaded("qwen2_audio", tmp_path_factory)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(Clip(seconds=4.0, fps=12, width=56, height=42), tmp_path_factory.mktemp("clip") / "clip.mp4")


def media_runs(prompt, kind):
    return [(item, n) for group, item, n in runs(prompt.groups, prompt.items) if group == kind]


def test_the_frames_are_those_of_the_processors_own_rule(internvl, video):
    """The middles of equal parts: of 48 frames 6, 18, 30, 42, at 12 a second."""
    prompt = internvl.prepare(ask(video=video), max_frames=4)
    assert media_runs(prompt, "video") == [(0, 4), (1, 4), (2, 4), (3, 4)]
    times = [t for t, g in zip(prompt.times, prompt.groups, strict=True) if g == "video"]
    assert times == pytest.approx([t for t in (0.5, 1.5, 2.5, 3.5) for _ in range(4)])
    assert {t for t, g in zip(prompt.times, prompt.groups, strict=True) if g != "video"} == {None}
    assert prompt.media["frames"] == 4 and prompt.media["processor"] == "InternVLProcessor"


def test_how_many_frames(internvl, video):
    count = {
        name: internvl.prepare(ask(video=video), **options).media["frames"]
        for name, options in {
            "default": {},
            "fps": {"fps": 0.5},
            "both": {"fps": 12, "max_frames": 5},
            "more than there are": {"max_frames": 500},
            "less than one": {"fps": 0.01},
        }.items()
    }
    assert count == {"default": 8, "fps": 2, "both": 5, "more than there are": 48, "less than one": 1}
    half = internvl.prepare(ask(video=video, start=1.0, end=3.0), max_frames=2)
    seen = sorted({t for t in half.times if t is not None})
    assert seen == pytest.approx([0.5, 1.5])  # of 24 frames from 1 s on: 6 and 18


def test_words_that_the_processor_writes_are_template(smolvlm, video):
    prompt = smolvlm.prepare(ask(video=video))
    decode = smolvlm.processor.tokenizer.decode
    said = decode([i for i, g in zip(prompt.input_ids.tolist(), prompt.groups, strict=True) if g == "template"])
    assert "User: You are provided the following series of four frames" in said and "Frame from 00:03" in said
    words = decode([i for i, g in zip(prompt.input_ids.tolist(), prompt.groups, strict=True) if g == "question_text"])
    assert words.startswith("Which color is the shape?\n") and words.endswith("directly.")


def test_an_answer_begins_as_the_models_own(smolvlm, internvl, video):
    decode = smolvlm.processor.tokenizer.decode
    prompt = smolvlm.prepare(ask(video=video))
    assert decode(prompt.answer_ids) == " A" and [decode([i]) for i in prompt.option_ids] == [" A", " B", " C"]
    begun = smolvlm.prepare(ask(video=video), prompt_style={"answer_prefix": "("})
    assert decode(begun.answer_ids) == "A" and decode(begun.input_ids.tolist()).endswith("Assistant: (")
    assert internvl.processor.tokenizer.decode(internvl.prepare(ask(video=video)).answer_ids) == "A"


def test_a_system_text(internvl, qwen2_audio, video, tmp_path):
    bare = internvl.prepare(ask(video=video))
    assert "system" not in bare.groups  # the template writes none, and none is published
    told = internvl.prepare(ask(video=video), system="Look.", question_first=True)
    assert told.groups.index("system") < told.groups.index("question_text") < told.groups.index("video")
    heard = qwen2_audio.prepare(ask(audio=tiny_families.tone(tmp_path)))
    assert heard.groups.count("system") == 11


def test_sound_of_more_than_is_heard_is_cut(qwen2_audio, tmp_path):
    long = write_wav(Clip(seconds=7), tmp_path / "long.wav")  # the small model hears 6 s
    prompt = qwen2_audio.prepare(ask(audio=long))
    assert media_runs(prompt, "audio") == [(0, 50), (1, 50), (2, 50)]
    assert "sound cut at 6 s" in prompt.media["notes"][0]
    times = [t for t in prompt.times if t is not None]
    assert times == pytest.approx([0.04 * n for n in range(150)])
    with pytest.raises(MediaError, match="the model hears 6 s"):
        qwen2_audio.prepare(ask(audio=long), strict_media=True)
    short = qwen2_audio.prepare(ask(audio=write_wav(Clip(seconds=1), tmp_path / "short.wav")))
    assert media_runs(short, "audio") == [(0, 25)] and "notes" not in short.media


def test_what_is_not_read(internvl, qwen2_audio, video, tmp_path):
    wav, png = tiny_families.tone(tmp_path), tiny_families.picture(tmp_path)
    for model, media, says in (
        (internvl, dict(audio=wav), "has audio: InternVL reads one video or image at a time"),
        (internvl, dict(video=video, image=png), "has video and image: InternVL reads one"),
        (internvl, dict(video=video, use_audio_in_video=True), "reads no sound of a video"),
        (internvl, dict(video=video, dub=wav), "reads no sound of a video"),
        (qwen2_audio, dict(video=video), "has video: Qwen2Audio reads one audio at a time"),
    ):
        with pytest.raises(InputError, match=says):
            model.prepare(ask(**media))
    with pytest.raises(InputError, match="special token '<video>'"):
        internvl.prepare(ask(video=video, question="Is <video> there?"))


def test_a_batch_has_the_rows_of_single_prompts(internvl, video):
    samples = [ask(video=video, id="0"), ask(video=video, id="1", question="What?")]
    batch = internvl.prepare_batch(samples, max_frames=2)
    with torch.no_grad():
        both = internvl.hf(**batch.model_inputs).logits[:, -1]
        for row, prompt in zip(both, batch.prompts, strict=True):
            torch.testing.assert_close(row, internvl.hf(**prompt.model_inputs).logits[0, -1], atol=1e-4, rtol=0)


def test_videos_of_other_lengths_are_no_batch(tmp_path_factory, video):
    model = loaded("llava_onevision", tmp_path_factory)
    prompts = [model.prepare(ask(video=video, id=str(n)), max_frames=n) for n in (2, 3)]
    with pytest.raises(InputError, match=r"'3' has pixel_values_videos of shape \(1, 3, 3, 42, 42\), prompt '2'"):
        model.prepare_batch(prompts)


def test_options_that_it_does_not_take(internvl, video):
    with pytest.raises(InputError, match="max_pixels = 100: InternVL takes fps, max_frames, use_audio_in_video"):
        internvl.prepare(ask(video=video), max_pixels=100)


def test_ids_alone_do_not_tell(internvl, video):
    prompt = internvl.prepare(ask(video=video), max_frames=2)
    with pytest.raises(UnsupportedModelError, match="pass groups= the prompt of model.prepare"):
        internvl.family.label(internvl, prompt.input_ids)
    refused = pytest.raises(UnsupportedModelError, match="pass groups= the prompt of model.prepare")
    with torch.no_grad(), refused, avflow.evict(internvl, {"video": 1}):
        internvl.hf(**prompt.model_inputs)


def test_items_of_a_medium():
    M = 9
    assert media_items([1, M, M, 2, M, M, 3], M, "video", 2) == {1: ("video", 0), 2: ("video", 0)} | {
        4: ("video", 1),
        5: ("video", 1),
    }
    assert [item for _, item in media_items([M] * 9, M, "video", 4).values()] == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert [item for _, item in media_items([M, 1, M], M, "image", 0).values()] == [0, 0]
    assert [item for _, item in media_items([M] * 101, M, "audio", 0).values()] == [0] * 50 + [1] * 50 + [2]
    with pytest.raises(UnsupportedModelError, match="2 stretches of 3 tokens from a video of 3 frames"):
        media_items([M, 1, M, M], M, "video", 3)
    with pytest.raises(UnsupportedModelError, match="1 stretches of 2 tokens from a video of 3 frames"):
        media_items([M, M], M, "video", 3)


def test_items_of_sound_that_has_fewer_tokens_a_second():
    assert [item for _, item in media_items([9] * 51, 9, "audio", 0, 25).values()] == [0] * 25 + [1] * 25 + [2]


def test_characters_of_tokens_that_spell_bytes():
    """A token within a character has that character."""
    text = "aü音b"
    assert byte_offsets([b"a", *(bytes([b]) for b in "ü".encode()), "音b".encode()]) == [(0, 1), (1, 2), (1, 2), (2, 4)]
    assert byte_offsets([text.encode()[:2], text.encode()[2:]]) == [(0, 2), (1, 4)]
    assert byte_offsets([]) == []


def test_ids_of_another_chat_are_refused():
    tokenizer = build_tokenizer({"video_token": "<video>"})
    spans = [Span(0, 6, "system"), Span(13, 24, "question_text")]
    text = "system<video> in the clip"
    ids = tokenizer("system Frame: <video><video> in the clip")["input_ids"]
    groups, _ = label_expanded(tokenizer, text, spans, ids, "<video>")
    whole = dict.fromkeys(groups)
    assert list(whole) == ["system", "template", "question_text"]
    for wrong in ("a system<video> in the clip", "system<video> in a clip", "system in the clip"):
        with pytest.raises(InputError, match="do not read as the chat"):
            label_expanded(tokenizer, text, spans, tokenizer(wrong)["input_ids"], "<video>")
    with pytest.raises(InputError, match="do not read as the chat"):
        label_expanded(tokenizer, "no mark", [], ids, "<video>")
