"""Frames, rates, sizes, sound and pictures beside the published readers' (extra `anchors`; skipped without it).

The published pipelines are qwen-omni-utils on torchcodec with librosa for sound, and torchcodec alone for the sound of
video-SALMONN 2+; older ones read with decord. What differs on purpose is named here and in docs/data.md.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from anchor_files import FILMS, PICTURES, RECORDINGS
from demo_folder import model

import avflow
from avflow.media.audio import read_audio
from avflow.media.container import open_media
from avflow.media.images import frame_size, resize, video_size
from avflow.media.stills import read_image
from avflow.media.video import Video, read_video
from avflow.models.qwen2_5_omni import processor as processing

PACKAGES = ("torchcodec", "decord", "qwen_omni_utils", "librosa")
if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
    pytest.skip(f"the extra `anchors` is not installed: no {', '.join(missing)}", allow_module_level=True)

PROGRAM = Path(__file__).parents[1] / "helpers/published_readers.py"
FPS, PART = 4.0, (0.3, 1.37)
SMALL = 100_352  # max_pixels, the smallest size of a video frame
HEARD = [name for name, film in FILMS.items() if film.sounds]
# Why their reader is not compared:
NOT_TORCHCODEC = {
    "h264 open groups": "it gives other frames than it says, or none",
    "h264 interlaced": "it finds no frame at the end",
    "mpeg2": "it finds no frame at the end",
    "mpeg2 ts": "it gives other frames than it says",
}
NOT_DECORD = {
    **NOT_TORCHCODEC,
    "h265 mkv": "its rate is another: the header's, not frames by duration",
    "variable rate": "its rate is another",
    "variable rate mp4": "it takes numbers by its own rate",
    "a pause": "its rate is another",
    "av1": "it has no decoder",
    "upright format": "it fails",
    "mpeg4 avi": "it takes numbers, the frames do not stand evenly",
}
UNEVEN = {"variable rate", "variable rate mp4", "a pause", "mpeg4 avi"}  # a player shows other frames than count says
DEEP = {"h264 ten bits", "prores"}  # more than 8 bits a colour
NOT_LIBROSA = {"second sound is the default": "it takes the track with the most channels, at a wrong speed"}


def size(frames: int, height: int, width: int) -> tuple[int, int]:
    return video_size(frames, height, width, 28, processing.VIDEO_MIN_PIXELS, processing.VIDEO_MAX_PIXELS)


def _calls(makes):
    for name in FILMS:
        key = f"film/{name}"
        yield key, "frames", {"fps": FPS}
        yield key, "whole", {}
        yield key, "counted", {"fps": FPS}
        if FILMS[name].frames is None:
            yield key, "frames", {"fps": FPS, "video_start": PART[0], "video_end": PART[1]}
        if FILMS[name].sounds:
            yield key, "sound", {"kind": "video"}
            yield key, "sound", {"kind": "video", "video_start": PART[0], "video_end": PART[1]}
            yield key, "downmix", {}
    for name in RECORDINGS:
        yield f"sound/{name}", "sound", {"kind": "audio"}
        yield f"sound/{name}", "downmix", {}
    for name in PICTURES:
        yield f"picture/{name}", "picture", {}
        yield f"picture/{name}", "picture", {"max_pixels": SMALL}


@pytest.fixture(scope="session")
def published(makes, tmp_path_factory):
    """(key, reader, part or max_pixels or None) -> what the published reader gave, or why it failed."""
    out = tmp_path_factory.mktemp("published")
    calls = [call for call in _calls(makes) if call[0] in makes]
    listed = [{"reader": reader, "path": str(makes[key]), **options} for key, reader, options in calls]
    (out / "calls.json").write_text(json.dumps(listed))
    done = subprocess.run(
        [sys.executable, PROGRAM, out / "calls.json", out], capture_output=True, text=True, timeout=250, check=False
    )
    if done.returncode:
        pytest.skip(f"the published readers do not run here: {done.stderr.strip().splitlines()[-1]}")
    found = {}
    for number, (key, reader, options) in enumerate(calls):
        which = "part" if "video_start" in options else options.get("max_pixels")
        found[key, reader, which] = dict(np.load(out / f"{number}.npz"))
    return found


def theirs(published, *which):
    if which not in published:
        pytest.skip("this FFmpeg has no encoder for it")
    found = published[which]
    assert "error" not in found, found["error"]
    return found


def numbers(video: Video, path) -> list[int]:
    with open_media(path) as file:
        times = file.index.times
    return [int(np.abs(times - video.start - t).argmin()) for t in video.times]


COUNTED = [(name, part) for name, film in FILMS.items() for part in (["whole"] if film.frames else ["whole", "part"])]


@pytest.mark.parametrize("name, part", [(name, part) for name, part in COUNTED if name not in NOT_TORCHCODEC])
def test_frames_counted_as_published(makes, published, name, part):
    """Which frames, their pixels at the published size, and the rate that is passed on."""
    found = theirs(published, f"film/{name}", "frames", None if part == "whole" else part)
    path = makes[f"film/{name}"]
    span = (None, None) if part == "whole" else PART
    video = read_video(path, FPS, size=size, span=span, timing="published")
    assert numbers(video, path) == found["numbers"].tolist()
    assert tuple(video.frames.shape) == found["frames"].shape
    assert 1 / video.seconds_per_frame == pytest.approx(float(found["fps"]), rel=1e-9)
    # They resize in float32, avflow in integers as the models' processors do, which differs at the sharpest edges.
    apart = np.abs(video.frames.numpy() - found["frames"].astype(np.float64))
    assert apart.mean((1, 2, 3)).max() < (0.3 if name in DEEP else 0.1) and apart.max() <= 12
    shown = read_video(path, FPS, size=size, span=span)  # as a player shows it: the same, where frames stand evenly
    assert (numbers(shown, path) == found["numbers"].tolist()) == (name not in UNEVEN)


@pytest.mark.parametrize("name", [name for name in FILMS if name not in NOT_TORCHCODEC])
def test_when_frames_are_shown_and_what_they_show(makes, published, name):
    """Bit for bit, but for more than 8 bits a colour, which FFmpeg's versions round otherwise."""
    found = theirs(published, f"film/{name}", "whole", None)
    with open_media(makes[f"film/{name}"]) as file:
        assert file.index.times == pytest.approx(found["times"], abs=1e-6)
        video = read_video(file, choose=lambda total, seconds: [0, total // 2, total - 1])
    apart = np.abs(video.frames.numpy().astype(int) - found["frames"])
    assert apart.max() <= (6 if name in DEEP else 0)


@pytest.mark.parametrize("name", [name for name in FILMS if name not in NOT_DECORD])
def test_frames_of_decord(makes, published, name):
    found = theirs(published, f"film/{name}", "counted", None)
    path = makes[f"film/{name}"]
    video = read_video(path, FPS)
    assert numbers(video, path) == found["numbers"].tolist()
    apart = np.abs(video.frames.permute(0, 2, 3, 1).numpy().astype(int) - found["frames"])
    assert apart.mean((1, 2, 3)).max() < 1.5


@pytest.mark.parametrize("key", [f"film/{name}" for name in HEARD if name not in NOT_LIBROSA])
@pytest.mark.parametrize("part", ["whole", "part"])
def test_sound_as_qwen_hears_it(makes, published, key, part):
    """librosa resamples by soxr, avflow by FFmpeg: at the ends, and beside a cut, they differ by 5 % of the tone."""
    found = theirs(published, key, "sound", None if part == "whole" else part)["sound"]
    begin, end = (0.0, None) if part == "whole" else PART
    sound = read_audio(makes[key], seconds=end, gaps=False)[round(begin * 16000) :]
    assert len(sound) == pytest.approx(len(found), abs=1)
    apart = np.abs(sound[: len(found)] - found[: len(sound)])
    assert apart[800:-800].max() < 1e-4 and apart.max() < 0.03


@pytest.mark.parametrize("name", RECORDINGS)
def test_sound_files(makes, published, name):
    path = makes.get(f"sound/{name}") or pytest.skip("this FFmpeg has no encoder for it")
    mean, mixed = (theirs(published, f"sound/{name}", reader, None)["sound"] for reader in ("sound", "downmix"))
    ours = read_audio(path)
    assert len(ours) == pytest.approx(len(mean), abs=1) and np.abs(ours[: len(mean)] - mean[: len(ours)]).max() < 1e-3
    ours = read_audio(path, mix="downmix")
    assert len(ours) == len(mixed) and np.abs(ours - mixed).max() < 1e-5


@pytest.mark.parametrize("name", HEARD)
def test_sound_as_salmonn_hears_it(makes, published, name):
    found = theirs(published, f"film/{name}", "downmix", None)["sound"]
    sound = read_audio(makes[f"film/{name}"], mix="downmix", gaps=False)
    assert len(sound) == len(found) and np.abs(sound - found).max() < 1e-5


@pytest.mark.parametrize("name", ["late sound", "late video"])
def test_a_player_keeps_the_tracks_apart(makes, published, name):
    """On purpose: sound is heard when the container says, not from the video's first frame on."""
    path = makes[f"film/{name}"]
    found = theirs(published, f"film/{name}", "sound", None)["sound"]
    sound = read_audio(path, start=read_video(path).start)
    if name == "late sound":
        assert not sound[:8000].any() and np.abs(sound[8000:] - found).max() < 1e-4
    else:
        assert np.abs(sound - found[6400:]).max() < 1e-4


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("most", [None, SMALL])
def test_pictures(makes, published, name, most):
    """Sizes and pixels; Pillow, which they resize with, rounds otherwise by one of 255 levels."""
    found = theirs(published, f"picture/{name}", "picture", most)["picture"]
    image = read_image(makes[f"picture/{name}"])
    if name == "jpg upright":  # on purpose: they show it as it lies in the file
        image = image.rot90(1, (1, 2))
    image = resize(image, *frame_size(*image.shape[1:], 28, 4 * 784, most or 16384 * 784))
    assert tuple(image.permute(1, 2, 0).shape) == found.shape
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - found).max() <= 1


@pytest.mark.parametrize("name", ["h264", "late sound", "late video", "short sound", "long sound", "variable rate"])
def test_prompts_with_published_timing(makes, published, name):
    """Ids, places and pixels are those of the published calls: process_mm_info, then the checkpoint's processor."""
    omni, path = model(), makes[f"film/{name}"]
    found = theirs(published, f"film/{name}", "frames", None)
    heard = bool(FILMS[name].sounds)
    sound = theirs(published, f"film/{name}", "sound", None)["sound"] if heard else None
    sample = avflow.Sample(id="0", question="Which?", answer="red", video=str(path), use_audio_in_video=heard)
    limits = {"min_pixels": processing.VIDEO_MIN_PIXELS, "max_pixels": processing.VIDEO_MAX_PIXELS}
    ours = omni.prepare(sample, fps=FPS, timing="published", **limits).model_inputs
    text = omni.processor.tokenizer.decode(_unfilled(omni, ours["input_ids"][0].tolist()))
    import torch

    plain = processing.encode(  # the processor's one call; without fps it has 2 of its own
        omni.processor, text, torch.from_numpy(found["frames"]).byte(), 0.5, [sound] if heard else [], interleaved=heard
    )
    for part in ("input_ids", "video_grid_thw", "video_second_per_grid"):
        assert torch.equal(ours[part], plain[part]), part
    assert ours["video_second_per_grid"].tolist() == [1.0]
    assert torch.allclose(ours["pixel_values_videos"], plain["pixel_values_videos"], atol=0.15)
    if heard:
        assert ours["input_features"].shape == plain["input_features"].shape


def _unfilled(omni, ids: list[int]) -> list[int]:
    """The ids with one placeholder for the video, as the chat template writes it."""
    config = omni.hf.config
    media = {config.video_token_id, config.audio_token_id, config.audio_start_token_id, config.audio_end_token_id}
    at = [n for n, token in enumerate(ids) if token in media]
    return [*ids[: at[0]], config.video_token_id, *ids[at[-1] + 1 :]]
