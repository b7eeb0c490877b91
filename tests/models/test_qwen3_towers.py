"""The towers of Qwen3-VL and Qwen3-Omni in batches: the hidden states of the towers as they are, in few calls."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest
import torch
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni
from transformers.models.qwen3_vl import modeling_qwen3_vl as vl

from avflow.models import qwen3_towers
from avflow.models.compat import attributes

DEPTH = 2
GRIDS = {
    "frames": [[4, 4, 6]],
    "images": [[1, 4, 6], [1, 6, 4], [1, 2, 2]],
    "a video among images": [[1, 4, 8], [3, 6, 4], [1, 4, 8]],
}
SOUNDS = {"stretches": [1600], "a tail": [933], "shorter than a chunk": [7], "sounds": [333, 1777, 200, 5]}
ATTENTION = ["sdpa", "eager"]


def _sharpened(tower):
    """Weights with which attention is far from uniform, and what is seen or heard is no less than where it stands."""
    with torch.no_grad():
        for name, p in tower.named_parameters():
            if p.dim() > 1 and name.startswith("conv"):
                p.normal_(0, 2 / p[0].numel() ** 0.5)
            if p.dim() > 1 and any(part in name for part in (".attn.", ".self_attn.")):
                p.normal_(0, 2.5 / p.shape[-1] ** 0.5)
    return tower.eval()


@lru_cache
def vision(kind: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    sizes = dict(depth=DEPTH, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=24)
    sizes |= dict(patch_size=4, num_position_embeddings=16, deepstack_visual_indexes=[0], attn_implementation=attention)
    if kind == "omni":
        return _sharpened(omni.Qwen3OmniMoeVisionEncoder(omni.Qwen3OmniMoeVisionEncoderConfig(**sizes)))
    return _sharpened(vl.Qwen3VLVisionModel(vl.Qwen3VLVisionConfig(**sizes)))


@lru_cache
def audio(attention: str = "sdpa"):
    torch.manual_seed(0)
    sizes = dict(num_mel_bins=16, encoder_layers=DEPTH, encoder_attention_heads=2, encoder_ffn_dim=64, d_model=32)
    sizes |= dict(n_window=50, n_window_infer=400, downsample_hidden_size=8, output_dim=24)
    config = omni.Qwen3OmniMoeAudioEncoderConfig(**sizes, attn_implementation=attention)
    return _sharpened(omni.Qwen3OmniMoeAudioEncoder(config))


def patched(tower, quick: bool):
    source = vl if isinstance(tower, vl.Qwen3VLVisionModel) else omni
    classes = (
        [vl.Qwen3VLVisionModel]
        if source is vl
        else [
            omni.Qwen3OmniMoeVisionEncoder,
            omni.Qwen3OmniMoeAudioEncoder,
        ]
    )
    return attributes(qwen3_towers.patches(tower, source, *classes) if quick else [])


@torch.no_grad()
def see(tower, grids, quick: bool, **more):
    grid = torch.tensor(grids)
    pixels = torch.randn(int(grid.prod(1).sum()), 96, generator=torch.Generator().manual_seed(1))
    with patched(tower, quick):
        return tower(pixels, grid_thw=grid, output_hidden_states=True, **more)


@torch.no_grad()
def hear(tower, mels, quick: bool, **more):
    features = torch.randn(16, sum(mels), generator=torch.Generator().manual_seed(1))
    with patched(tower, quick):
        return tower(features, feature_lens=torch.tensor(mels), output_hidden_states=True, **more)


def far(found, wanted) -> float:
    """The largest difference, as a part of the largest value; features of deepstack included."""
    both = []
    for out in (found, wanted):
        deep = getattr(out, "deepstack_features", None) or []
        both.append([out.last_hidden_state, out.pooler_output, *(out.hidden_states or ()), *deep])
    pairs = [(a, b) for a, b in zip(*both, strict=True) if b is not None]
    assert len(pairs) >= 3
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of q in every call of sdpa, by their number."""
    seen: Counter = Counter()
    registry = omni.ALL_ATTENTION_FUNCTIONS
    attend = registry["sdpa"]

    def counted(module, query, *args, **kwargs):
        seen[tuple(query.shape)] += 1
        return attend(module, query, *args, **kwargs)

    monkeypatch.setitem(registry._global_mapping, "sdpa", counted)
    return seen


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("kind", ["omni", "vl"])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_vision_is_the_same(kind, grids, attention):
    tower = vision(kind, attention)
    assert far(see(tower, grids, True), see(tower, grids, False)) <= 1e-5
    assert "forward" not in tower.__dict__


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("mels", SOUNDS.values(), ids=SOUNDS)
def test_audio_is_the_same(mels, attention):
    tower = audio(attention)
    assert far(hear(tower, mels, True), hear(tower, mels, False)) <= 1e-5


