"""A question with media at its tags becomes a prompt: every medium in its place, with its group and item."""

import pytest
import torch
from clips import Clip, write_png, write_wav
from demo_folder import model
from prompt_reading import runs, text_of

import avflow
from avflow.errors import InputError, UnsupportedModelError


def sample(folder, **changes):
    media = {"[audio1]": str(write_wav(Clip(), folder / "a.wav"))}
    for n, color in enumerate(("red", "blue"), start=1):
        media[f"[img{n}]"] = str(write_png(Clip(color=color), folder / f"{n}.png"))
    asked = dict(id="0", question="Hear [audio1]. Does [img1] fit, or [img2]?", tagged=media, task="tone")
    asked |= dict(options=["the second image", "the first image"], answer="A", names=["[img2]", "[img1]"])
    return avflow.Sample(**asked | changes)


def test_media_stand_at_their_tags(tmp_path):
    prompt = model().prepare(sample(tmp_path))
    found = [run[:2] for run in runs(prompt.groups, prompt.items) if run[0] != "template"]
    assert found == [
        ("system", -1),
        ("question_text", -1),  # Hear
        ("reference", 0),
        ("question_text", -1),  # . Does
        ("candidate_incorrect", 0),
        ("question_text", -1),  # fit, or
        ("candidate_correct", 1),
        ("question_text", -1),  # ?
        ("option_correct", 0),
        ("option_incorrect", 1),
        ("question_text", -1),  # the instruction
        ("last", -1),
    ]
    assert text_of(prompt, "question_text").startswith("Hear . Does  fit, or ?\nAnswer with")
    assert text_of(prompt, "option_correct") == "A. the second image\n" and prompt.answer == "A"
    assert prompt.times is None and torch.isfinite(model().hf(**prompt.model_inputs).logits).all()
    row = avflow.sweep(model(), prompt, "candidates->question", layers=[6], select="all").table.to_pylist()[0]
    assert row["status"] == "ok" and row["logp_knockout"] != row["logp_clean"]


def test_without_names_media_are_of_their_kind_and_the_pixels_are_in_the_order_of_the_tags(tmp_path):
    there = sample(tmp_path, names=None)
    prompt = model().prepare(there)
    kinds = [run[:2] for run in runs(prompt.groups, prompt.items) if run[0] in ("audio", "image")]
    assert kinds == [("audio", 0), ("image", 0), ("image", 1)]
    swapped = sample(tmp_path, question="Hear [audio1]. Does [img2] fit, or [img1]?", names=None)
    pixels = [model().prepare(one).model_inputs["pixel_values"] for one in (there, swapped)]
    half = len(pixels[0]) // 2
    assert torch.equal(pixels[0][:half], pixels[1][half:]) and not torch.equal(*pixels)


def test_a_style_words_the_options_and_the_instruction(tmp_path):
    style = {"option": "{letter}: {text}", "instruction_first": True, "separate_instruction": True}
    prompt = model().prepare(sample(tmp_path), prompt_style=style)
    assert text_of(prompt, "option_incorrect") == "B: the first image"
    found = [run[0] for run in runs(prompt.groups, prompt.items) if run[0] != "template"]
    assert found[1:3] == ["instruction", "question_text"]


def test_models_that_lay_out_no_tags_say_so(tmp_path):
    with pytest.raises(UnsupportedModelError, match="has tags, images and sounds in turns"):
        model("video_salmonn2_plus").prepare(sample(tmp_path))
    with pytest.raises(InputError, match="holds the special token"):
        model().prepare(sample(tmp_path, question="Hear [audio1]. Does [img1] fit<|im_end|>, or [img2]?"))
