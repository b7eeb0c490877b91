"""A sample becomes a video-SALMONN 2+ prompt: every token gets the right group and item, bad input a clear error."""

from __future__ import annotations

import itertools
import json

import numpy as np
import oracle
import pytest
import torch
from clips import Clip, tone, write_clip, write_png, write_wav
from demo_folder import clip_file
from demo_folder import model as model_of
from recordings import write_channels

import avflow
from avflow.errors import InputError, MediaError, UnsupportedModelError
from avflow.knockouts.presets import as_knockouts
from avflow.media.audio import read_audio
from avflow.models.video_salmonn2_plus import VideoSalmonn2PlusConfig, VideoSalmonn2PlusForConditionalGeneration
from avflow.models.video_salmonn2_plus.positions import rope_index
from avflow.prompts import labels
from avflow.prompts.sample import Sample
from avflow.synthetic.files import SAMPLE_RATE
from avflow.tiny import salmonn
from avflow.tiny.checkpoint import Tiny
from avflow.tiny.random_weights import PICTURE
from avflow.tiny.tokenizer import build_tokenizer

CLIP = Clip()  # 4 s, 112 x 84 pixels: 20 steps of 12 tokens; sound of 60 tokens, 8 of them heard, 52 padding
ASK = {"id": "0", "question": "Which color is the shape?", "options": ["red", "green", "blue"], "answer": "green"}


def model():
    return model_of("video_salmonn2_plus")


def sample(**changes) -> Sample:
    medium = {} if {"video", "audio", "image"} & set(changes) else {"video": str(clip_file(CLIP))}
    return Sample(**(ASK | medium | changes))


def runs(prompt, *names) -> list[tuple[str, int, int]]:
    """(group, item, length) of neighbouring tokens that have both in common; of these groups only, if any are named."""
    pairs = zip(prompt.groups, prompt.items, strict=True)
    found = [(*key, len(list(same))) for key, same in itertools.groupby(pairs)]
    return [run for run in found if not names or run[0] in names]


def text_of(prompt, group) -> str:
    ids = prompt.input_ids.tolist()
    return model().processor.tokenizer.decode([i for i, g in zip(ids, prompt.groups, strict=True) if g == group])


def logits(prompt) -> torch.Tensor:
    with torch.no_grad():
        return model().hf(**prompt.model_inputs).logits[0]


def test_the_layout_token_by_token():
    prompt = model().prepare(sample(task="color"))
    media = []
    for step in range(20):  # 0.2 s each: a token of sound ends in every step in which 0.5 s, 1 s ... passes
        media.append(("video", step, 12))
        count = 60 - 7 if step == 19 else int((step + 1) * 0.4 + 1e-6) - int(step * 0.4 + 1e-6)
        media += [("audio", step, count)] if count else []
    assert runs(prompt) == [
        ("template", -1, 3),  # <|im_start|> system \n
        ("system", -1, 11),
        ("template", -1, 6),  # <|im_end|> \n <|im_start|> user \n <|vision_start|>
        *media,
        ("template", -1, 2),  # <|vision_end|> \n
        ("question_text", -1, 7),
        ("option_incorrect", 0, 4),
        ("option_correct", 1, 4),
        ("option_incorrect", 2, 4),
        ("question_text", -1, 13),
        ("template", -1, 7),
        ("last", -1, 1),
    ]
    assert text_of(prompt, "system") == "You are a helpful assistant."
    assert text_of(prompt, "option_correct") == "B. green\n" and text_of(prompt, "last") == "\n"
    assert (prompt.answer, prompt.task, prompt.media["frames"]) == ("B", "color", 40)
    inputs = prompt.model_inputs
    assert inputs["audio_features"].shape == (1, 128, 3000) and inputs["video_grid_thw"].tolist() == [[20, 6, 8]]
    assert float(inputs["video_second_per_grid"]) == pytest.approx(0.2)
    assert torch.isfinite(logits(prompt)).all()


def test_one_medium_alone(tmp_path):
    wav, png = write_wav(CLIP, tmp_path / "a.wav"), write_png(CLIP, tmp_path / "a.png")
    silent = model().prepare(sample(video=str(clip_file(CLIP)), use_audio_in_video=False))
    assert runs(silent, "video", "audio") == [("video", i, 12) for i in range(20)]
    heard = model().prepare(sample(audio=str(wav)))
    assert runs(heard, "video", "audio") == [("audio", i, 4) for i in range(15)]  # 2 s each
    seen = model().prepare(sample(image=str(png)))
    assert runs(seen, "video", "audio", "image") == [("image", 0, 12)]
    both = model().prepare(sample(image=str(png), video=str(clip_file(CLIP)), use_audio_in_video=False))
    assert runs(both, "video", "image") == [("image", 0, 12), *[("video", i, 12) for i in range(20)]]
    for prompt in (silent, heard, seen, both):
        assert torch.isfinite(logits(prompt)).all()


