"""Decoders with sliding windows shorter than the prompt: every way to run them equals the dense masks of their own."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

import avflow
from avflow.errors import InputError
from avflow.models.compat import cache_argument, cache_of
from avflow.models.windows import layer_windows

SMALL = dict(
    vocab_size=tiny.VOCAB,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
KINDS = ("uniform", "last layers")
CUT = "video->question"


def made(kind: str, window: int = 9):
    torch.manual_seed(0)
    if kind == "uniform":  # as Mistral 7B v0.1: the window stands in the config alone
        hf = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window)).eval()
    else:
        config = Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=window, max_window_layers=2)
        hf = Qwen2ForCausalLM(config).eval()
    tiny._sharpen(hf, hf.model.layers)
    return hf


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return avflow.wrap(made(request.param))


def test_windows_are_those_of_the_config():
    assert layer_windows(made("uniform").model) == (9,) * 4
    assert layer_windows(made("last layers").model) == (None, None, 9, 9)
    assert layer_windows(tiny.decoder("qwen2").model) == layer_windows(tiny.decoder("mistral").model) == (None,) * 4


@pytest.mark.parametrize("semantics", ["renormalize", "zero"])
def test_sweeps(model, semantics):
    """Prompts longer and shorter than the window, and one that is as long, in one walk."""
    prompts = [tiny.text_prompt(64, answer_ids=(7, 3, 5)), tiny.text_prompt(64, tokens=20, seed=2, id="1")]
    names = [
        "video->question",
        "video->last",
        "audio<->video",
        "video->video (other items)",
        "question->last (heads 0-1)",
    ]
    cuts = [avflow.Knockout.parse(name) for name in names]
    rows = avflow.sweep(model, prompts, cuts, window=2, select="all", semantics=semantics).table.to_pylist()
    largest = 0.0
    for prompt in prompts:
        mine = [row for row in rows if row["prompt"] == prompt.id]
        largest = max(largest, oracle.check_rows(model.hf, prompt, cuts, mine, 2, semantics=semantics))
    assert largest > 1e-3


def greedy(model, prompt, count: int = 12, **more) -> list[int]:
    ids = prompt.input_ids[None]
    made = model.hf.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, **more
    )
    return made[0, len(prompt) :].tolist()


def without(model, prompt, group: str, layers: list[int], count: int) -> dict[int, torch.Tensor]:
    """For the oracle: no key of the group in these layers."""
    n = len(prompt) + count
    gone = torch.tensor([g == group for g in prompt.groups] + [False] * count)
    cut = (gone[None, :] & ~torch.eye(n, dtype=torch.bool))[None, None].expand(1, model.n_heads, n, n)
    return dict.fromkeys(layers, cut)


@pytest.mark.parametrize("decode", ["keep", "drop"])
def test_evict_and_generate(model, decode):
    """What left counts for the window's distance no less: orders are those of the whole sequence."""
    prompt, count = tiny.text_prompt(64), 12
    # "keep": generated tokens still see what left, by its keys in the layers that had it.
    after = without(model, prompt, "video", [2, 3], count)
    everywhere = without(model, prompt, "video", [0, 1, 2, 3], count)
    for layer in (0, 1):
        first = everywhere[layer].clone()
        first[..., : len(prompt), :] = False  # the prompt itself saw them there
        after = after | ({layer: first} if decode == "drop" else {})
    with oracle.dense(model.hf, after):
        expected = greedy(model, prompt, count, **{cache_argument(): DynamicCache()})
    with avflow.evict(model, {"video": 1}, groups=prompt.groups, items=prompt.items, decode=decode):
        assert greedy(model, prompt, count) == expected


