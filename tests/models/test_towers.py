"""Towers in batches give the hidden states of the towers as they are, in one call for each length of segment."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest
import tiny
import tiny_salmonn
import torch
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as vl

import avflow
from avflow.models import towers
from avflow.models.compat import attributes
from avflow.walk.capture import capture

DEPTH, FULL = 3, 1  # layers; the one of them that attends within frames, the others within windows of 8 x 8 patches
GRIDS = {
    "windows at the edges are smaller": [[3, 20, 28]],
    "the grid is windows": [[4, 16, 8]],
    "smaller than a window": [[1, 2, 6]],
    "one frame": [[1, 10, 18]],
    "images": [[1, 6, 10], [1, 18, 4], [1, 6, 10], [1, 16, 16]],
    "a video among images": [[1, 12, 8], [5, 10, 6], [1, 10, 6]],
}
SOUNDS = {"chunks": [400], "a tail": [333], "shorter than a chunk": [7], "sounds": [333, 777, 200, 201, 5]}
ATTENTION = ["sdpa", "eager"]


def _sharpened(tower):
    """Weights with which attention is far from uniform."""
    with torch.no_grad():
        for name, p in tower.named_parameters():
            if p.dim() > 1 and any(part in name for part in (".attn.", ".self_attn.")):
                p.normal_(0, 2.5 / p.shape[-1] ** 0.5)
    return tower.eval()


@lru_cache
def vision(kind: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    sizes = dict(depth=DEPTH, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=24)
    sizes |= dict(window_size=112, fullatt_block_indexes=[FULL], attn_implementation=attention)
    if kind == "omni":
        return _sharpened(omni.Qwen2_5OmniVisionEncoder(omni.Qwen2_5OmniVisionEncoderConfig(**sizes)))
    return _sharpened(vl.Qwen2_5_VisionTransformerPretrainedModel(vl.Qwen2_5_VLVisionConfig(**sizes)))


@lru_cache
def audio(attention: str = "sdpa"):
    torch.manual_seed(0)
    sizes = dict(num_mel_bins=16, encoder_layers=DEPTH, encoder_attention_heads=2, encoder_ffn_dim=64, d_model=32)
    config = omni.Qwen2_5OmniAudioEncoderConfig(**sizes, n_window=100, output_dim=24, attn_implementation=attention)
    return _sharpened(omni.Qwen2_5OmniAudioEncoder(config))


@torch.no_grad()
def see(tower, grids, quick: bool, **more):
    grid = torch.tensor(grids)
    pixels = torch.randn(int(grid.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(1))
    with attributes(towers.patches(tower) if quick else []):
        return tower(pixels, grid_thw=grid, output_hidden_states=True, **more)


@torch.no_grad()
def hear(tower, mels, quick: bool, **more):
    features = torch.randn(16, sum(mels), generator=torch.Generator().manual_seed(1))
    with attributes(towers.patches(tower) if quick else []):
        return tower(features, feature_lens=torch.tensor(mels), output_hidden_states=True, **more)


def outputs(found) -> list[torch.Tensor]:
    return [found.last_hidden_state, found.pooler_output, *found.hidden_states]


def far(found, wanted) -> float:
    """The largest difference, as a part of the largest value."""
    pairs = list(zip(outputs(found), outputs(wanted), strict=True))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs if b is not None)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of q in every call of the attention function, by their number."""
    seen: Counter = Counter()

    def counted(attend):
        def attention(module, query, *args, **kwargs):
            seen[tuple(query.shape)] += 1
            return attend(module, query, *args, **kwargs)

        return attention

    registry = omni.ALL_ATTENTION_FUNCTIONS
    monkeypatch.setitem(registry._global_mapping, "sdpa", counted(registry["sdpa"]))
    for module in (omni, vl):
        monkeypatch.setattr(module, "eager_attention_forward", counted(module.eager_attention_forward))
    return seen


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("kind", ["omni", "vl"])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_vision_is_the_same(kind, grids, attention):
    tower = vision(kind, attention)
    assert far(see(tower, grids, True), see(tower, grids, False)) <= 1e-5


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mels", SOUNDS.values(), ids=SOUNDS)
def test_audio_is_the_same(mels, attention):
    tower = audio(attention)
    assert far(hear(tower, mels, True), hear(tower, mels, False)) <= 1e-5