def test_the_bound_tells_segments_apart():
    grids = GRIDS["frames"]
    joined = qwen3_towers.vision_indices(vision("vl"), None, torch.tensor(grids))
    joined["cu_seqlens"] = joined["cu_seqlens"][[0, -1]]
    assert far(see(vision("vl"), grids, True, **joined), see(vision("vl"), grids, False)) > 1e-3
    wanted = hear(audio(), [1600], False)
    heard = torch.randn(16, 1600, generator=torch.Generator().manual_seed(1))
    made = qwen3_towers.audio_indices(omni, audio(), heard, torch.tensor([1600]))
    made["cu_seqlens"] = made["cu_seqlens"][[0, -1]]
    assert far(hear(audio(), [1600], True, **made), wanted) > 1e-3


def test_a_call_for_each_length(calls):
    """4 frames of 24 patches; 1,600 frames of sound are 208 rows in stretches of 52, 933 are 122 with a tail of 18."""
    see(vision("omni"), GRIDS["frames"], False)
    assert calls == {(1, 2, 24, 16): 4 * DEPTH}
    calls.clear()
    see(vision("omni"), GRIDS["frames"], True)
    assert calls == {(4, 2, 24, 16): DEPTH}
    calls.clear()
    hear(audio(), [1600, 933], True)
    assert calls == {(6, 2, 52, 16): DEPTH, (1, 2, 18, 16): DEPTH}


def test_left_as_it_is_with_attention_that_takes_no_batch(monkeypatch):
    for tower in (vision("omni"), vision("vl"), audio()):
        seen = []
        monkeypatch.setitem(tower.__dict__, "forward", lambda *args, seen=seen, **kwargs: seen.append((args, kwargs)))
        monkeypatch.setattr(tower.config, "_attn_implementation", "flash_attention_2")
        with patched(tower, True):
            tower(1, grid_thw=2)
        assert seen == [((1,), {"grid_thw": 2})]
        monkeypatch.undo()


def test_the_families_read_media_in_batches(tmp_path, calls):
    from tiny_families import qwen3_omni, qwen3_vl

    import avflow
    from avflow.walk.capture import capture

    for name, made, towers in (("omni", qwen3_omni, 2), ("vl", qwen3_vl, 1), ("moe", qwen3_vl, 1)):
        model = avflow.load(str(made.build(tmp_path / name, *[True] * (name == "moe"))))
        assert len(model.family.patches(model)) == towers
        (tmp_path / f"media {name}").mkdir()
        prompt = model.prepare(made.samples(tmp_path / f"media {name}")[0])
        calls.clear()
        found = capture(model, prompt)
        assert max(shape[0] for shape in calls) > 1  # frames of the clip
        few = calls.total()
        calls.clear()
        model.family.patches = lambda model: []
        wanted = capture(model, prompt)
        assert few < calls.total()
        assert (found.hidden - wanted.hidden).abs().max() <= 1e-5 * wanted.hidden.abs().max()