def test_knockout_and_generate(model):
    prompt, count = tiny.text_prompt(64), 12
    cut = oracle.cut_edges(
        avflow.Knockout.parse(CUT), [*prompt.groups, *["answer"] * count], [*prompt.items, *[-1] * count], 4
    )
    with oracle.dense(model.hf, dict.fromkeys(range(4), cut[None])):
        expected = greedy(model, prompt, count, **{cache_argument(): DynamicCache()})
    assert expected != greedy(model, prompt, count)
    with avflow.knockout(model, CUT, groups=prompt.groups, items=prompt.items):
        assert greedy(model, prompt, count) == expected
    table = avflow.sweep_text(model, prompt, CUT, window=4, layers=[2], max_new_tokens=count).table.to_pylist()
    assert table[0]["text_knockout"].split() == [str(i) for i in expected]
    assert table[0]["text_clean"].split() == [str(i) for i in greedy(model, prompt, count)]


def test_a_padded_batch(model):
    """The window counts places in the sequence; padding on the left moves all of them alike."""
    prompts = [tiny.text_prompt(64), tiny.text_prompt(64, tokens=28, seed=2)]
    with avflow.knockout(model, CUT, groups=prompts[0].groups, items=prompts[0].items):
        alone = [greedy(model, prompts[0])]
    with avflow.knockout(model, CUT, groups=prompts[1].groups, items=prompts[1].items):
        alone.append(greedy(model, prompts[1]))
    n = len(prompts[0])
    pad = n - len(prompts[1])
    ids = torch.stack([prompts[0].input_ids, torch.nn.functional.pad(prompts[1].input_ids, (pad, 0))])
    mask = torch.ones_like(ids)
    mask[1, :pad] = 0
    groups = [prompts[0].groups, ["system"] * pad + list(prompts[1].groups)]
    items = [prompts[0].items, [-1] * pad + list(prompts[1].items)]
    with avflow.knockout(model, CUT, groups=groups, items=items):
        out = model.hf.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    assert out[:, n:].tolist() == alone


def test_what_a_window_hides_draws_no_attention(model):
    prompt = tiny.text_prompt(64)
    assert "video" not in prompt.groups[-9:]
    found = avflow.attention_share(model, prompt).table.to_pylist()
    video = {row["layer"]: row["share"] for row in found if row["group"] == "video"}
    windows = layer_windows(model.text_model)
    assert all((video[layer] == 0) == (windows[layer] is not None) for layer in range(4))
    weight = avflow.attention_map(model, prompt, bins=len(prompt)).weight  # [layers, n, n]
    i, j = torch.arange(len(prompt))[:, None], torch.arange(len(prompt))[None, :]
    for layer, window in enumerate(windows):
        seen = (j <= i) if window is None else (j <= i) & (i - j < window)
        assert torch.equal(torch.from_numpy(weight[layer]) > 0, seen)
    drawn = avflow.sinks(model, prompt, times=1.001).table.to_pylist()
    far = [r["drawn"] for r in drawn if windows[r["layer"]] is not None and r["position"] < len(prompt) - 9]
    assert far and not any(far)


def test_a_cache_that_dropped_tokens_is_refused(model):
    """A forward without a cache makes one that keeps the window alone."""
    prompt = tiny.text_prompt(64)
    ids = prompt.input_ids[None]
    with avflow.knockout(model, CUT, groups=prompt.groups, items=prompt.items):
        made = model.hf(ids)
        cache = cache_of(made)
        with pytest.raises(InputError, match=r"keeps the last 8 of 40 tokens.*DynamicCache\(\)"):
            model.hf(ids[:, -1:], **{cache_argument(): cache})
        first = model.hf(ids, **{cache_argument(): (whole := DynamicCache())}).logits[0, -1].argmax()
        model.hf(first[None, None], **{cache_argument(): whole})
        assert whole.layers[-1].keys.shape[2] == len(prompt) + 1


def test_the_first_prompt_past_a_window_is_compared_anew():
    """A short prompt proves nothing of the window."""
    model = avflow.wrap(made("uniform", window=30))
    for tokens, kinds in ((24, 1), (20, 1), (40, 2), (44, 2)):
        avflow.sweep(model, tiny.text_prompt(64, tokens=tokens), CUT, window=1, select="all")
        assert len(model.proofs) == kinds and all(proof.holds for proof in model.proofs.values())
