"""A sample becomes a prompt: every token of Qwen2.5-Omni's layouts gets the right group and item."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from clips import Clip, write_clip, write_png, write_wav
from demo_folder import clip_file, demo, model
from prompt_reading import runs, text_of

import avflow
from avflow.errors import InputError, MediaError, UnsupportedModelError
from avflow.prompts import labels
from avflow.prompts.sample import Sample

CLIP = Clip()  # 4 s, 112 x 84 pixels: 4 temporal patches of 12 tokens; sound of 100 tokens
ASK = {"id": "0", "question": "Which color is the shape?", "options": ["red", "green", "blue"], "answer": "green"}


def of(prompt, *names) -> list[tuple[str, int, int]]:
    return [run for run in runs(prompt.groups, prompt.items) if run[0] in names]


def sample(**changes) -> Sample:
    medium = {} if {"video", "audio", "image"} & set(changes) else {"video": str(clip_file(CLIP))}
    return Sample(**(ASK | medium | changes))


def forward(prompt):
    with torch.no_grad():
        return model().hf(**prompt.model_inputs).logits


def test_the_interleaved_layout_token_by_token():
    prompt = model().prepare(sample(task="color"))
    assert runs(prompt.groups, prompt.items) == [
        ("template", -1, 3),  # <|im_start|> system \n
        ("system", -1, 32),
        ("template", -1, 7),  # <|im_end|> \n <|im_start|> user \n <|vision_bos|> <|audio_bos|>
        ("video", 0, 12),
        ("video", 1, 12),
        ("audio", 0, 50),
        ("video", 2, 12),
        ("video", 3, 12),
        ("audio", 1, 50),
        ("template", -1, 2),  # <|audio_eos|> <|vision_eos|>
        ("question_text", -1, 7),  # Which color is the shape ? \n
        ("option_incorrect", 0, 4),  # A . red \n
        ("option_correct", 1, 4),
        ("option_incorrect", 2, 4),
        ("question_text", -1, 13),  # the instruction
        ("template", -1, 7),  # <|im_end|> \n <|im_start|> as sist ant
        ("last", -1, 1),  # \n
    ]
    assert (prompt.id, prompt.task, prompt.answer) == ("0", "color", "B")
    tokenizer = model().processor.tokenizer
    assert tokenizer.decode(prompt.answer_ids) == "B"
    assert [tokenizer.decode([i]) for i in prompt.option_ids] == ["A", "B", "C"]
    assert text_of(prompt, "option_correct") == "B. green\n"
    assert text_of(prompt, "option_incorrect") == "A. red\nC. blue\n"
    assert text_of(prompt, "question_text") == (
        "Which color is the shape?\nAnswer with the option's letter from the given choices directly."
    )
    assert text_of(prompt, "system").startswith("You are Qwen, a virtual human") and prompt.position_ids is None
    assert prompt.model_inputs["use_audio_in_video"] is True and prompt.media["frames"] == 8
    assert torch.equal(prompt.model_inputs["input_ids"][0], prompt.input_ids)
    assert torch.isfinite(forward(prompt)).all()


def test_separate_items_video_then_sound(tmp_path):
    wav = write_wav(Clip(seconds=5), tmp_path / "a.wav")  # of another length: nothing is aligned here
    prompt = model().prepare(sample(video=str(clip_file(CLIP)), audio=str(wav)))
    assert of(prompt, "video", "audio") == [
        *[("video", i, 12) for i in range(4)],
        ("audio", 0, 50),
        ("audio", 1, 50),
        ("audio", 2, 25),
    ]
    assert prompt.model_inputs["use_audio_in_video"] is False
    assert torch.isfinite(forward(prompt)).all()


@pytest.mark.parametrize("own_sound", [True, False])
@pytest.mark.parametrize("timing", ["player", "published"])
def test_times_are_those_that_the_positions_say(tmp_path, own_sound, timing):
    """25 positions a second, from the begin of each medium; what the model is told lasts longer is later."""
    wav = {} if own_sound else {"audio": str(write_wav(Clip(seconds=5), tmp_path / "a.wav"))}
    prompt = model().prepare(sample(video=str(clip_file(Clip(seconds=3))), **wav), fps=3, timing=timing)
    owner = next(m for m in model().hf.modules() if hasattr(m, "get_rope_index"))
    inputs = prompt.model_inputs
    sounds = inputs["feature_attention_mask"].sum(1)
    place = owner.get_rope_index(
        inputs["input_ids"],
        None,
        inputs["video_grid_thw"],
        inputs["attention_mask"],
        inputs["use_audio_in_video"],
        sounds,
        inputs["video_second_per_grid"],
    )[0][0, 0]
    for kind in ("video", "audio"):
        at = [i for i, g in enumerate(prompt.groups) if g == kind]
        assert [int(25 * prompt.times[i] + 1e-4) for i in at] == (place[at] - place[at[0]]).tolist()
    untimed = [g for g, t in zip(prompt.groups, prompt.times, strict=True) if t is None]
    assert "video" not in untimed and "audio" not in untimed and "last" in untimed
    batch = model().prepare_batch([prompt.sample, prompt.sample], fps=3, timing=timing)
    assert batch.times == [prompt.times, prompt.times]


def test_what_has_no_time(tmp_path):
    assert model().prepare(sample(image=str(write_png(CLIP, tmp_path / "a.png")))).times is None
    mixed = model().prepare_batch(
        [sample(image=str(write_png(CLIP, tmp_path / "a.png"))), sample(use_audio_in_video=False)]
    )
    assert set(mixed.times[0]) == {None} and {0.0, 1.0, 2.0, 3.0} < set(mixed.times[1])
    assert [len(row) for row in mixed.times] == [len(mixed.groups[0])] * 2
    images = model().prepare_batch([sample(image=str(write_png(CLIP, tmp_path / "a.png")))])
    assert images.times is None


def test_one_medium_alone(tmp_path):
    wav, png = write_wav(CLIP, tmp_path / "a.wav"), write_png(CLIP, tmp_path / "a.png")
    silent = model().prepare(sample(video=str(clip_file(CLIP)), use_audio_in_video=False))
    assert of(silent, "video", "audio", "image") == [("video", i, 12) for i in range(4)]
    heard = model().prepare(sample(audio=str(wav)))
    assert of(heard, "video", "audio", "image") == [("audio", 0, 50), ("audio", 1, 50)]
    seen = model().prepare(sample(image=str(png)))
    assert of(seen, "video", "audio", "image") == [("image", 0, 12)]
    both = model().prepare(sample(image=str(png), audio=str(wav)))
    assert of(both, "video", "audio", "image") == [("image", 0, 12), ("audio", 0, 50), ("audio", 1, 50)]
    for prompt in (silent, heard, seen, both):
        assert torch.isfinite(forward(prompt)).all()


def test_the_question_can_stand_before_the_media():
    prompt = model().prepare(sample(), question_first=True)
    names = [run[0] for run in runs(prompt.groups, prompt.items)]
    assert names.index("question_text") < names.index("video")
    assert names[-4:] == ["video", "audio", "template", "last"]
    assert text_of(prompt, "option_correct") == "B. green\n"
    after = model().prepare(sample())
    for name in set(prompt.groups) | set(after.groups):
        assert prompt.groups.count(name) == after.groups.count(name), name
    assert not torch.equal(forward(prompt)[0, -1], forward(after)[0, -1])


def test_open_ended_questions():
    prompt = model().prepare(sample(options=None, answer="A green shape"))
    assert text_of(prompt, "question_text") == "Which color is the shape?" and prompt.option_ids is None
    assert len(prompt.answer_ids) > 1 and model().processor.tokenizer.decode(prompt.answer_ids) == "A green shape"
    assert not {"option_correct", "option_incorrect"} & set(prompt.groups)


@pytest.mark.parametrize(
    "question",
    ["Quelle couleur? \U0001f534\U0001f7e2", "这是什么颜色\uff1f", "caf\u00e9 \u0301?\n\nA. no option", "1234 a  b\t?"],
)
def test_any_text_is_labelled_by_its_characters(question):
    """Several tokens for one character, text that looks like an option, odd white space."""
    options = ["\U0001f534", "绿色", "x" * 40]
    prompt = model().prepare(sample(question=question, options=options, answer="B"), instruction="")
    assert text_of(prompt, "question_text") == question.strip() + "\n"
    assert text_of(prompt, "option_correct") == "B. 绿色\n"
    assert text_of(prompt, "option_incorrect", 0) == "A. \U0001f534\n"
    assert text_of(prompt, "option_incorrect", 2) == "C. " + "x" * 40
    assert len(of(prompt, "option_correct", "option_incorrect")) == 3


@pytest.mark.parametrize("seconds, fps", [(4.0, 4.0), (5.0, 2.0), (3.0, 3.0), (10.0, 0.8), (0.5, 2.0), (12.0, 0.5)])
def test_counts_are_products_of_the_grid_and_the_sound(tmp_path, seconds, fps):
    """Odd lengths, and less than one frame a second, where the processor's chunks hold one patch token each."""
    path = write_clip(Clip(seconds=seconds), tmp_path / "c.mp4")
    prompt = model().prepare(sample(video=str(path)), fps=fps)
    t, h, w = prompt.model_inputs["video_grid_thw"][0].tolist()
    frames = prompt.media["frames"]
    assert (t, h, w) == (frames // 2, 6, 8) and len(prompt.model_inputs["pixel_values_videos"]) == t * h * w
    items = {
        name: [i for g, i in zip(prompt.groups, prompt.items, strict=True) if g == name] for name in ("video", "audio")
    }
    assert items["video"] == [i for i in range(t) for _ in range(12)]
    assert items["audio"] == [i // 50 for i in range(round(25 * seconds))]
    assert float(prompt.model_inputs["video_second_per_grid"]) == pytest.approx(2 * seconds / frames, rel=1e-5)
    assert torch.isfinite(forward(prompt)).all()


def test_a_dub_stands_where_the_videos_own_sound_would(tmp_path):
    """A clip dubbed with itself is the clip; with another's sound it has this one's frames and that one's sound."""
    other = dataclasses.replace(CLIP, pitch="low" if CLIP.pitch != "low" else "high")
    mine, theirs = str(clip_file(CLIP)), str(clip_file(other))
    plain, beside = model().prepare(sample(video=mine)), model().prepare(sample(video=theirs))
    itself = model().prepare(sample(video=mine, dub=mine))
    dubbed = model().prepare(sample(video=mine, dub=theirs))
    for key, value in plain.model_inputs.items():
        assert itself.model_inputs[key] is value or torch.equal(itself.model_inputs[key], value), key
    assert dubbed.groups == plain.groups and dubbed.items == plain.items
    assert torch.equal(dubbed.model_inputs["pixel_values_videos"], plain.model_inputs["pixel_values_videos"])
    assert torch.equal(dubbed.model_inputs["input_features"], beside.model_inputs["input_features"])
    assert not torch.equal(plain.model_inputs["input_features"], beside.model_inputs["input_features"])
    silent = str(clip_file(CLIP, sound=False))
    assert model().prepare(sample(video=silent, dub=mine)).groups == plain.groups
    with pytest.raises(InputError, match="use_audio_in_video=False and a dub"):
        model().prepare(sample(video=mine, dub=theirs), use_audio_in_video=False)
    short = write_wav(Clip(seconds=1), tmp_path / "short.wav")
    with pytest.raises(MediaError, match="its sound lasts 1.00 s"):
        model().prepare(sample(video=mine, dub=str(short)), strict_media=True)
    assert any("padded" in note for note in model().prepare(sample(video=mine, dub=str(short))).media["notes"])


def test_sound_is_never_dropped_in_silence(tmp_path):
    silent = clip_file(CLIP, sound=False)
    for asked in (None, True):
        with pytest.raises(MediaError, match=r"'0': .*has no sound: set use_audio_in_video=False"):
            model().prepare(sample(video=str(silent), use_audio_in_video=asked))
    assert "audio" not in model().prepare(sample(video=str(silent)), use_audio_in_video=False).groups
    assert "audio" not in model().prepare(sample(use_audio_in_video=False, video=str(silent))).groups
    wav = write_wav(CLIP, tmp_path / "a.wav")
    with pytest.raises(InputError, match="leave one of them out"):
        model().prepare(sample(video=str(silent), audio=str(wav)), use_audio_in_video=True)
    from clips import tone

    short = write_clip(CLIP, tmp_path / "short.mp4", sound=tone(Clip(seconds=2)))
    with pytest.raises(MediaError, match=r"sound lasts 2.0\d s and its video 4.00 s"):
        model().prepare(sample(video=str(short)), strict_media=True)
    prompt = model().prepare(sample(video=str(short)))  # what is missing is silence
    assert prompt.groups == model().prepare(sample()).groups and prompt.media["sound"].startswith("padded 1.9")
    assert len(prompt.media["notes"]) == 1 and "video of 4.00 s: padded 1.9" in prompt.media["notes"][0]
    near = write_clip(CLIP, tmp_path / "near.mp4", sound=tone(Clip(seconds=3.7)))
    prompt = model().prepare(sample(video=str(near)))
    assert prompt.groups.count("audio") == 100 and prompt.media["sound"].startswith("padded 0.2")
    assert "notes" not in prompt.media


def test_sound_that_goes_on_after_the_video_is_kept(tmp_path):
    """As published: the chunks after the last frame hold sound alone. The model places them, too."""
    from clips import tone

    path = write_clip(CLIP, tmp_path / "long.mp4", sound=tone(Clip(seconds=7)))
    with pytest.raises(MediaError, match=r"sound lasts 7.0\d s and its video 4.00 s"):
        model().prepare(sample(video=str(path)), strict_media=True)
    prompt, usual = model().prepare(sample(video=str(path))), model().prepare(sample())
    assert prompt.groups.count("video") == usual.groups.count("video")
    assert [run for run in runs(prompt.groups, prompt.items) if run[0] == "audio"] == [
        ("audio", 0, 50), ("audio", 1, 50), ("audio", 2, 50), ("audio", 3, prompt.groups.count("audio") - 150)
    ]  # fmt: skip
    assert 174 <= prompt.groups.count("audio") <= 177
    assert len(prompt.media["notes"]) == 1 and "after the video kept" in prompt.media["notes"][0]
    assert forward(prompt).isfinite().all()


def test_a_video_longer_than_the_model_hears(tmp_path):
    """Its sound ends at 300 s, as the published feature extractor cuts it; its frames do not."""
    clip = Clip(seconds=304.0, width=56, height=56, fps=2)
    path = write_clip(clip, tmp_path / "c.mp4")
    prompt = model().prepare(sample(video=str(path)), fps=0.5)
    assert prompt.groups.count("audio") == 7500 and prompt.media["frames"] == 152
    assert [note.startswith("sound cut at 300 s") for note in prompt.media["notes"]] == [True]
    with pytest.raises(MediaError, match=r"its sound lasts 304\.0 s, the model hears 300 s: cut the file, or leave"):
        model().prepare(sample(video=str(path)), strict_media=True)


def test_sound_that_is_cut_before_its_end_has_one_note():
    """9.3 s of sound in a video of 10 s, where the model hears 8: the cut is told, and no sentence without an end."""
    from avflow.models import chat

    media = chat.Media()
    chat.note_alignment(media, "", 9.3, 10.0)
    assert media.facts["sound"] == "" and not media.facts.get("notes")


def test_lengths_are_judged_before_anything_is_decoded(tmp_path, monkeypatch):
    from clips import tone

    from avflow.media import video

    def decode(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(video, "keep_frames", decode)
    path = write_clip(CLIP, tmp_path / "c.mp4", sound=tone(Clip(seconds=2)))
    with pytest.raises(MediaError, match="its sound lasts"):
        model().prepare(sample(video=str(path)), strict_media=True)
    silent = clip_file(CLIP, sound=False)
    with pytest.raises(MediaError, match="has no sound"):
        model().prepare(sample(video=str(silent)))


def test_sound_that_the_encoder_cannot_take(tmp_path):
    long, tiny = (
        write_wav(Clip(seconds=301), tmp_path / "long.wav"),
        write_wav(Clip(seconds=0.05), tmp_path / "tiny.wav"),
    )
    with pytest.raises(MediaError, match="long.wav: its sound lasts 301.0 s, the model hears 300 s"):
        model().prepare(sample(audio=str(long)), strict_media=True)
    prompt = model().prepare(sample(audio=str(long)))
    assert prompt.groups.count("audio") == 7500 and prompt.media["sound_seconds"] == 300.0
    assert prompt.media["notes"] == [f"sound cut at 300 s, which is what the model hears: {long} has 301.00 s"]
    with pytest.raises(MediaError, match="tiny.wav: its sound lasts 0.050 s"):
        model().prepare(sample(audio=str(tiny)))


def test_pixel_limits(tmp_path):
    big = write_clip(Clip(seconds=1, width=640, height=360), tmp_path / "big.mp4")
    grid = model().prepare(sample(video=str(big))).model_inputs["video_grid_thw"][0]
    assert grid.tolist() == [2, 12, 20]  # 60 tokens a patch: at most 64 by the checkpoint's own limit
    grid = model().prepare(sample(video=str(big)), max_pixels=8 * 784).model_inputs["video_grid_thw"][0]
    assert grid.tolist() == [2, 4, 6]
    grid = model().prepare(sample(video=str(big)), min_pixels=100 * 784).model_inputs["video_grid_thw"][0]
    assert grid.tolist() == [2, 14, 26]
    png = write_png(Clip(width=640, height=360), tmp_path / "big.png")
    assert model().prepare(sample(image=str(png)), max_pixels=8 * 784).groups.count("image") == 6
    with pytest.raises(InputError, match="min_pixels 10000 and max_pixels 5000"):
        model().prepare(sample(), min_pixels=10_000, max_pixels=5_000)


def test_text_with_special_tokens_is_refused():
    for change in ({"question": "Is <|VIDEO|> here?"}, {"options": ["a<|im_end|>", "b"], "answer": "A"}):
        with pytest.raises(InputError, match=r"'0': its text holds the special token '<\|(VIDEO|im_end)\|>'"):
            model().prepare(sample(**change))


def test_more_tokens_than_the_model_was_trained_for_warn(monkeypatch):
    monkeypatch.setattr(model().config, "max_position_embeddings", 100)
    with pytest.warns(UserWarning, match=r"'0' has 232 tokens, the model was trained for 100: lower fps or max_pixels"):
        model().prepare(sample())


def test_media_errors_name_the_file(tmp_path):
    for medium in ("video", "audio", "image"):
        with pytest.raises(MediaError, match="no such file: .*gone.bin"):
            model().prepare(sample(**{medium: str(tmp_path / "gone.bin")}))


def test_half_precision_reaches_the_pixels_but_not_the_clock():
    half = avflow.load(demo()["checkpoint"], dtype="bfloat16")
    inputs = half.prepare(sample()).model_inputs
    assert inputs["pixel_values_videos"].dtype == inputs["input_features"].dtype == torch.bfloat16
    assert inputs["video_second_per_grid"].dtype == torch.float32
    with torch.no_grad():
        assert torch.isfinite(half.hf(**inputs).logits).all()


@pytest.mark.parametrize("question_first", [False, True])
@pytest.mark.parametrize("own_sound", [False, True])
def test_labels_from_ids_alone(question_first, own_sound):
    """The same labels, but for what ids cannot tell: right from wrong options."""
    prompt = model().prepare(sample(use_audio_in_video=own_sound), question_first=question_first)
    grid = prompt.model_inputs["video_grid_thw"]
    groups, items = model().family.label(model(), prompt.input_ids, video_grid_thw=grid)
    option = [g.startswith("option") for g in prompt.groups]
    assert groups == ["question_text" if o else g for g, o in zip(prompt.groups, option, strict=True)]
    assert items == [-1 if o else i for i, o in zip(prompt.items, option, strict=True)]
    _, unknown = model().family.label(model(), prompt.input_ids)
    assert {i for g, i in zip(groups, unknown, strict=True) if g == "video"} == {-1}


def test_labels_of_turns_and_generated_tokens():
    tokenizer = model().processor.tokenizer
    chat = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "Which?"},
    ]
    text = model().processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text + "The red")["input_ids"]
    groups, items = model().family.label(model(), torch.tensor(ids))

    def words(name):
        return tokenizer.decode([i for i, g in zip(ids, groups, strict=True) if g == name])

    assert words("system") == "You are a helpful assistant." and words("answer") == "The red"
    assert words("question_text") == "Hello thereGood dayWhich?"
    assert groups.count("last") == 1 and groups[groups.index("last") + 1 :] == ["answer"] * groups.count("answer")
    assert set(items) == {-1}
    ended, _ = model().family.label(model(), torch.tensor([*ids, tokenizer.eos_token_id]))
    assert ended == [*groups, "template"]
    bare, _ = model().family.label(model(), tokenizer("Which color?", return_tensors="pt")["input_ids"])
    assert len(bare) > 1 and bare == ["question_text"] * (len(bare) - 1) + ["last"]