def test_a_sound_file_takes_the_place_of_the_videos_own(tmp_path):
    wav = write_wav(Clip(pitch="high"), tmp_path / "a.wav")
    own, other = model().prepare(sample()), model().prepare(sample(video=str(clip_file(CLIP)), audio=str(wav)))
    silent_file = str(clip_file(CLIP, sound=False))
    added = model().prepare(sample(video=silent_file, audio=str(wav)))
    dubbed = model().prepare(sample(video=str(clip_file(CLIP)), dub=str(wav)))
    assert torch.equal(dubbed.model_inputs["audio_features"], other.model_inputs["audio_features"])
    assert (dubbed.groups, dubbed.items) == (other.groups, other.items)
    assert own.groups == other.groups == added.groups and own.items == other.items
    assert torch.equal(other.model_inputs["audio_features"], added.model_inputs["audio_features"])
    assert not torch.equal(own.model_inputs["audio_features"], other.model_inputs["audio_features"])


def test_the_question_can_stand_before_the_media():
    before, after = model().prepare(sample(), question_first=True), model().prepare(sample())
    names = [run[0] for run in runs(before)]
    assert names.index("question_text") < names.index("video") and names[-1] == "last"
    for name in ("video", "audio", "system", "option_correct", "option_incorrect", "question_text"):
        assert text_of(before, name).strip() == text_of(after, name).strip(), name  # its last line ends in a newline
    assert torch.isfinite(logits(before)).all()


def test_pixels_and_sound_reach_the_answer():
    one, two = (model().prepare(sample(video=str(clip_file(Clip(color=c, pitch=p))))) for c, p in
                (("red", "middle"), ("blue", "high")))  # fmt: skip
    clean = logits(one)[-1].log_softmax(-1)
    for name in ("audio_features", "pixel_values_videos"):
        with torch.no_grad():
            mixed = model().hf(**{**one.model_inputs, name: two.model_inputs[name]}).logits[0, -1].log_softmax(-1)
        assert (mixed - clean).abs().max() > 0.05, name


