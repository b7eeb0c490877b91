"""Plain Qwen2.5-VL: labels, position ids by the published rule, sweeps, and what it cannot hear."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from clips import Clip, write_clip, write_png, write_wav
from demo_folder import clip_file, demo
from demo_folder import model as model_of

import avflow
from avflow.errors import InputError
from avflow.models.qwen2_5_vl import Qwen25VL
from avflow.prompts.sample import Sample

CLIP = Clip()  # 4 s, 112 x 84 pixels: at 2 frames a second 4 steps of 12 tokens
ASK = {"id": "0", "question": "Which color is the shape?", "options": ["red", "green", "blue"], "answer": "green"}
TEXT = 7


def model():
    return model_of("qwen2_5_vl")


def sample(**changes) -> Sample:
    medium = {} if {"video", "audio", "image"} & set(changes) else {"video": str(clip_file(CLIP))}
    return Sample(**(ASK | medium | changes))


def written_rule(ids, grids, seconds, rate, image, video) -> list[tuple[int, int, int]]:
    """Positions by the rule as it is written, token by token: the reference that the family's own must equal."""
    out, at = [], 0
    grids, seconds = list(grids), list(seconds)
    while at < len(ids):
        start = 1 + max((max(p) for p in out), default=-1)
        if ids[at] in (image, video):
            t, h, w = grids.pop(0)
            each = 0.0 if ids[at] == image else seconds.pop(0)
            for k, r, c in itertools.product(range(t), range(h // 2), range(w // 2)):
                time = torch.tensor(k, dtype=torch.float32) * torch.tensor(each, dtype=torch.float32) * rate
                out.append((start + int(time), start + r, start + c))
        else:
            out.append((start, start, start))
        at = len(out)
    return out


def ids_of(*parts) -> list[int]:
    """Text lengths as numbers, media as (id, grid)."""
    config = model().hf.config
    kinds = {"image": config.image_token_id, "video": config.video_token_id}
    ids: list[int] = []
    for part in parts:
        ids += [TEXT] * part if isinstance(part, int) else [kinds[part[0]]] * (torch.tensor(part[1]).prod().item() // 4)
    return ids


def positions(parts, seconds):
    """The family's positions [3, N] and delta for one prompt."""
    grids = {kind: [p[1] for p in parts if p[0] == kind] for kind in ("image", "video")} if parts else {}
    inputs = {"input_ids": torch.tensor([ids_of(*[p if isinstance(p, tuple) else p[0] for p in parts])])}
    inputs |= {f"{kind}_grid_thw": torch.tensor(found) for kind, found in grids.items() if found}
    if grids.get("video"):
        inputs["second_per_grid_ts"] = torch.tensor(seconds)
    found, delta = model().family.position_ids(model(), inputs)
    return found[:, 0], int(delta)


@pytest.mark.parametrize(
    "parts, seconds",
    [
        ([[5], ("video", (10, 4, 4)), [6]], [1.0]),
        ([[5], ("video", (3, 8, 4)), [6]], [0.2]),  # higher than long: text resumes after the rows
        ([[5], ("video", (7, 4, 6)), [6]], [0.65]),
        ([[3], ("video", (384, 4, 4)), [2]], [0.3125]),
        ([[1], ("image", (1, 6, 4)), [2], ("video", (4, 4, 6)), [1]], [1.5]),
        ([[2], ("video", (2, 4, 4)), [1], ("image", (1, 4, 4)), [1], ("video", (5, 4, 4)), [3]], [0.5, 3.0]),
        ([("video", (2, 4, 4)), [1]], [1.0]),
        ([[9]], []),
    ],
    ids=str,
)
def test_positions_are_those_of_the_written_rule(parts, seconds):
    config = model().hf.config
    ids = ids_of(*[p if isinstance(p, tuple) else p[0] for p in parts])
    grids = [p[1] for p in parts if isinstance(p, tuple)]
    rate = config.vision_config.tokens_per_second
    expected = written_rule(ids, grids, seconds, rate, config.image_token_id, config.video_token_id)
    found, delta = positions(parts, seconds)
    assert found.T.tolist() == [list(p) for p in expected]
    assert delta == int(found.max()) + 1 - len(ids)


def test_a_worked_example():
    """10 steps of 2 x 2 tokens at 1 s: times 4, 6 .. 22 and text from 23, as transformers 4.49 gives it."""
    found, delta = positions([[4], ("video", (10, 4, 4)), [2]], [1.0])
    assert found[0, 4:44:4].tolist() == list(range(4, 24, 2)) and found[1, 4:8].tolist() == [4, 4, 5, 5]
    assert found[:, 44:].tolist() == [[23, 24]] * 3 and delta == 25 - 46


def test_padded_batches_have_the_rows_of_single_prompts():
    family, video = model().family, ("video", (3, 4, 4))
    short, long = ids_of(2, video, 3), ids_of(4, video, 5)
    pad = len(long) - len(short)
    ids = torch.tensor([[0] * pad + short, long])
    mask = torch.ones_like(ids)
    mask[0, :pad] = 0
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "video_grid_thw": torch.tensor([video[1]] * 2),
        "second_per_grid_ts": torch.tensor([1.0, 1.0]),
    }
    found, delta = family.position_ids(model(), inputs)
    for row, parts in enumerate(([[2], video, [3]], [[4], video, [5]])):
        single, own = positions(parts, [1.0])
        assert torch.equal(found[:, row, mask[row].bool()], single) and int(delta[row]) == own
    assert not found[:, 0, :pad].any()


def test_pictures_without_a_grid_are_told():
    with pytest.raises(InputError, match="token 2 is a picture's, and there is no grid left"):
        model().family.position_ids(model(), {"input_ids": torch.tensor([ids_of(2, ("video", (1, 4, 4)))])})


def test_the_layout_token_by_token():
    prompt = model().prepare(sample())
    pairs = zip(prompt.groups, prompt.items, strict=True)
    assert [(*key, len(list(same))) for key, same in itertools.groupby(pairs)] == [
        ("template", -1, 3),
        ("system", -1, 11),
        ("template", -1, 6),  # <|im_end|> \n <|im_start|> user \n <|vision_start|>
        *[("video", i, 12) for i in range(4)],
        ("template", -1, 1),
        ("question_text", -1, 7),
        ("option_incorrect", 0, 4),
        ("option_correct", 1, 4),
        ("option_incorrect", 2, 4),
        ("question_text", -1, 13),
        ("template", -1, 7),
        ("last", -1, 1),
    ]
    inputs = prompt.model_inputs
    assert inputs["video_grid_thw"].tolist() == [[4, 6, 8]] and inputs["second_per_grid_ts"].tolist() == [1.0]
    groups, items = model().family.label(model(), prompt.input_ids, inputs["video_grid_thw"])
    option = [g.startswith("option") for g in prompt.groups]
    assert groups == ["question_text" if o else g for g, o in zip(prompt.groups, option, strict=True)]
    assert items == [-1 if o else i for i, o in zip(prompt.items, option, strict=True)]


def test_an_image_and_a_video(tmp_path):
    prompt = model().prepare(sample(image=str(write_png(CLIP, tmp_path / "a.png")), video=str(clip_file(CLIP))))
    assert (prompt.groups.count("image"), prompt.groups.count("video")) == (12, 48)
    alone = model().prepare(sample(image=str(tmp_path / "a.png")))
    for p in (prompt, alone):
        with torch.no_grad():
            assert torch.isfinite(model().hf(**p.model_inputs).logits).all()


def test_what_it_cannot_hear(tmp_path):
    wav = str(write_wav(CLIP, tmp_path / "a.wav"))
    clip = str(clip_file(CLIP))
    for change in ({"audio": wav}, {"use_audio_in_video": True, "video": clip}, {"dub": wav, "video": clip}):
        with pytest.raises(InputError, match="hears nothing"):
            model().prepare(sample(**change))
    with pytest.raises(InputError, match="hears nothing"):
        model().prepare(sample(), use_audio_in_video=True)


def test_a_transformers_processor_of_the_callers(tmp_path):
    pytest.importorskip("torchvision")
    from transformers import Qwen2_5_VLProcessor

    processor = Qwen2_5_VLProcessor.from_pretrained(demo("qwen2_5_vl")["checkpoint"])
    theirs = avflow.wrap(model().hf, processor).prepare(sample(), max_pixels=64 * 784)
    ours = model().prepare(sample())
    assert theirs.media["processor"] == "Qwen2_5_VLProcessor"
    small = avflow.wrap(model().hf, processor).prepare(sample(), min_pixels=4 * 784, max_pixels=64 * 784)
    assert small.groups == ours.groups
    for name, value in ours.model_inputs.items():
        torch.testing.assert_close(small.model_inputs[name], value, rtol=0, atol=1e-6)


def test_a_folder_saved_by_transformers(tmp_path):
    """Its newer versions write processor_config.json and chat_template.jinja instead of the published files."""
    pytest.importorskip("torchvision")
    from transformers import Qwen2_5_VLProcessor

    from avflow.models.vision_processor import VisionProcessor

    Qwen2_5_VLProcessor.from_pretrained(demo("qwen2_5_vl")["checkpoint"]).save_pretrained(tmp_path)
    made = avflow.wrap(model().hf, VisionProcessor.from_pretrained(str(tmp_path)))
    limits = {"min_pixels": 4 * 784, "max_pixels": 64 * 784}
    ours, theirs = model().prepare(sample(), **limits), made.prepare(sample(), **limits)
    for name, value in ours.model_inputs.items():
        assert torch.equal(theirs.model_inputs[name], value), name


def test_the_folder_is_one_that_transformers_reads():
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = demo("qwen2_5_vl")["checkpoint"]
    _, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert isinstance(avflow.load(folder).family, Qwen25VL)
    assert json.loads((Path(folder) / "config.json").read_text())["model_type"] == "qwen2_5_vl"


def test_a_folder_without_a_chat_template_is_told(tmp_path):
    shutil.copytree(demo("qwen2_5_vl")["checkpoint"], tmp_path / "c")
    (tmp_path / "c" / "chat_template.json").unlink()
    with pytest.raises(InputError, match=r"needs a chat_template\.json"):
        avflow.load(tmp_path / "c")


def test_a_video_of_an_odd_shape(tmp_path):
    path = write_clip(Clip(width=280, height=56, seconds=3.0), tmp_path / "c.mp4")
    prompt = model().prepare(sample(video=str(path)), fps=2.0)
    t, h, w = prompt.model_inputs["video_grid_thw"][0].tolist()
    assert prompt.groups.count("video") == t * h * w // 4 and prompt.media["frames"] == 6


def test_times_are_the_frames():
    prompt = model().prepare(sample(), fps=4)
    times = [t for t, g in zip(prompt.times, prompt.groups, strict=True) if g == "video"]
    assert times == [0.5 * (n // 12) for n in range(8 * 12)]
    assert {t for t, g in zip(prompt.times, prompt.groups, strict=True) if g != "video"} == {None}
