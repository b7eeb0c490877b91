"""What a decoder asks of attention and is given beside it: plain causal attention is served, the rest is refused."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, masking_utils

import avflow
from avflow.errors import InputError, UnsupportedModelError
from avflow.models import Family, Model
from avflow.models.causal import check_causal
from avflow.models.decoder_inputs import check_decoder_arguments

SMALL = dict(
    vocab_size=tiny.VOCAB,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
CUT = "video->question"


def everything(model: avflow.Model, prompt: avflow.Prompt) -> dict:
    """Every entry point that reads the prompt with avflow's attention, by name."""

    def knockout():
        with avflow.knockout(model, CUT, groups=prompt.groups, items=prompt.items):
            model.hf(input_ids=prompt.input_ids[None])

    def evict():
        with avflow.evict(model, {"video": 0}, groups=prompt.groups, items=prompt.items):
            model.hf(input_ids=prompt.input_ids[None])

    return {
        "sweep": lambda: avflow.sweep(model, prompt, CUT, window=1, select="all"),
        "sweep_text": lambda: avflow.sweep_text(model, prompt, CUT, window=1, max_new_tokens=2),
        "attention_share": lambda: avflow.attention_share(model, prompt),
        "attention_map": lambda: avflow.attention_map(model, prompt),
        "answer_lens": lambda: avflow.answer_lens(model, prompt),
        "sinks": lambda: avflow.sinks(model, prompt),
        "pathways": lambda: avflow.pathways(model, prompt, {"video->question": None, "question->last": None}),
        "plan_eviction": lambda: avflow.plan_eviction(model, [prompt], ["video"], layers=[0]),
        "knockout": knockout,
        "evict": evict,
    }


ENTRIES = tuple(everything(None, None))  # their names; nothing runs


def mistral(window: int | None, seed: int = 0):
    torch.manual_seed(seed)
    hf = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window)).eval()
    tiny._sharpen(hf, hf.model.layers)
    return hf


@pytest.fixture(scope="module")
def narrow():
    """A window of 8 that stands in the config alone, while its layers say another."""
    hf = mistral(8)
    hf.model.layers[1].self_attn.sliding_window = 12
    return avflow.wrap(hf)


@pytest.fixture(scope="module")
def chunked():
    """Chunks that stand in the list of layer types."""
    torch.manual_seed(0)
    config = Qwen2Config(**SMALL, layer_types=["full_attention"] * 2)
    config.layer_types = ["full_attention", "chunked_attention"]
    return avflow.wrap(Qwen2ForCausalLM(config).eval())


@pytest.mark.parametrize("entry", sorted(set(ENTRIES) - {"knockout", "evict"}))
def test_a_window_that_the_masks_do_not_have_is_refused_in_walks(narrow, entry):
    with pytest.raises(UnsupportedModelError, match="the model's own forward differ by"):
        everything(narrow, tiny.text_prompt(64))[entry]()


@pytest.mark.parametrize("entry", ENTRIES)
def test_other_layer_types_are_refused_everywhere(chunked, entry):
    with pytest.raises(UnsupportedModelError, match=r"layer 1 uses chunked_attention \(window None\): avflow carries"):
        everything(chunked, tiny.text_prompt(64))[entry]()


def test_a_window_that_holds_the_prompt_changes_nothing():
    prompt = tiny.text_prompt(64)
    rows = []
    for window in (len(prompt), None):
        model = avflow.wrap(mistral(window))
        rows.append(avflow.sweep(model, prompt, CUT, window=1, select="all").table.to_pylist())
        everything(model, prompt)["knockout"]()
        everything(model, prompt)["evict"]()
    assert rows[0] == rows[1]


def test_generation_past_a_window():
    """Exact, too (test_sliding_windows.py); but for a static cache, which would write over what left the window."""
    prompt = tiny.text_prompt(64)
    model = avflow.wrap(mistral(len(prompt) + 3))
    fits = avflow.sweep_text(model, prompt, CUT, window=1, max_new_tokens=4).table.to_pylist()
    whole = avflow.sweep_text(avflow.wrap(mistral(None)), prompt, CUT, window=1, max_new_tokens=4).table.to_pylist()
    assert fits == whole
    ids = prompt.input_ids[None]
    options = dict(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False)
    own = model.hf.generate(**options, max_new_tokens=16)[0, len(prompt) :].tolist()
    text = avflow.sweep_text(model, prompt, CUT, window=1, layers=[0], max_new_tokens=16).table["text_clean"][0].as_py()
    assert text == " ".join(map(str, own))
    with avflow.knockout(model, "audio->system", groups=prompt.groups, items=prompt.items):  # cuts nothing
        assert model.hf.generate(**options, max_new_tokens=16)[0, len(prompt) :].tolist() == own
    with avflow.knockout(model, CUT, groups=prompt.groups, items=prompt.items):
        model.hf.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        with pytest.raises(UnsupportedModelError, match="static cache has a sliding window"):
            model.hf.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                cache_implementation="static",
                disable_compile=True,
            )


