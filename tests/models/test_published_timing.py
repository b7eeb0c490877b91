"""timing="published": what every family makes of it, without the published readers at hand."""

from __future__ import annotations

import pytest
import torch
from anchor_files import FILMS
from clips import Clip
from demo_folder import clip_file, demo, model

import avflow
from avflow.errors import InputError, MediaError
from avflow.media.audio import read_audio
from avflow.media.timing import numbered_part, published_numbers
from avflow.runs.sweep_job import SweepJob

CLIP = Clip()


def sample(path, **given) -> avflow.Sample:
    return avflow.Sample(id="0", question="Which?", options=["red", "blue"], answer="red", video=str(path), **given)


@pytest.fixture(scope="module")
def makes_short_and_late(tmp_path_factory):
    """Two videos of 2 s: one whose sound lasts 0.9 s, one whose 2 s of sound begin at 0.5 s."""
    folder = tmp_path_factory.mktemp("makes")
    paths = folder / "short.mp4", folder / "late.mkv"
    for name, path in zip(("short sound", "late sound"), paths, strict=True):
        FILMS[name].write(path)
    return paths


def test_numbers_are_those_of_the_written_rule():
    """torch.linspace(first, last, n).round(), n even; a part from ceil(start * rate) to floor(end * rate)."""
    assert published_numbers(range(10), 5.0, 2.0, 4, 768) == [0, 3, 6, 9]
    assert published_numbers(range(7), 25.0, 2.0, 4, 768) == [0, 2, 4, 6]
    assert published_numbers(range(2, 7), 25.0, 100.0, 4, 768) == [2, 3, 5, 6]
    assert published_numbers(range(3), 25.0, 2.0, 4, 768) == [0, 2]
    assert published_numbers(range(6), 1.0, 5 / 6, 2, 768) == [0, 2, 3, 5]  # 1.67, 3.33
    assert numbered_part(50, 25.0, (0.3, 1.37), "x") == range(8, 35)
    assert numbered_part(50, 25.0, (None, 99.0), "x") == range(50)
    with pytest.raises(MediaError, match=r"no two frames from 1\.98 s to 2\.00 s.*has 50 in 2\.00 s"):
        numbered_part(50, 25.0, (1.98, None), "x")


def test_omni_is_told_two_frames_a_second():
    prompt = model().prepare(sample(clip_file(CLIP)), fps=4.0, timing="published")
    assert prompt.model_inputs["video_second_per_grid"].tolist() == [1.0]
    assert model().prepare(sample(clip_file(CLIP)), fps=4.0).model_inputs["video_second_per_grid"].tolist() == [0.5]


def test_omni_hears_sound_as_it_is(makes_short_and_late):
    short, late = makes_short_and_late
    usual, published = (model().prepare(sample(short), timing=timing) for timing in ("player", "published"))
    assert usual.groups.count("audio") == 50 and published.groups.count("audio") == 23  # 0.9 s; with silence 2 s
    with torch.no_grad():
        assert model().hf(**published.model_inputs).logits.isfinite().all()
    usual, published = (model().prepare(sample(late), timing=timing) for timing in ("player", "published"))
    assert published.media["sound_seconds"] == 2.0
    begins = [(p.model_inputs["input_features"][0, :, :30].std()) for p in (usual, published)]
    assert begins[0] < 0.1 * begins[1]  # half a second of silence, and none


def test_a_part_of_omnis_sound_counts_from_its_own_begin(makes_short_and_late):
    late = makes_short_and_late[1]
    prompt = model().prepare(sample(late, start=0.5, end=1.5), timing="published")
    assert prompt.media["sound_seconds"] == pytest.approx(1.0)
    assert prompt.media["frames"] == 4 and prompt.media["video_seconds"] == pytest.approx(25 / 25)


def test_salmonn_neither_moves_nor_lengthens_sound(makes_short_and_late):
    late = makes_short_and_late[1]
    omni = model("video_salmonn2_plus")
    found = omni.prepare(sample(late), timing="published").model_inputs["audio_features"]
    expected = omni.processor.audio_features(read_audio(late, mix="downmix"))
    assert torch.equal(found, expected) and not torch.equal(
        omni.prepare(sample(late)).model_inputs["audio_features"], expected
    )


def test_what_it_is_called():
    with pytest.raises(InputError, match="timing.*'wall'.*player.*published"):
        model().prepare(sample(clip_file(CLIP)), timing="wall")
    job = SweepJob(demo()["checkpoint"], demo()["samples"], "video->question", media={"timing": "published"})
    assert job.config()["timing"] == "published"  # a run goes on under the same one only
