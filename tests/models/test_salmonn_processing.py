"""Frames, sizes, sound and token order of video-SALMONN 2+ equal what its published data code gave (see tests/data)."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_folder import demo
from safetensors.torch import load_file
from salmonn_golden import CASES, FOLDER, cases, golden

from avflow.errors import InputError, MediaError
from avflow.media.images import resize, smart_resize
from avflow.models.video_salmonn2_plus import load_model
from avflow.models.video_salmonn2_plus.processor import (
    MIN_PIXELS,
    PIECE,
    PIECE_TOKENS,
    SalmonnProcessor,
    audio_counts,
    audio_pieces,
    encode,
    frame_numbers,
    pixel_cap,
)

DATA = Path(__file__).parents[1] / "fixtures"
GOLDEN = json.loads((DATA / "video_salmonn2_plus_processor" / "processor.json").read_text())


@functools.cache
def tensors() -> dict[str, torch.Tensor]:
    return load_file(DATA / "video_salmonn2_plus_processor" / "processor.safetensors")


@functools.cache
def processor() -> SalmonnProcessor:
    return SalmonnProcessor.from_pretrained(str(FOLDER))


@pytest.mark.parametrize("case", GOLDEN["frame_selection"], ids=lambda c: f"{c['num_frames']}at{c['average_fps']:.0f}")
def test_frames(case):
    seconds = case["num_frames"] / case["average_fps"]
    limits = case["min_frames"], case["max_frames"]
    kept = frame_numbers(case["num_frames"], seconds, 1 / case["base_interval"], *limits)
    assert len(kept) == case["count"]
    if "indices" in case:
        assert kept == case["indices"]
    else:
        ends = case["indices_head"], case["indices_tail"]
        assert (kept[:24], kept[-24:], sum(kept)) == (*ends, case["indices_sum"])
    fps = len(kept) / seconds
    assert fps == case["kept_fps"] and 2 * (1 / fps) == case["seconds_per_grid"]


@pytest.mark.parametrize("case", GOLDEN["resolution"], ids=lambda c: f"{c['height']}x{c['width']}x{c['frames']}")
def test_sizes(case):
    cap = pixel_cap(case["frames"], case["max_frames"], case["max_frame_pixels"])
    assert cap == case["max_pixels"]
    goal = case["resized_height"], case["resized_width"]
    assert smart_resize(case["height"], case["width"], 28, case["min_pixels"], cap) == goal
    # resized as they are decoded, frames pass the processor unchanged
    assert smart_resize(*goal, 28, goal[0] * goal[1], goal[0] * goal[1]) == goal


def test_pieces_of_sound():
    for case in GOLDEN["audio_pieces"]:
        assert audio_pieces(case["samples"]) == case["pieces"]
        assert PIECE_TOKENS * case["pieces"] == case["tokens"]


def layout_name(case) -> str:
    return f"{case['grid_t']}x{case['seconds_per_grid']:.3f}+{case['audio_tokens']}"


@pytest.mark.parametrize("case", GOLDEN["audio_token_layout"], ids=layout_name)
def test_audio_tokens_after_each_step(case):
    given = case["grid_t"], case["seconds_per_grid"], case["audio_tokens"]
    if case["valid"]:
        assert audio_counts(*given) == case["counts"]
    else:
        with pytest.raises(MediaError, match="needs 239: lengthen the sound"):
            audio_counts(*given)


def test_the_float32_rule_is_among_the_cases():
    """In float64 the same formula gives other counts, so the test above would notice."""
    different = [c for c in GOLDEN["audio_token_layout"] if c.get("differs_in_float64")]
    for case in different:
        ends = np.floor(np.arange(case["grid_t"] + 1) * case["seconds_per_grid"] * 2).astype(int)
        assert np.diff(ends)[:-1].tolist() != case["counts"][:-1]
    assert different


def test_mel():
    sound = heard()
    mel = processor().audio_features(sound)
    assert mel.shape == (1, 128, 3000)
    apart = (mel[..., :1202] - tensors()["mel.12s"]).abs()
    # Math libraries round an FFT differently: a band that holds a millionth of its frame's energy moves by up to 1e-4.
    # So nearly all values agree to 1e-5, and all do as energies, 10 ** (4 mel - 4), against the loudest.
    assert (apart <= 1e-5).float().mean() > 0.99 and apart.max() <= 1e-4
    energy, published = (10 ** (4 * m.double() - 4) for m in (mel[..., :1202], tensors()["mel.12s"]))
    assert (energy - published).abs().max() <= 1e-5 * published.max()
    assert (mel[..., 1202:] - tensors()["mel.12s.fill"]).abs().max() <= 1e-5
    two = processor().audio_features(np.concatenate([np.zeros(PIECE, np.float32), sound]))
    torch.testing.assert_close(two[1:], mel)  # each piece is normalised by itself
    assert processor().audio_features(sound[:1]).shape == (1, 128, 3000)


def frames_of(case: str) -> torch.Tensor:
    raw = tensors()[GOLDEN["clips"][case]["frames"]]
    return resize(raw, *smart_resize(*raw.shape[-2:], 28, MIN_PIXELS, pixel_cap(len(raw))))


def heard() -> np.ndarray:
    return tensors()["waveform.12s"].float().numpy() / 32768


def encoded(name: str, sound: np.ndarray | None = None) -> dict[str, torch.Tensor]:
    """A case of the golden data from its frames and question; silence where no sound is given."""
    case = cases()[name]
    frames, seconds = None, 0.1
    if case["video"]:
        frames, seconds = frames_of("av" if name.startswith("av") else name), case["seconds_per_grid"] / 2
    if case["audio_feature"] and sound is None:
        sound = np.zeros(PIECE * len(case["audio_feature"]), np.float32)
    media = {"type": "audio" if frames is None else "video"}
    chat = [
        {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": [media, {"type": "text", "text": case["question"]}]},
    ]
    return encode(processor(), processor().apply_chat_template(chat), frames, seconds, sound)


@pytest.mark.parametrize("name", CASES)
def test_prompts_and_patches(name):
    inputs = encoded(name)
    assert torch.equal(inputs["input_ids"], golden()[f"{name}.input_ids"])
    assert inputs["attention_mask"].shape == inputs["input_ids"].shape and bool(inputs["attention_mask"].all())
    if cases()[name]["video"]:
        assert torch.equal(inputs["video_grid_thw"], golden()[f"{name}.video_grid_thw"])
        assert float(inputs["video_second_per_grid"]) == pytest.approx(cases()[name]["seconds_per_grid"])
        expected = golden()[cases()[name]["pixel_values_videos"]]
        torch.testing.assert_close(inputs["pixel_values_videos"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["av", "video"])
def test_from_frames_and_waveform_to_the_published_logits(name):
    """The published run got its mel in float16, which moves logits by up to 1e-2; with the same rounding they agree."""
    inputs = encoded(name, heard() if name == "av" else None)
    if name == "av":
        inputs["audio_features"] = inputs["audio_features"].half().float()
    with torch.no_grad():
        logits = load_model(FOLDER)(**inputs).logits[0, golden()[f"{name}.logits_rows"]]
    torch.testing.assert_close(logits, golden()[f"{name}.logits_B"], rtol=0, atol=2e-4)


def test_transformers_own_processor_gives_the_same_patches():
    """Where torchvision is there: an odd number of frames, of a size that both leave as it is."""
    pytest.importorskip("torchvision")
    from transformers import Qwen2VLVideoProcessor

    frames = frames_of("av")
    area = frames.shape[-1] * frames.shape[-2]
    size = {"shortest_edge": area, "longest_edge": area}
    theirs = Qwen2VLVideoProcessor()(videos=[frames], size=size, do_sample_frames=False, return_tensors="pt")
    ours = processor().video_processor([frames], size)
    torch.testing.assert_close(ours["pixel_values_videos"], theirs["pixel_values_videos"], rtol=0, atol=1e-6)


def test_saved_and_read_again(tmp_path):
    processor().save_pretrained(tmp_path)
    again = SalmonnProcessor.from_pretrained(str(tmp_path))
    text = "<|im_start|>user\n<|video_pad|>Which?<|audio_pad|>"
    assert again.tokenizer(text)["input_ids"] == processor().tokenizer(text)["input_ids"]
    assert again.settings == processor().settings and again.video_processor.size == processor().video_processor.size


def test_folders_that_lack_a_file(tmp_path):
    with pytest.raises(InputError, match=r"needs a preprocessor_config\.json"):
        SalmonnProcessor.from_pretrained(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer that loads"):
        SalmonnProcessor.from_pretrained(str(tmp_path))


def test_a_tokenizer_without_the_placeholder_is_told():
    made = SalmonnProcessor.from_pretrained(demo("qwen2_5_vl")["checkpoint"])
    with pytest.raises(InputError, match="lacks the placeholder .*do not belong together"):
        encode(made, "<|im_start|>user\n", image=torch.zeros(3, 56, 56, dtype=torch.uint8))