def test_items_count_on_over_several_media():
    """Two clips with sound, an image, two sounds side by side: what comes later has items of its own."""
    ids = labels.MediaIds(video=1, audio=2, image=3, audio_start=8, audio_end=9)
    clip = [8, *[1] * 4, *[2] * 3, *[1] * 2, *[2], 9]
    found = labels.label_media([7, *clip, 7, *clip, 3, 3, 7, 3, 8, 2, 2, 9, 8, 2, 9], ids, [2, 3], 3)
    in_order = [found[i] for i in sorted(found)]
    video, audio, image = ([i for g, i in in_order if g == name] for name in ("video", "audio", "image"))
    assert video == [0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]
    assert audio == [0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 5]
    assert image == [0, 0, 1]


def test_ids_that_do_not_line_up_are_refused():
    ids = labels.MediaIds(video=1, audio=2, image=3, audio_start=8, audio_end=9)
    assert labels.expand([5, 1, 6], [5, 8, 1, 1, 2, 9, 6], ids) == [0, 1, 1, 1, 1, 1, 2]
    for real, says in (
        ([5, 1, 7], "token 2 .* is 6, .* has 7"),
        ([5, 1, 6, 6], "1 tokens more"),
        ([5, 6], "token 1 .* is 1"),
    ):
        with pytest.raises(InputError, match=says):
            labels.expand([5, 1, 6], real, ids)


