"""The model equals the published implementation, on a tiny checkpoint of its own making."""

from __future__ import annotations

import pytest
import torch
from salmonn_golden import CASES, FOLDER, LAYOUTS, golden, inputs

from avflow.models.compat import find_text_model
from avflow.models.video_salmonn2_plus import load_model


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


@pytest.fixture(params=["eager", "sdpa"])
def each(model, request):
    """The model with either attention; position_layout is put back."""
    model.set_attn_implementation(request.param)
    yield model
    model.config.position_layout = "released"


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_embeddings(model, case):
    given = inputs(case)
    if "pixel_values_videos" in given:
        found = model.get_visual_features(given["pixel_values_videos"], given["video_grid_thw"])
        assert far(found, golden()[f"{case}.video_embeds"]) <= 2e-5
    if "audio_features" in given:
        assert far(model.get_audio_features(given["audio_features"]), golden()[f"{case}.audio_embeds"]) <= 2e-5


@pytest.mark.parametrize("letter", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_forward(each, case, letter):
    each.config.position_layout = LAYOUTS[letter]
    seen = {}
    layers = find_text_model(each).layers
    handle = layers[-1].register_forward_hook(lambda m, a, out: seen.update(last=out))
    attention = each.config.text_config._attn_implementation == "eager"
    try:
        out = each(**inputs(case), output_hidden_states=True, output_attentions=attention)
    finally:
        handle.remove()
    rows = golden()[f"{case}.logits_rows"]
    assert far(out.logits[0, rows], golden()[f"{case}.logits_{letter}"]) <= 2e-4
    hidden = [*out.hidden_states[:-1], seen["last"], out.hidden_states[-1]]  # transformers has the last one normed
    assert far(torch.stack([h[0, -1] for h in hidden]), golden()[f"{case}.hidden_last_{letter}"]) <= 5e-5
    if attention and letter == "B":
        last = torch.stack([a[0, :, -1] for a in out.attentions])  # [4, 4, L]
        assert far(last, golden()[f"{case}.attention_last_B"]) <= 1e-5
    one = each(**inputs(case), logits_to_keep=1).logits
    assert far(one, out.logits[:, -1:]) <= 1e-5


@pytest.mark.parametrize("letter", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_greedy(each, case, letter):
    each.config.position_layout = LAYOUTS[letter]
    given = inputs(case)
    length = given["input_ids"].shape[1]

    def tokens(**more):
        return each.generate(**given, max_new_tokens=16, do_sample=False, **more)

    plain = tokens(repetition_penalty=1.0, output_scores=True, return_dict_in_generate=True)
    assert torch.equal(plain.sequences[0, length:], golden()[f"{case}.greedy_{letter}"])
    if letter == "B":
        scores = torch.stack([plain.scores[step][0] for step in (0, 1, 7, 15)])
        assert far(scores, golden()[f"{case}.greedy_logits_B"]) <= 2e-4
        assert torch.equal(tokens()[0, length:], golden()[f"{case}.greedy_penalty_B"])  # the folder's penalty, 1.05
    assert torch.equal(tokens(repetition_penalty=1.0, use_cache=False)[0, length:], golden()[f"{case}.greedy_{letter}"])


@pytest.mark.parametrize("case", CASES)
def test_positions_matter(case):
    """The tolerances would not let the other layout pass."""
    assert far(golden()[f"{case}.logits_A"], golden()[f"{case}.logits_B"]) > 0.05
