"""The processor on every path: with torchvision, with its Python part only, and without it, all giving the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import Clip, write_clip, write_png
from demo_folder import clip_file, demo, model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avflow.errors import InputError
from avflow.media.images import TorchImages, TorchVideos, fit_images, frame_size, smart_resize, video_size
from avflow.models.qwen2_5_omni import processor as processing
from avflow.models.qwen2_5_omni.processor import agreeing_fps, encode, info, load_processor
from avflow.prompts.sample import Sample

ROOT = Path(__file__).parents[2]
SETTINGS = {"min_pixels": 3136, "max_pixels": 50176}


def real(kind: str):
    pytest.importorskip("torchvision")
    import transformers

    return getattr(transformers, f"Qwen2VL{kind}Processor")(**SETTINGS)


@pytest.mark.parametrize("shape", [(8, 84, 112), (5, 101, 67), (2, 300, 500), (4, 20, 30), (6, 448, 56)])
def test_video_stand_in_equals_the_real_processor(shape):
    t, h, w = shape
    pictures = torch.randint(0, 256, (t, 3, h, w), generator=torch.Generator().manual_seed(h), dtype=torch.uint8)
    theirs = real("Video")(videos=[pictures], do_sample_frames=False, return_tensors="pt")
    ours = TorchVideos(SETTINGS)([pictures])
    assert torch.equal(ours["video_grid_thw"], theirs["video_grid_thw"])
    torch.testing.assert_close(ours["pixel_values_videos"], theirs["pixel_values_videos"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(84, 112), (101, 67), (300, 500), (20, 30)])
def test_image_stand_in_equals_the_real_processor(shape):
    image = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    theirs = real("Image")(images=[image], return_tensors="pt")
    ours = TorchImages(SETTINGS)([image])
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], rtol=0, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(3136, 50176), (100352, 602112), (784, 784)]))
def test_sizes_equal_transformers(height, width, limits):
    pytest.importorskip("torchvision")  # transformers' module imports it
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as theirs

    try:
        expected = theirs(height, width, 28, *limits)
    except ValueError:
        with pytest.raises(InputError, match="200-fold"):
            smart_resize(height, width, 28, *limits)
        return
    assert smart_resize(height, width, 28, *limits) == expected
    if min(expected) > 28:  # frames that were resized as they were decoded stay as they are
        assert smart_resize(*expected, 28, expected[0] * expected[1], expected[0] * expected[1]) == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(784, 700_000), st.integers(2, 768), st.booleans())
def test_a_frame_never_has_more_pixels_than_asked_for(height, width, most, frames, close):
    assume(max(height, width) <= 200 * min(height, width))
    h, w = video_size(frames, height, width, 28, min(100_352, most) if close else 784, most)
    assert h * w <= most and h % 28 == w % 28 == 0 and min(h, w) >= 28


STRIPS_AND_CLOSE_LIMITS = [(798, 50, 3136, 3136), (210, 390, 100_352, 100_352), (20, 900, 784, 7840)]


@pytest.mark.parametrize("stand_in", [True, False])
@pytest.mark.parametrize("height, width, low, high", STRIPS_AND_CLOSE_LIMITS)
def test_an_image_never_has_more_pixels_than_asked_for(stand_in, height, width, low, high):
    image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    processor = TorchImages(SETTINGS) if stand_in else real("Image")
    for images in ([image], [image, image[:, :60, :70]]):
        assert [a * b > high for a, b in [smart_resize(height, width, 28, low, high)]] == [True]  # the published rule
        fitting, size = fit_images(images, processor, (low, high))
        grid = processor(images=fitting, size=size, return_tensors="pt")["image_grid_thw"]
        goals = [frame_size(*one.shape[1:], 28, low, high) for one in images]
        assert [(h * 14, w * 14) for _, h, w in grid.tolist()] == goals
        assert all(h * w <= high for h, w in goals)


def test_an_image_within_its_limits_is_left_to_the_processor():
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    fitting, size = fit_images([image], TorchImages(SETTINGS), (784, 50176))
    assert fitting[0] is image and size == {"shortest_edge": 784, "longest_edge": 50176}
    assert fit_images([image], TorchImages(SETTINGS), None)[1] is None


def test_a_limit_equal_to_the_smallest_size():
    assert video_size(8, 480, 640, 28, 128 * 784, 100_352) == (252, 364)  # as published; 280 x 364 are 101,920


def test_many_frames_share_a_budget():
    assert video_size(60, 720, 1280, 28, 128 * 784, 768 * 784) == smart_resize(720, 1280, 28, 128 * 784, 768 * 784)
    h, w = video_size(768, 720, 1280, 28, 128 * 784, 768 * 784)  # 384 patches of at most 300 tokens: 115,200 in all
    assert 250 < h * w / 784 <= 300


def test_the_path_taken_is_visible():
    made = info(model().processor)
    assert made.path in ("torchvision", "torchvision (python)", "avflow")
    assert (made.min_pixels, made.max_pixels) == (3136, 50176)  # the demo states its own
    assert info(object()).path == "object"


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen2_5_vl", "video_salmonn2_plus"])
def test_without_torchvision_everything_is_the_same(family, tmp_path):
    """A fresh process in which torchvision does not exist: the same ids, features and pixels, from the same files."""
    clip, image = clip_file(Clip()), write_png(Clip(), tmp_path / "a.png")
    program = f"""
        import importlib.util, sys
        class Gone:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "torchvision":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Gone())
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda n, p=None: None if n.split(".")[0] == "torchvision" else found(n, p)
        import torch, avflow
        model = avflow.load({demo(family)["checkpoint"]!r})
        samples = [dict(video={str(clip)!r}), dict(image={str(image)!r})]
        made = [model.prepare(avflow.Sample(id="0", question="Which?", answer="red", **s)) for s in samples]
        assert [p.media["processor"] for p in made] == ["avflow", "avflow"]
        torch.save([p.model_inputs for p in made], sys.argv[1])
    """
    run(program, str(tmp_path / "inputs.pt"))
    for inputs, medium in zip(
        torch.load(tmp_path / "inputs.pt"), ({"video": str(clip)}, {"image": str(image)}), strict=True
    ):
        ours = model(family).prepare(Sample(id="0", question="Which?", answer="red", **medium)).model_inputs
        assert ours.keys() == inputs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(inputs[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_importing_avflow_imports_neither_torchvision_nor_transformers():
    run("""
        import sys, avflow
        from avflow.prompts import labels, sample
        from avflow.media import audio, video
        assert not {"torchvision", "transformers", "av"} & set(sys.modules)
    """)


def run(program: str, *args: str) -> None:
    import os

    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *args], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "within the vocabulary" not in done.stderr  # transformers about a speech half that is not loaded


def chunks(values: np.ndarray) -> list[int]:
    return (np.floor(np.asarray(values, dtype=np.float64)) // 50).astype(int).tolist()


@settings(max_examples=200, deadline=None)
@given(st.floats(0.02, 1.0), st.integers(1, 384))
def test_processor_and_model_cut_chunks_at_the_same_patch(seconds_per_frame, patches):
    fps = agreeing_fps(seconds_per_frame, patches)
    assert fps == pytest.approx(1 / seconds_per_frame, rel=1e-5)
    laid = np.arange(patches) * (2 / fps) * 25
    placed = (torch.arange(patches) * torch.tensor(2 / fps) * 25).long()
    assert chunks(laid) == chunks(placed.numpy())


def test_there_are_rates_at_which_they_would_not():
    """152 s in 768 frames: without the nudge, rounding puts one patch into two chunks. The reason for agreeing_fps."""
    seconds_per_frame, steps = 152 / 768, np.arange(384)
    for fps, agree in ((1 / seconds_per_frame, False), (agreeing_fps(seconds_per_frame, 384), True)):
        laid = steps * (2 / fps) * 25
        placed = (torch.from_numpy(steps) * torch.tensor(2 / fps) * 25).long().numpy()
        assert (chunks(laid) == chunks(placed)) is agree


@pytest.mark.parametrize("fps, seconds", [(2.0, 4.0), (3.0, 4.0), (1.5, 5.0), (6.0, 3.0), (0.8, 10.0)])
def test_the_models_positions_fit_the_tokens(tmp_path, fps, seconds):
    """TMRoPE times from the model's own get_rope_index: each token's time is that of its own patch or sound."""
    path = write_clip(Clip(seconds=seconds, width=56, height=56), tmp_path / "c.mp4")
    prompt = model().prepare(Sample(id="0", question="?", answer="x", video=str(path)), fps=fps)
    inputs = prompt.model_inputs
    owner = next(m for m in model().hf.modules() if hasattr(m, "get_rope_index"))
    positions, _ = owner.get_rope_index(
        inputs["input_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=inputs["attention_mask"],
        use_audio_in_video=True,
        audio_seqlens=inputs["feature_attention_mask"].sum(-1),
        second_per_grids=inputs["video_second_per_grid"],
    )
    times = positions[0, 0]
    groups = np.array(prompt.groups)
    start = int(times[groups == "video"].min())
    each = float(inputs["video_second_per_grid"][0])
    assert each == pytest.approx(2 * seconds / prompt.media["frames"], rel=1e-5)
    items = np.array(prompt.items)[groups == "video"]
    assert times[groups == "video"].tolist() == [
        start + int(np.float32(np.float32(i) * np.float32(each)) * 25) for i in items
    ]
    assert times[groups == "audio"].tolist() == list(range(start, start + (groups == "audio").sum()))


def test_one_call_gives_what_the_published_recipe_gives():
    """The same ids and pixels as a plain call of the processor with text, videos and audio."""
    processor = model().processor
    frames = torch.randint(0, 256, (8, 3, 84, 112), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sound = np.random.default_rng(0).normal(0, 0.1, 64000).astype(np.float32)
    text = "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>red?<|im_end|>\n"
    ours = encode(processor, text, frames, 0.5, [sound], interleaved=True)
    if hasattr(type(processor), "load_audio_from_video"):
        spelling = {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    else:
        spelling = {"use_audio_in_video": True}
    size = {"shortest_edge": 3136, "longest_edge": 50176}
    kwargs = {"do_sample_frames": False, "fps": 2.0, "size": size}
    plain = processor(
        text=[text], videos=[frames], audio=[sound], videos_kwargs=kwargs, return_tensors="pt", **spelling
    )
    for name in ("input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw", "video_second_per_grid"):
        torch.testing.assert_close(ours[name], plain[name])
    length = int(plain["feature_attention_mask"].sum())
    assert length == 400 and ours["feature_attention_mask"].shape == (1, 400)
    assert torch.equal(ours["input_features"], plain["input_features"][..., :400])
    hf = model().hf
    with torch.no_grad():  # the padding that is cut off is never read
        whole = hf(**plain, use_audio_in_video=True).logits
        assert torch.equal(hf(**ours).logits, whole)


def test_checkpoints_that_lack_a_file(tmp_path):
    for name, says in (
        ("preprocessor_config.json", "lacks a processor file"),
        ("chat_template.json", "no chat template"),
    ):
        folder = tmp_path / name
        shutil.copytree(demo()["checkpoint"], folder)
        (folder / name).unlink()
        with pytest.raises(InputError, match=says):
            load_processor(str(folder))


def test_video_limits_are_the_recipes_unless_the_checkpoint_has_its_own(tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(demo()["checkpoint"], folder)
    (folder / "video_preprocessor_config.json").unlink()
    made = info(load_processor(str(folder)))
    assert (made.min_pixels, made.max_pixels) == (128 * 784, 768 * 784)
    (folder / "processor_config.json").write_text(
        '{"video_processor": {"size": {"shortest_edge": 10, "longest_edge": 99}}}'
    )
    assert processing.video_limits(str(folder)) == (10, 99)
