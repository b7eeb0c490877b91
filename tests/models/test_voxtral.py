"""Voxtral's chat: labels of every token from ids alone, what is begun for the model, what is refused.

That its prompts are transformers' own, and that every entry point is exact on them, is in test_family_matrix.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny_families
import transformers.utils
from clips import Clip, write_wav
from prompt_reading import runs
from tiny_families import ask, voxtral
from tiny_families.voxtral import file_chat

import avflow
from avflow.errors import InputError, UnsupportedModelError

for package in voxtral.NEEDS:
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return voxtral.build(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def model(folder):
    return avflow.load(folder)


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    return tiny_families.tone(tmp_path_factory.mktemp("tone"))


def said(model, prompt, group: str) -> str:
    ids = [i for i, g in zip(prompt.input_ids.tolist(), prompt.groups, strict=True) if g == group]
    return model.processor.tokenizer.decode(ids)


def test_every_token_has_its_label(model, tone):
    prompt = model.prepare(ask(audio=tone))
    found = runs(prompt.groups, prompt.items)
    # 30 s of padded sound, 12.5 tokens a second: 25 tokens are an item of 2 s
    assert found[:17] == [("template", -1, 3), *(("audio", item, 25) for item in range(15)), found[16]]
    assert [group for group, _, _ in found[16:]] == [
        "question_text", "option_correct", "option_incorrect", "option_incorrect", "question_text", "last",
    ]  # fmt: skip
    assert said(model, prompt, "template") == "<s>[INST][BEGIN_AUDIO]" and said(model, prompt, "last") == "[/INST]"
    assert said(model, prompt, "question_text").startswith("Which color is the shape?\n")
    times = [time for time in prompt.times if time is not None]
    assert times == pytest.approx([0.08 * n for n in range(375)]) and prompt.times[3] == 0
    assert model.processor.tokenizer.decode(prompt.answer_ids) == "A"


def test_the_question_first_and_characters_of_several_tokens(model, tone):
    sample = ask(audio=tone, question="Wo ist der Ton 🎵?", options=["überall", "音"], answer="überall")
    prompt = model.prepare(sample, question_first=True)
    assert len(model.processor.tokenizer("音", add_special_tokens=False)["input_ids"]) == 3  # a token a byte
    assert said(model, prompt, "question_text").startswith("Wo ist der Ton 🎵?\n")
    assert said(model, prompt, "option_correct") == "A. überall\n"
    assert said(model, prompt, "option_incorrect") == "B. 音\n"
    order = list(dict.fromkeys(prompt.groups))
    assert order == ["template", "question_text", "option_correct", "option_incorrect", "audio", "last"]
    chat = file_chat(prompt)
    chat[0]["content"].reverse()
    assert prompt.input_ids.tolist() == model.processor.apply_chat_template(chat)["input_ids"][0].tolist()


def test_a_begun_answer(model, tone):
    begun = "Best option: ("
    bare = model.prepare(ask(audio=tone))
    prompt = model.prepare(ask(audio=tone), prompt_style={"answer_prefix": begun})
    tail = model.processor.tokenizer(begun, add_special_tokens=False)["input_ids"]
    assert prompt.input_ids.tolist() == bare.input_ids.tolist() + tail
    assert prompt.groups[: len(bare)] == [*bare.groups[:-1], "template"] and prompt.groups[-1] == "last"
    assert prompt.model_inputs["attention_mask"].tolist() == [[1] * len(prompt)]
    chat = [*file_chat(prompt), {"role": "assistant", "content": begun}]
    theirs = model.processor.tokenizer.apply_chat_template(chat, continue_final_message=True, return_dict=True)
    assert prompt.input_ids.tolist() == theirs["input_ids"]


def test_sound_of_more_than_30_s_is_another_piece(model, tmp_path):
    prompt = model.prepare(ask(audio=write_wav(Clip(seconds=31), tmp_path / "long.wav")))
    assert prompt.groups.count("audio") == 750 and max(prompt.items) == 29 and "notes" not in prompt.media
    assert prompt.model_inputs["input_features"].shape[0] == 2
    batch = model.prepare_batch([prompt, model.prepare(ask(audio=tmp_path / "long.wav", question="What?"))])
    assert batch.model_inputs["input_features"].shape[0] == 4


def test_no_sample_is_rounded(model, tone, monkeypatch):
    sound = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)  # an odd one has no 16-bit form
    heard = []
    read = type(model.processor)._retrieve_input_features
    monkeypatch.setattr(
        type(model.processor),
        "_retrieve_input_features",
        lambda self, audio, *args, **kwargs: [heard.extend(audio), read(self, audio, *args, **kwargs)][1],
    )
    monkeypatch.setattr("avflow.models.processor_chat.read_audio", lambda *args, **kwargs: sound)
    model.prepare(ask(audio=tone))
    assert np.array_equal(heard[0][:16000], sound) and not heard[0][16000:].any()


def test_what_is_refused(model, tone):
    with pytest.raises(InputError, match="no system text beside a sound: leave system out"):
        model.prepare(ask(audio=tone), system="Listen.")
    with pytest.raises(InputError, match=r"special token '\[INST\]'"):
        model.prepare(ask(audio=tone, question="What does [INST] mean?"))
    with pytest.raises(InputError, match="has video: Voxtral reads one audio at a time"):
        model.prepare(ask(video="clip.mp4"))


@pytest.mark.parametrize("package", ["mistral_common", "soundfile"])
def test_without_its_packages(folder, monkeypatch, package):
    monkeypatch.setattr(transformers.utils, f"is_{package}_available", lambda: False)
    with pytest.raises(UnsupportedModelError, match=r"pip install 'mistral-common\[audio\]'"):
        avflow.load(folder)