def test_patches_without_their_grid_are_an_error():
    inputs = model().prepare(sample()).model_inputs
    with pytest.raises(InputError, match="video_grid_thw: pass the grids"):
        model().hf.embed(inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"])


def test_a_clip_under_one_second(tmp_path):
    path = write_clip(Clip(seconds=0.5), tmp_path / "c.mp4")  # 6 frames: fewer than min_frames, so all are kept
    prompt = model().prepare(sample(video=str(path)))
    assert runs(prompt, "video", "audio") == [("video", 0, 12), ("video", 1, 12), ("video", 2, 12), ("audio", 2, 60)]
    assert torch.isfinite(logits(prompt)).all()


def test_a_video_of_one_frame(tmp_path):
    path = write_clip(Clip(seconds=1 / 12), tmp_path / "c.mp4", sound=False)
    prompt = model().prepare(sample(video=str(path), use_audio_in_video=False))
    assert runs(prompt, "video") == [("video", 0, 12)] and prompt.media["frames"] == 1
    assert torch.isfinite(logits(prompt)).all()


def test_more_frames_than_the_most_are_spread_evenly(tmp_path):
    """80 s at 12 frames a second: 768 of 960, 5 of 4 steps a second, as published."""
    path = write_clip(Clip(seconds=80.0, width=56, height=56), tmp_path / "c.mp4")
    prompt = model().prepare(sample(video=str(path)))
    assert prompt.media["frames"] == 768 and prompt.model_inputs["video_grid_thw"].tolist() == [[384, 4, 4]]
    assert float(prompt.model_inputs["video_second_per_grid"]) == pytest.approx(80 / 384)
    audio = np.array([i for g, i in zip(prompt.groups, prompt.items, strict=True) if g == "audio"])
    assert len(audio) == 180 and prompt.model_inputs["audio_features"].shape == (3, 128, 3000)
    ends = (audio[:150] + 1) * 80 / 384  # token j hears j/2 .. (j+1)/2 seconds, and stands after the step it ends in
    assert ((ends >= 0.5 * np.arange(1, 151) - 1e-3) & (ends < 0.5 * np.arange(1, 151) + 80 / 384 + 1e-3)).all()


def test_options_of_the_sampling():
    prompt = model().prepare(sample(), fps=2.0, min_frames=2, max_pixels=10_000, max_frames=8)
    assert prompt.media["frames"] == 8 and prompt.model_inputs["video_grid_thw"].tolist() == [[4, 6, 8]]
    for options, says in (
        ({"fps": 0}, "fps is 0"),
        ({"min_frames": 0}, "min_frames is 0: give an integer of 1"),
        ({"min_frames": 9, "max_frames": 8}, "min_frames 9 and max_frames 8"),
        ({"min_pixels": 10_000, "max_pixels": 5_000}, "min_pixels 10000 and max_pixels 5000"),
    ):
        with pytest.raises(InputError, match=says):
            model().prepare(sample(), **options)


def test_a_video_without_sound_is_told():
    silent = str(clip_file(CLIP, sound=False))
    with pytest.raises(MediaError, match="has no sound: set use_audio_in_video=False .* or give its sound with audio="):
        model().prepare(sample(video=silent))
    assert "audio" not in model().prepare(sample(video=silent), use_audio_in_video=False).groups


def test_sound_much_shorter_than_the_video_is_lengthened_or_refused(tmp_path):
    """36 s with 5 s of sound: 60 tokens, and the steps before the last take 71. The published code fails there."""
    clip = Clip(seconds=36.0, width=56, height=56)
    path = write_clip(clip, tmp_path / "c.mp4", sound=tone(clip)[: 5 * SAMPLE_RATE])
    with pytest.raises(MediaError, match=r"c\.mp4: its sound lasts 5\.0\d s and its video 36\.00 s"):
        model().prepare(sample(video=str(path)), strict_media=True)
    with pytest.raises(MediaError, match="60 tokens .* the video of 36.0 s needs 71: lengthen the sound with silence"):
        model().prepare(sample(video=str(path)), timing="published")
    prompt = model().prepare(sample(video=str(path)))
    assert prompt.groups.count("audio") == 120 and prompt.media["sound_seconds"] == pytest.approx(36.0, abs=0.01)
    assert [note.startswith("sound padded with 3") for note in prompt.media["notes"]] == [True]
    quiet = prompt.model_inputs["audio_features"][1]  # 30 s of silence
    assert torch.equal(quiet, quiet[:1, :1].expand_as(quiet))
    assert "notes" not in model().prepare(sample()).media
    assert "audio" not in model().prepare(sample(video=str(path), use_audio_in_video=False)).groups
    wav = write_wav(Clip(seconds=31.0), tmp_path / "a.wav")  # 120 tokens are enough
    assert model().prepare(sample(video=str(path), audio=str(wav))).groups.count("audio") == 120


def test_a_stereo_sound_is_heard_as_ffmpeg_mixes_it(tmp_path):
    """The published reader is torchcodec, which takes swresample's downmix: 1.41 times as loud as the mean."""
    path = write_channels(tmp_path / "a.wav", [0.3 * tone(Clip(pitch=pitch), 16000) for pitch in ("low", "high")])
    features = model().prepare(sample(audio=str(path))).model_inputs["audio_features"]
    assert torch.equal(features, model().processor.audio_features(read_audio(path, mix="downmix")))
    assert not torch.equal(features, model().processor.audio_features(read_audio(path)))


def test_longer_sound_follows_the_last_step(tmp_path):
    clip = Clip(seconds=2.0, width=56, height=56)
    path = write_clip(clip, tmp_path / "c.mp4", sound=tone(Clip(seconds=40.0)))
    prompt = model().prepare(sample(video=str(path)))
    assert prompt.groups.count("audio") == 120 and prompt.media["sound_seconds"] == pytest.approx(40.0, abs=0.05)
    with pytest.raises(MediaError, match=r"its sound lasts 40\.\d\d s and its video 2\.00 s"):
        model().prepare(sample(video=str(path)), strict_media=True)
    wav = write_wav(Clip(seconds=9.0), tmp_path / "a.wav")
    with pytest.raises(MediaError, match=r"its sound lasts 9\.00 s and its video 2\.00 s"):
        model().prepare(sample(video=str(path), audio=str(wav)), strict_media=True)


def test_shorter_sound_that_the_padding_covers_is_as_published(tmp_path):
    path = write_clip(CLIP, tmp_path / "c.mp4", sound=tone(CLIP)[:SAMPLE_RATE])
    prompt, whole = model().prepare(sample(video=str(path))), model().prepare(sample())
    assert prompt.groups == whole.groups and prompt.media["sound_seconds"] == pytest.approx(1.0, abs=0.05)


def test_several_videos_are_told():
    with pytest.raises(InputError, match="video must be one path"):
        sample(video=[str(clip_file(CLIP)), str(clip_file(CLIP))])


def test_text_with_special_tokens_is_refused():
    for change in ({"question": "Is <|video_pad|> here?"}, {"options": ["a<|audio_pad|>", "b"], "answer": "A"}):
        with pytest.raises(InputError, match=r"'0': its text holds the special token '<\|(video|audio)_pad\|>'"):
            model().prepare(sample(**change))


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
    assert model().family.count_videos(model(), prompt.input_ids) == 1
    _, unknown = model().family.label(model(), prompt.input_ids)
    assert {i for g, i in zip(groups, unknown, strict=True) if g in ("video", "audio")} == {-1}


def test_items_of_several_blocks():
    """Sound alone, two videos with sound, one without: what comes later has items of its own, steps keep theirs."""
    ids = labels.MediaIds(video=1, audio=2, image=3)
    blocks = [2] * 5 + [7] + [1, 1, 2, 1, 1, 2, 2] + [7] + [1, 2, 1, 2] + [7] + [1, 1]
    found = labels.label_media(blocks, ids, [2, 1, 1], 4, audio_by_step=True)
    in_order = [found[i] for i in sorted(found)]
    assert in_order[:5] == [("audio", 0)] * 4 + [("audio", 1)]
    assert in_order[5:12] == [("video", 2), ("video", 2), ("audio", 2), *[("video", 3)] * 2, *[("audio", 3)] * 2]
    assert in_order[12:16] == [("video", 4), ("audio", 4), ("video", 5), ("audio", 5)]
    assert in_order[16:] == [("video", 6), ("video", 7)]


def test_sweeps_equal_dense_masks():
    prompt = model().prepare(sample(), fps=2.0, min_frames=2)
    knockouts = as_knockouts(["video->question", "audio->last", "audio<->video", "cross:video"])
    bare = avflow.wrap(model().hf)  # without a tokenizer the rows show ids, as the oracle does
    rows = avflow.sweep(bare, [prompt], knockouts=knockouts, select="all", window=2).table.to_pylist()
    assert oracle.check_rows(model().hf, prompt, knockouts, rows, window=2) > 1e-3


def test_half_precision_reaches_pixels_and_sound():
    from demo_folder import demo

    half = avflow.load(demo("video_salmonn2_plus")["checkpoint"], dtype="bfloat16")
    inputs = half.prepare(sample()).model_inputs
    assert inputs["pixel_values_videos"].dtype == inputs["audio_features"].dtype == torch.bfloat16
    assert inputs["video_second_per_grid"].dtype == torch.float32
    with torch.no_grad():
        assert torch.isfinite(half.hf(**inputs).logits).all()


def test_models_without_a_processor_say_so():
    bare = avflow.wrap(model().hf)
    with pytest.raises(UnsupportedModelError, match="no processor"):
        bare.prepare(sample())
    other = avflow.wrap(model().hf, model_of("qwen2_5_vl").processor)
    with pytest.raises(InputError, match=r"cannot use a VisionProcessor: load the model with avflow\.load"):
        other.prepare(sample())


def test_a_tokenizer_of_another_checkpoint_is_told(monkeypatch):
    monkeypatch.setattr(model().hf.config, "audio_token_id", 7)
    with pytest.raises(InputError, match=r"<\|audio_pad\|> as \d+, the model's config audio_token_id 7"):
        model().prepare(sample())


def test_a_part_of_a_video_and_of_its_sound():
    prompt = model().prepare(sample(start=1.0, end=3.0))  # 20 frames, 2 s of sound
    assert prompt.groups.count("video") == 10 * 12 and prompt.media["sound_seconds"] == pytest.approx(2.0, abs=0.01)
    assert prompt.media["video_seconds"] == pytest.approx(2.0, abs=0.1)
    whole = model().prepare(sample())
    assert prompt.groups.count("audio") == whole.groups.count("audio") == 60  # one piece, padded
    part, frames = (p.model_inputs["pixel_values_videos"] for p in (prompt, whole))  # [steps x 48, 1176]
    apart = [float((part - frames[at * 48 : (at + 10) * 48]).abs().mean()) for at in range(11)]
    assert int(np.argmin(apart)) == 5  # 1 s into the clip


@pytest.fixture(scope="module")
def short_pieces(tmp_path_factory):
    """A checkpoint with pieces of 6 s, and texts and sampling of its own, as a small trained one has."""
    tokenizer = build_tokenizer(salmonn.SOUND_TOKENS)
    config = salmonn.build_config(tokenizer, Tiny(layers=2))
    config["audio_config"]["max_source_positions"] = 300
    config |= {"prompt_texts": {"system": "Look."}, "video_sampling": {"fps": 4, "max_frames": 16, "max_pixels": 3136}}
    hf = VideoSalmonn2PlusForConditionalGeneration(VideoSalmonn2PlusConfig.from_published(config))
    folder = tmp_path_factory.mktemp("short")
    salmonn.save(folder, config, hf, tokenizer, settings=PICTURE | {"chunk_length": 6})
    return folder


def test_a_checkpoint_may_have_its_own_pieces_texts_and_sampling(short_pieces):
    own = avflow.load(short_pieces)
    prompt = own.prepare(sample())
    steps = runs(prompt, "video", "audio")
    assert prompt.model_inputs["audio_features"].shape == (1, 128, 600)
    assert sum(n for group, _, n in steps if group == "audio") == 12 and steps[-1] == ("audio", 7, 5)
    assert [n for group, _, n in steps if group == "video"] == [2] * 8  # 16 frames, of 28 x 56 pixels
    decode = own.processor.tokenizer.decode
    text = decode(prompt.input_ids)
    assert "system\nLook.<|im_end|>" in text and "Answer with the option's letter" in text
    given = own.prepare(sample(), fps=2, min_frames=4, max_frames=8, system="Hear.", instruction="")
    assert sum(group == "video" for group in given.groups) == 4 * 2
    text = decode(given.input_ids)
    assert "system\nHear.<|im_end|>" in text and "Answer" not in text
    with torch.no_grad():
        assert torch.isfinite(own.hf(**prompt.model_inputs).logits).all()


def test_what_a_checkpoint_says_of_itself_survives_saving(short_pieces, tmp_path):
    own = avflow.load(short_pieces)
    own.hf.save_pretrained(tmp_path)
    own.processor.save_pretrained(tmp_path)
    one, two = (avflow.load(folder).prepare(sample()) for folder in (short_pieces, tmp_path))
    assert torch.equal(one.input_ids, two.input_ids)
    assert torch.equal(one.model_inputs["audio_features"], two.model_inputs["audio_features"])


def test_pieces_that_are_not_the_models_are_an_error(short_pieces, tmp_path):
    own = avflow.load(short_pieces)
    own.processor.settings = own.processor.settings | {"chunk_length": 30}
    with pytest.raises(InputError, match="pieces of 30 s, 60 tokens, the model makes 12 of a piece: chunk_length"):
        own.prepare(sample())
    for bad in (0, 1.5, "6"):
        own.processor.settings = own.processor.settings | {"chunk_length": bad}
        with pytest.raises(InputError, match=f"chunk_length is {bad!r}, expected whole seconds"):
            own.prepare(sample())


@pytest.mark.parametrize("field", [{"prompt_texts": {"sistem": "x"}}, {"video_sampling": {"frames": 3}}])
def test_unknown_texts_and_sampling_are_an_error(short_pieces, field):
    published = json.loads((short_pieces / "config.json").read_text())
    (name, (key,)) = next((name, list(value)) for name, value in field.items())
    with pytest.raises(InputError, match=f"{name} has '{key}': it may have"):
        VideoSalmonn2PlusConfig.from_published(published | field)


def test_a_checkpoint_may_name_its_position_layout(short_pieces):
    published = json.loads((short_pieces / "config.json").read_text())
    layouts = [
        VideoSalmonn2PlusConfig.from_published(published | {"position_layout": x}) for x in ("trained", "released")
    ]
    assert [config.position_layout for config in layouts] == ["trained", "released"]
    assert VideoSalmonn2PlusConfig.from_published(published).position_layout == "released"


def test_times_are_those_that_the_trained_positions_say():
    """Two positions a second, of video and sound alike."""
    prompt = model().prepare(sample(), fps=4)
    inputs, config = prompt.model_inputs, model().hf.config
    place = rope_index(
        prompt.input_ids[None],
        config,
        video_grid_thw=inputs["video_grid_thw"],
        video_second_per_grid=inputs["video_second_per_grid"],
        layout="trained",
    )[0][0, 0]
    media = [i for i, g in enumerate(prompt.groups) if g in ("video", "audio")]
    assert [int(2 * prompt.times[i] + 1e-4) for i in media] == (place[media] - place[media[0]]).tolist()
    assert {prompt.times[i] for i in media if prompt.groups[i] == "video"} == {0.5 * k for k in range(8)}
    assert max(prompt.times[i] for i in media) == 29.5  # the sound's padding goes on
    assert prompt.times[0] is None and prompt.times[-1] is None