def test_the_bound_tells_segments_apart():
    """With one window's edge moved by a merged patch, with frames or chunks as one: far beyond what is allowed."""
    grids = GRIDS["windows at the edges are smaller"]
    right = see(vision("omni"), grids, False)
    made = towers.vision_indices(vision("omni"), None, torch.tensor(grids))
    made["cu_window_seqlens"] = made["cu_window_seqlens"].clone()
    made["cu_window_seqlens"][3] -= 4
    assert far(see(vision("omni"), grids, True, **made), right) > 1e-3
    joined = towers.vision_indices(vision("omni"), None, torch.tensor(grids))
    joined["cu_seqlens"] = joined["cu_seqlens"][[0, -1]]
    assert far(see(vision("omni"), grids, True, **joined), right) > 1e-3
    heard = hear(audio(), [400], False)
    features = torch.randn(16, 400, generator=torch.Generator().manual_seed(1))
    made = towers.audio_indices(audio(), features, torch.tensor([400]))
    made["cu_seqlens"] = made["cu_seqlens"][[0, -1]]
    assert far(hear(audio(), [400], True, **made), heard) > 1e-3


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_call_for_each_length(attention, calls):
    """3 frames of 20 x 28 patches: windows of 8, 8, 4 rows by 8, 8, 8, 4 columns."""
    see(vision("omni", attention), [[3, 20, 28]], False)
    assert calls.total() == 2 * 36 + 3
    calls.clear()
    see(vision("omni", attention), [[3, 20, 28]], True)
    assert calls == {(18, 2, 64, 16): 2, (15, 2, 32, 16): 2, (3, 2, 16, 16): 2, (3, 2, 560, 16): 1}
    calls.clear()
    hear(audio(attention), SOUNDS["sounds"], True)  # 100 | 67; 3 x 100 | 89; 100; 100 | 1; 3
    assert calls == {(6, 2, 100, 16): 3, (1, 2, 67, 16): 3, (1, 2, 89, 16): 3, (1, 2, 1, 16): 3, (1, 2, 3, 16): 3}


def test_a_call_is_bounded(calls, monkeypatch):
    tower, grids = vision("vl"), [[3, 20, 28]]
    wanted = see(tower, grids, False)
    calls.clear()
    monkeypatch.setattr(towers, "SCORE_BYTES", 4 * 4 * 2 * 64 * 64)  # four windows
    assert far(see(tower, grids, True), wanted) <= 1e-5
    assert {shape: n for shape, n in calls.items() if shape[2] == 64} == {(4, 2, 64, 16): 8, (2, 2, 64, 16): 2}
    assert calls[1, 2, 560, 16] == 3  # one at the least
    monkeypatch.undo()


def test_lengths_are_read_once_a_forward(monkeypatch):
    made = []
    init = towers.Segments.__init__
    monkeypatch.setattr(towers.Segments, "__init__", lambda self, *args: made.append(args[0]) or init(self, *args))
    see(vision("omni"), [[3, 20, 28]], True)
    assert sorted(map(len, made)) == [3 + 1, 36 + 1]  # frames, windows: not once a layer
    made.clear()
    hear(audio(), [333], True)
    assert [len(m) for m in made] == [3]


def test_what_a_caller_made_is_taken():
    grids = [[3, 20, 28]]
    made = towers.vision_indices(vision("omni"), None, torch.tensor(grids))
    assert far(see(vision("omni"), grids, True, **made), see(vision("omni"), grids, False)) <= 1e-5


def test_left_as_it_is_with_attention_that_takes_no_batch(monkeypatch):
    """Flash attention takes segments of any length in one call by itself."""
    for tower in (vision("omni"), vision("vl"), audio()):
        seen = []
        monkeypatch.setitem(tower.__dict__, "forward", lambda *args, seen=seen, **kwargs: seen.append((args, kwargs)))
        monkeypatch.setattr(tower.config, "_attn_implementation", "flash_attention_2")
        with attributes(towers.patches(tower)):
            tower(1, grid_thw=2)
        assert seen == [((1,), {"grid_thw": 2})]
        monkeypatch.undo()


def test_a_block_within_a_block(calls):
    """As when a sweep runs inside of avflow.evict."""
    tower, grids = vision("omni"), [[3, 20, 28]]
    wanted = see(tower, grids, False)
    calls.clear()
    with attributes(towers.patches(tower)):
        assert far(see(tower, grids, True), wanted) <= 1e-5
        assert calls.total() == 2 * 3 + 1
        assert far(see(tower, grids, False), wanted) <= 1e-5
    assert calls.total() == 2 * (2 * 3 + 1)
    assert "forward" not in tower.__dict__


def test_everything_is_put_back():
    tower = vision("omni")
    modules = [tower, *(block.attn for block in tower.blocks)]
    with pytest.raises(RuntimeError):
        see(tower, [[3, 20, 28]], True, cu_seqlens=torch.tensor([0, 5]))  # of 1,680 rows
    assert tower.config._attn_implementation == "sdpa"
    assert not any("forward" in m.__dict__ for m in modules)
    with pytest.raises(avflow.errors.InputError, match="not by avflow"):
        towers.attention_forward(tower, *torch.zeros(3, 1, 2, 4, 8))


@pytest.mark.parametrize("family", ["omni", "video-SALMONN 2+"])
def test_a_sweep_reads_media_in_batches(family, calls, monkeypatch):
    script = tiny if family == "omni" else tiny_salmonn
    model, prompt = avflow.wrap(script.thinker(layers=1)), script.av_prompt()
    found = capture(model, prompt)
    few = Counter({shape: n for shape, n in calls.items() if shape[0] > 1 and shape[2] == 24})
    assert few == {(4, 2, 24, 16): 1}  # four frames of 4 x 6 patches
    monkeypatch.setattr(type(model.family), "patches", lambda self, model: [])
    wanted = capture(model, prompt)
    torch.testing.assert_close(found.hidden, wanted.hidden, rtol=0, atol=1e-5 * float(wanted.hidden.abs().max()))