@pytest.fixture(scope="module")
def paligemma():
    """Pictures and the question before the answer see both ways."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    torch.manual_seed(0)
    text = dict(
        model_type="gemma",
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
    )
    vision = dict(
        model_type="siglip_vision_model",
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=28,
        patch_size=7,
        vision_use_head=False,
        projection_dim=64,
    )
    config = PaliGemmaConfig(
        image_token_index=60, hidden_size=64, projection_dim=64, vocab_size=64, text_config=text, vision_config=vision
    )
    return Model(PaliGemmaForConditionalGeneration(config).eval(), Family())


def test_pictures_that_see_both_ways_are_refused(paligemma):
    ids = torch.tensor([60] * 16 + [1, 2, 3, 4, 5, 6])
    groups = ["image"] * 16 + ["question_text"] * 5 + ["last"]
    inputs = dict(
        input_ids=ids[None],
        attention_mask=torch.ones(1, 22, dtype=torch.long),
        token_type_ids=torch.zeros(1, 22, dtype=torch.long),
        pixel_values=torch.randn(1, 3, 28, 28),
    )
    prompt = avflow.Prompt(input_ids=ids, model_inputs=inputs, groups=groups, answer_ids=[9])
    refused = pytest.raises(UnsupportedModelError, match="not plain causal over 22 tokens")
    with avflow.knockout(paligemma, "audio->last", groups=groups), refused:
        paligemma.hf(**inputs)
    with avflow.evict(paligemma, {"image": 0}, groups=groups), refused:
        paligemma.hf(**inputs)
    with refused:
        avflow.sweep(paligemma, prompt, "image->question", window=1, select="all")
    with refused:
        avflow.attention_share(paligemma, prompt)


def test_packed_sequences_are_refused_within_a_knockout(qwen3):
    prompt = tiny.text_prompt(64)
    anew = torch.cat([torch.arange(20), torch.arange(20)])[None]
    with avflow.knockout(qwen3, CUT, groups=prompt.groups, items=prompt.items):
        with pytest.raises(UnsupportedModelError, match="position_ids that begin anew"):
            qwen3.hf(input_ids=prompt.input_ids[None], position_ids=anew, use_cache=False)
        qwen3.hf(input_ids=prompt.input_ids[None], position_ids=anew)  # with a cache transformers packs none


@pytest.mark.parametrize(
    "mask, plain",
    [
        (masking_utils.causal_mask_function, True),
        (masking_utils.sliding_window_causal_mask_function(12), True),
        (masking_utils.sliding_window_causal_mask_function(11), False),
        (masking_utils.chunked_causal_mask_function(12, torch.zeros(1, dtype=torch.long)), True),
        (masking_utils.chunked_causal_mask_function(11, torch.zeros(1, dtype=torch.long)), False),
        (masking_utils.bidirectional_mask_function, False),
        (lambda b, h, q, k: k <= q, True),
        (lambda b, h, q, k: k < q, False),
        (lambda b, h, q, k: k.item() <= q.item(), False),  # nothing to compare
    ],
)
def test_masks_are_judged_by_their_edges(mask, plain):
    if plain:
        check_causal(mask, 12, 12)
    else:
        with pytest.raises(UnsupportedModelError, match="full causal attention only"):
            check_causal(mask, 12, 12)


def test_a_step_is_judged_by_the_keys_it_sees():
    window = masking_utils.sliding_window_causal_mask_function(12)
    check_causal(window, 1, 12, first_query=11)
    with pytest.raises(UnsupportedModelError, match="12 tokens, and is to read 13"):
        check_causal(window, 1, 12, first_query=12, first_key=1)


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 40, 40), torch.tensor([[0] * 4 + [1] * 36])])
def test_masks_of_a_prompt_are_refused(qwen3, mask):
    prompt = tiny.text_prompt(64)
    inputs = dict(input_ids=prompt.input_ids[None], attention_mask=mask)
    masked = avflow.Prompt(input_ids=prompt.input_ids, model_inputs=inputs, groups=prompt.groups, answer_ids=[7])
    with pytest.raises(InputError, match="attention_mask"):
        avflow.sweep(qwen3, masked, CUT, window=1, select="all")


def test_what_a_decoder_is_given_is_named():
    decoder = torch.nn.Identity()
    decoder.forward = lambda hidden, per_layer_inputs=None, **kwargs: hidden
    with pytest.raises(UnsupportedModelError, match=r"per_layer_inputs \(Tensor of shape \(1, 2\)\)"):
        check_decoder_arguments(decoder, (), {"per_layer_inputs": torch.zeros(1, 2)})
    with pytest.raises(UnsupportedModelError, match="shared_kv_states"):
        check_decoder_arguments(decoder, (), {"shared_kv_states": {}})
    check_decoder_arguments(decoder, (), {"use_cache": False, "scale": 1.0, "labels": None})


def test_a_prompt_that_is_refused_leaves_the_comparison_to_the_next():
    """The mask is told once, by the forward itself, and the next prompt of the kind is compared."""
    model, prompt = avflow.wrap(mistral(None)), tiny.text_prompt(64)
    anew = torch.cat([torch.arange(20), torch.arange(20)])[None]
    for positions in (anew, torch.arange(40)[None]):
        with avflow.knockout(model, CUT, groups=prompt.groups, items=prompt.items):
            if positions is anew:
                with pytest.raises(UnsupportedModelError, match="position_ids that begin anew"):
                    model.hf(input_ids=prompt.input_ids[None], position_ids=positions, use_cache=False)
                assert not model.proofs
            else:
                model.hf(input_ids=prompt.input_ids[None], position_ids=positions, use_cache=False)
    assert len(model.proofs) == 1 and all(proof.holds for proof in model.proofs.values())