def test_models_without_a_processor_say_so():
    bare = avflow.wrap(model().hf)
    with pytest.raises(UnsupportedModelError, match="no processor"):
        bare.prepare(sample())
    with pytest.raises(UnsupportedModelError, match="no processor"):
        bare.family.label(bare, torch.tensor([1, 2]))


def test_a_wrapped_model_with_a_processor_of_the_callers(tmp_path):
    """Its processor has no limits noted: those of the published recipe hold."""
    folder = tmp_path / "c"
    shutil.copytree(demo()["checkpoint"], folder)
    (folder / "video_preprocessor_config.json").unlink()
    from avflow.models.qwen2_5_omni.processor import load_processor

    processor = load_processor(str(folder))
    del processor.avflow_info
    prompt = avflow.wrap(model().hf, processor).prepare(sample())
    assert prompt.groups.count("video") >= 4 * 128 and prompt.media["processor"] == type(processor).__name__


def test_the_full_model_is_wrapped_by_its_thinker():
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    config = Qwen2_5OmniConfig.from_pretrained(demo()["checkpoint"])
    full = Qwen2_5OmniForConditionalGeneration(config)
    wrapped = avflow.wrap(full, model().processor)
    assert wrapped.hf is full.thinker and wrapped.n_layers == 8


def test_a_part_of_a_video_and_of_its_sound():
    """1 s to 3 s of the clip: two of its four patches, and 2 s of its sound."""
    prompt = model().prepare(sample(start=1.0, end=3.0))
    assert of(prompt, "video", "audio") == [("video", 0, 12), ("video", 1, 12), ("audio", 0, 50)]
    whole = model().prepare(sample(start=0.0))
    assert torch.equal(whole.input_ids, model().prepare(sample()).input_ids)
    mel = model().prepare(sample()).model_inputs["input_features"][0]
    part = prompt.model_inputs["input_features"][0]
    inner = part[:, 10:190]  # a window's edges see what was cut
    assert torch.corrcoef(torch.stack([inner.flatten(), mel[:, 110:290].flatten()]))[0, 1] > 0.99
    with pytest.raises(MediaError, match="no frame from 7.00 s"):
        model().prepare(sample(start=7.0))
    open_end = model().prepare(sample(start=2.0))
    assert of(open_end, "video", "audio") == [("video", 0, 12), ("video", 1, 12), ("audio", 0, 50)]
