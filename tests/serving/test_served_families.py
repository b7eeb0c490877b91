"""Every decoder that is served: random weights, greedy tokens as of avflow.evict(decode="keep") and generate."""

import json
import random

import numpy as np
import pytest
import tiny
import torch

import avflow
from avflow import EveryNth, Sample, Step
from avflow.models import qwen2_5_vl, registry
from avflow.models.base import Family
from avflow.synthetic import files
from avflow.tiny import vision
from avflow.tiny.checkpoint import Tiny, build
from avflow_vllm.client import extra_args
from avflow_vllm.names import OFF

NEW, LAYERS = 10, 6
STEPS = {"video": 1, "audio": 3}
SEEN = [Step("video", 1, EveryNth(2)), Step("video", 4), Step("image", 3)]


def greedy(model, ids, schedule, groups, items=None, **inputs):
    steps = [step for step in avflow.EvictionSchedule(schedule).steps if step.group in groups]
    with avflow.evict(model, avflow.EvictionSchedule(steps), groups=groups, items=items):
        out = model.hf.generate(input_ids=ids, **inputs, max_new_tokens=NEW, do_sample=False)
    return out[0, ids.shape[1] :].tolist()


def runs_of(groups):
    edges = [0, *(i for i in range(1, len(groups)) if groups[i] != groups[i - 1]), len(groups)]
    return [[start, stop, groups[start]] for start, stop in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
def test_decoders_of_text(kind, engine, tmp_path):
    hf = tiny.decoder(kind, layers=LAYERS, head_dim=32).float()
    hf.save_pretrained(tmp_path)
    model, rng = avflow.wrap(hf), random.Random(2)
    asked = []
    for _ in range(12):
        groups = []
        while len(groups) < 70:
            groups += [rng.choice(("video", "audio", "question_text"))] * rng.randrange(1, 30)
        groups = ["template", *groups, "last"]
        ids = [rng.randrange(1, 400) for _ in groups]  # 0 is the padding
        asked.append((ids, groups, *(greedy(model, torch.tensor([ids]), s, groups) for s in (STEPS, {}))))
    assert sum(evicted != plain for _, _, evicted, plain in asked) >= 6
    served = engine(
        model=str(tmp_path), skip_tokenizer_init=True, avflow=STEPS, limit_mm_per_prompt=None, max_num_batched_tokens=64
    )
    assert set(served.segments()) == {0, 1, 2}
    requests = [{"prompt_token_ids": ids} for ids, _, _, _ in asked]
    extras = [{"avflow_runs": runs_of(groups)} for _, groups, _, _ in asked]
    assert served.generate(requests, extras, NEW) == [evicted for _, _, evicted, _ in asked]
    assert served.generate(requests, [{OFF: 1}] * len(asked), NEW) == [plain for _, _, _, plain in asked]
    assert served.free == served.free_at_start


class Qwen2VL(Family):
    """So that avflow answers, too: its groups are given."""

    model_types = ("qwen2_vl",)


def qwen2_vl(folder):
    """The random Qwen2.5-VL of `folder` becomes a Qwen2-VL, with the same tokenizer and processor."""

    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    told = json.loads((folder / "config.json").read_text())
    told["vision_config"] = {
        "model_type": "qwen2_vl",
        "depth": 2,
        "embed_dim": 64,
        "hidden_size": told["hidden_size"],
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }
    told |= {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
    size = Tiny(layers=LAYERS)
    vision.save_model(
        folder, told, lambda: Qwen2VLForConditionalGeneration(Qwen2VLConfig(**told)), vision._published_name, size
    )
    return Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """[(prompt, multi_modal_data, mm_processor_kwargs)] of pictures and videos, for both of Qwen's VL models."""
    from PIL import Image

    folder = build(tmp_path / "vl", "qwen2_5_vl", Tiny(layers=LAYERS))
    model, rng, taken = avflow.load(folder), np.random.default_rng(5), {}
    real = qwen2_5_vl.vision.pixels

    def pixels(processor, frames, image, limits):
        taken.update(frames=frames, image=image)
        return real(processor, frames, image, limits)

    monkeypatch.setattr(qwen2_5_vl.vision, "pixels", pixels)
    out = []
    for number in range(8):
        path = tmp_path / f"{number}.{'mp4' if number % 2 else 'png'}"
        noise = rng.integers(0, 256, (6, 8, 8, 3), np.uint8).repeat(14, 1).repeat(14 + 7 * (number % 3), 2)
        if number % 2:
            files.write_media(path, noise, 2, None)
        else:
            Image.fromarray(noise[0]).save(path)
        medium = {"video" if number % 2 else "image": path}
        prompt = model.prepare(Sample.open(id=str(number), question=f"What is this, number {number}?", **medium))
        if number % 2:
            frames = taken["frames"]
            area = frames.shape[-1] * frames.shape[-2]
            fps = 2 / prompt.model_inputs["second_per_grid_ts"].item()
            told = {"fps": fps, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
            size = {"shortest_edge": area, "longest_edge": area}
            data = {"video": [(frames.permute(0, 2, 3, 1).numpy(), told)]}
            out.append((prompt, data, {"do_sample_frames": False, "fps": fps, "size": size}))
        else:
            out.append((prompt, {"image": [Image.fromarray(taken["image"].permute(1, 2, 0).numpy())]}, {}))
    return folder, model, out


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2_vl"])
def test_decoders_that_see(kind, seen, engine, monkeypatch, tmp_path):
    """Every second frame by the grids alone, and by runs; media that vLLM has cached come a second time."""
    folder, model, asked = seen
    left_out = ("input_ids", "attention_mask")
    if kind == "qwen2_vl":
        monkeypatch.setitem(registry._FAMILIES, "qwen2_vl", [Qwen2VL()])
        model = avflow.wrap(qwen2_vl(folder))
        left_out += ("position_ids", "second_per_grid_ts")
    model.hf.generation_config.eos_token_id = None
    want = {}
    for name, schedule in (("evicted", SEEN), ("plain", {})):
        want[name] = []
        for prompt, _, _ in asked:
            inputs = {key: value for key, value in prompt.model_inputs.items() if key not in left_out}
            ids = prompt.model_inputs["input_ids"]
            if kind == "qwen2_vl":  # by these transformers places pictures
                marks = (model.hf.config.image_token_id, model.hf.config.video_token_id)
                inputs["mm_token_type_ids"] = sum((ids == mark) * (1 + at) for at, mark in enumerate(marks))
            want[name].append(greedy(model, ids, schedule, prompt.groups, prompt.items, **inputs))
    assert sum(a != b for a, b in zip(want["evicted"], want["plain"], strict=True)) > 5
    avflow.EvictionSchedule(SEEN).save(tmp_path / "schedule.json")
    served = engine(
        model=str(folder),
        avflow={"schedule": str(tmp_path / "schedule.json")},
        limit_mm_per_prompt={"video": 1, "image": 1},
        mm_processor_cache_gb=1,
    )
    media = {model.hf.config.image_token_id, model.hf.config.video_token_id}
    requests = []
    for prompt, data, kwargs in asked:
        ids = prompt.input_ids.flatten().tolist()
        short = [t for i, t in enumerate(ids) if t not in media or i == 0 or ids[i - 1] != t]  # vLLM puts them back
        requests.append({"prompt_token_ids": short, "multi_modal_data": data, "mm_processor_kwargs": kwargs})
    assert served.generate(requests, None, NEW) == want["evicted"]
    assert served.generate(requests, [extra_args(prompt) for prompt, _, _ in asked], NEW) == want["evicted"]
    assert served.generate(requests, [{OFF: 1}] * len(asked), NEW) == want["plain"]
    assert served.free == served.free_at_start
