"""Position ids by spans equal transformers' own, integer for integer, and are what the sweep runs on."""

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import AUDIO, AUDIO_BOS, AUDIO_EOS, IMAGE, VIDEO, VISION_BOS, VISION_EOS, av_prompt, thinker

import avflow
from avflow.errors import InputError
from avflow.models.qwen2_5_omni.positions import quick, rope_index
from avflow.walk.capture import capture


@lru_cache
def model():
    return thinker(layers=1)


def _cut(times: list[int], per_chunk: int) -> list[list[int]]:
    """The chunks of the processor's layout, from its definition: one chunk further a token at most."""
    chunks, chunk = [[]], 1
    for i, t in enumerate(times):
        if t >= chunk * per_chunk:
            chunks.append([])
            chunk += 1
        chunks[-1].append(i)
    return chunks


def _block(config, item, together: bool) -> list[int]:
    kind, (frames, rows, columns), mel, seconds = item
    cells = rows * columns // 4
    video, sound = [VIDEO] * (frames * cells), [AUDIO] * (((mel - 1) // 2 + 1 - 2) // 2 + 1)
    if kind == "image":
        return [VISION_BOS, *[IMAGE] * cells, VISION_EOS]
    if kind == "sound":
        return [AUDIO_BOS, *sound, AUDIO_EOS]
    if not together:
        return [VISION_BOS, *video, VISION_EOS]
    per_second, per_chunk = config.position_id_per_seconds, config.position_id_per_seconds * config.seconds_per_chunk
    times = (torch.arange(frames) * torch.tensor(seconds) * per_second).long().repeat_interleave(cells).tolist()
    parts = _cut(times, per_chunk), _cut(list(range(len(sound))), per_chunk)
    ids = []
    for j in range(max(map(len, parts))):
        ids += [VIDEO] * (len(parts[0][j]) if j < len(parts[0]) else 0)
        ids += [AUDIO] * (len(parts[1][j]) if j < len(parts[1]) else 0)
    return [VISION_BOS, AUDIO_BOS, *ids, AUDIO_EOS, VISION_EOS]


items = st.tuples(
    st.sampled_from(["image", "sound", "video"]),
    st.tuples(st.integers(1, 9), st.sampled_from([2, 4, 8, 30]), st.sampled_from([2, 6])),
    st.integers(3, 900),  # mel frames
    st.sampled_from([0.25, 1.0, 0.74, 2.5, 7.0]),  # seconds per grid step
)
texts = st.integers(0, 5)
prompts = st.lists(st.lists(st.tuples(texts, items), max_size=3), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(prompts, st.booleans(), texts)
def test_equals_the_models_own(batch, together, tail):
    config = model().config
    rows, images, videos, sounds, seconds = [], [], [], [], []
    for prompt in batch:
        ids = []
        for text, item in prompt:
            ids += [20] * text + _block(config, item, together)
            kind, grid, mel, step = item
            images += [(1, *grid[1:])] * (kind == "image")
            videos, seconds = videos + [grid] * (kind == "video"), seconds + [step] * (kind == "video")
            sounds += [mel] * (kind == "sound" or (kind == "video" and together))
        rows.append(ids + [21] * (tail + 1))
    width = max(map(len, rows))
    inputs = dict(
        input_ids=torch.tensor([[0] * (width - len(r)) + r for r in rows]),
        attention_mask=torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows]),
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        audio_seqlens=torch.tensor(sounds) if sounds else None,
        second_per_grids=torch.tensor(seconds) if seconds else None,
        use_audio_in_video=together,
    )
    found = rope_index(config, 2, **inputs)
    if not images and not videos:
        assert found is None
        return
    want = model().get_rope_index(**inputs)
    assert torch.equal(found[0], want[0]) and torch.equal(found[1], want[1])


def test_a_silent_video_beside_one_with_sound_is_left_to_the_model():
    config = model().config
    loud = _block(config, ("video", (2, 4, 4), 100, 1.0), True)
    silent = _block(config, ("video", (2, 4, 4), 100, 1.0), False)
    ids = torch.tensor([[*loud, 20, *silent, 20]])
    inputs = dict(
        video_grid_thw=torch.tensor([[2, 4, 4], [2, 4, 4]]),
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=True,
        audio_seqlens=torch.tensor([100]),
        second_per_grids=torch.tensor([1.0, 1.0]),
    )
    assert rope_index(config, 2, ids, **inputs) is None
    want = model().get_rope_index(ids, **inputs)
    got = quick(model())(ids, **inputs)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_ids_with_more_media_than_are_described_say_so():
    config = model().config
    picture = [VISION_BOS, *[IMAGE] * 4, VISION_EOS]
    one = torch.tensor([[1, 4, 4]])
    assert rope_index(config, 2, torch.tensor([[1, *picture, 2]]), one) is not None
    with pytest.raises(InputError, match="more media than image_grid_thw"):
        rope_index(config, 2, torch.tensor([[1, *picture, 2, *picture]]), one)
    with pytest.raises(InputError, match="more media than audio_seqlens"):
        rope_index(config, 2, torch.tensor([[1, *picture, AUDIO_BOS, AUDIO, AUDIO_EOS]]), one)


@pytest.mark.parametrize("layout", ["interleaved", "separate", "question_first", "silent"])
def test_the_sweep_reads_the_same_positions_without_the_loop(layout, monkeypatch):
    hf = model()
    wrapped, prompt = avflow.wrap(hf), av_prompt(layout)
    wanted = capture(wrapped, prompt)
    slow = [0]

    def count(*args, **kwargs):
        slow[0] += 1
        raise AssertionError("the model's own loop ran")

    for owner in {type(m) for m in hf.modules() if hasattr(m, "get_rope_index")}:
        monkeypatch.setattr(owner, "get_rope_index", count)
    found = capture(wrapped, prompt)
    assert torch.equal(found.cos, wanted.cos) and torch.equal(found.sin, wanted.sin) and not slow[0]
    monkeypatch.undo()
    monkeypatch.setattr(type(wrapped.family), "patches", lambda self, model: [])
    plain = capture(wrapped, prompt)
    assert torch.equal(plain.cos, wanted.cos) and torch.equal(plain.sin, wanted.sin)
    assert not any("get_rope_index" in m.__dict__ for m in hf.modules())
