"""The decoders of the installed transformers, tiny, in every entry point: exact, or refused before a number comes out.

Exact: what each entry point says of the clean run is what the model's own forward says, within the bound that each of
them proves itself by, and a knockout is the same in a walk and in the model's own forward. Encoders, state-space and
encoder-decoder models are out of reach, each with its refusal. A family of the installed version that is not named here
is served as any other: the walk proves itself.
"""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import avflow
from avflow.errors import AvflowError
from avflow.models import Family, Model
from avflow.models.proof import figures

SMALL = dict(
    vocab_size=tiny.VOCAB,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
    num_experts=4,
    num_local_experts=4,
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
)

EXACT = """
apertus apertus1p5_text arcee aria_text bitnet cohere doge ernie4_5 ernie4_5_moe exaone flex_olmo gemma glm glm4
glm4_moe granite granitemoe granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3
iquestcoder jais2 laguna llama mellum minimax_m2 ministral3 mistral mixtral nanochat olmo olmo2 olmoe phi3 phimoe
qwen2 qwen2_moe qwen3 qwen3_moe sarvam_moe seed_oss smollm3 solar_open starcoder2
""".split()

# Windows that are shorter than the prompt, in all layers or in one of the two.
SLIDING = dict(sliding_window=16)
MIXED = SLIDING | dict(layer_types=["sliding_attention", "full_attention"])
LAST = SLIDING | dict(layer_types=["full_attention", "sliding_attention"])
WINDOWED = dict.fromkeys("gemma3_text ministral mistral mixtral phi3 starcoder2".split(), SLIDING) | {
    **dict.fromkeys("afmoe cohere2 cohere2_moe cwm exaone4 exaone_moe".split(), MIXED),
    **dict.fromkeys("qwen2 qwen2_moe".split(), SLIDING | dict(use_sliding_window=True, max_window_layers=1)),
    "olmo3": LAST,
}

NO_DECODER = "has no decoder with layers, rotary_emb, embed_tokens and norm"
NOT_FULL = r"decoder layer \d+ uses (chunked|linear|indexed|heavily_compressed)_attention"
REFUSED = {
    NOT_FULL: "deepseek_v4 llama4_text minimax",
    NO_DECODER: "bert big_bird biogpt bloom falcon_mamba fuyu gpt2 gpt_bigcode gpt_neox lfm2 mamba modernbert-decoder "
    "mpt opt persimmon phi roberta rwkv xglm",
    "asked for attention 2 times": "diffllama",
    "has multi-head latent attention": "deepseek_v2 deepseek_v3 glm4_moe_lite minicpm3 youtu",
    "asks for s_aux": "flint gpt_oss granite_swa",
    "runs layers 2 times in a forward": "dory",
    "asks for softcap": "gemma2 vaultgemma",
    "numbers a head: the attention op has one size": "mimo_v2_flash",
    "has no self_attn": "jetmoe olmo_hybrid",
    "do not pass keyword arguments on": "nemotron stablelm",
}
# Their own forward adds what a walk does not carry: knockouts within it are exact, walks are refused.
WITHIN_ITSELF_ALONE = {
    "gemma3_text": (MIXED, "tables of positions that differ by layer"),
}
# Layers are given more than positions: rows may not leave between them either.
BY_KNOCKOUT_ALONE = {"beam": "is given attention_scaling"}


def made(kind: str, **more):
    """A tiny model of the kind with random weights; skips where this version of transformers has none."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL | more)).eval().float()
    with torch.no_grad():
        for p in hf.parameters():
            if p.dim() == 2:
                p.mul_(3.0)  # with the first weights attention is uniform, and wrong kernels pass
    return hf


def entries(model: Model, prompt: avflow.Prompt) -> dict:
    """Every entry point on a prompt, by name."""
    ids = prompt.input_ids[None]

    def within(block):
        with torch.no_grad(), block:
            return model.hf(input_ids=ids).logits[0, -1].float().log_softmax(-1)

    def knockout(names=("video->question",), layers=(0,)):
        return within(avflow.knockout(model, list(names), layers=layers, groups=prompt.groups, items=prompt.items))

    later = [f"video->{group}" for group in dict.fromkeys(prompt.groups) if group != "video"]
    return {
        "sweep": lambda: avflow.sweep(model, prompt, "video->question", window=1, layers=[0], select="all"),
        "sweep_text": lambda: avflow.sweep_text(
            model, prompt, "video->question", window=1, layers=[0], max_new_tokens=2
        ),
        "attention_share": lambda: avflow.attention_share(model, prompt, layers=[1]),
        "attention_map": lambda: avflow.attention_map(model, prompt, layers=[1], bins=4),
        "answer_lens": lambda: avflow.answer_lens(model, prompt, layers=[1]),
        "sinks": lambda: avflow.sinks(model, prompt, layers=[1], times=1.01),
        "pathways": lambda: avflow.pathways(model, prompt, {"question->last": None}, random=0),
        "plan_eviction": lambda: avflow.plan_eviction(model, prompt, ["video"], layers=[0], max_accuracy_drop=0.9),
        "knockout": knockout,
        "knockout to all": lambda: knockout(later, (1,)),
        "evict": lambda: within(avflow.evict(model, {"video": 0}, groups=prompt.groups, items=prompt.items)),
    }


@pytest.mark.parametrize("kind, more", [*((kind, {}) for kind in EXACT), *WINDOWED.items()])
def test_exact(kind, more):
    model = Model(made(kind, **more), Family())
    bare = tiny.text_prompt(64)
    ids = bare.input_ids[None]
    with torch.no_grad():
        own = model.hf(ids).logits[0, -1].float().log_softmax(-1)
        first = int(own.argmax())
        second = int(model.hf(torch.cat([ids, torch.tensor([[first]])], 1)).logits[0, -1].argmax())
    prompt = tiny.text_prompt(64, answer_ids=(first,))  # answered rightly, as a plan wants it
    found = {name: run() for name, run in entries(model, prompt).items()}
    near = dict(abs=2e-4)
    row = found["sweep"].table.to_pylist()[0]
    assert row["logp_clean"] == pytest.approx(own[first].item(), **near)
    assert row["logp_knockout"] == pytest.approx(found["knockout"][first].item(), **near)
    assert found["sweep_text"].table["text_clean"][0].as_py() == f"{first} {second}"
    assert found["answer_lens"].table["logp"][0].as_py() == pytest.approx(own[first].item(), **near)
    assert found["pathways"].table["p"][0].as_py() == pytest.approx(math.exp(own[first].item()), **near)
    assert sum(found["attention_share"].table["share"].to_pylist()) == pytest.approx(1, abs=1e-5)
    assert found["attention_map"].weight.sum(-1) == pytest.approx(1, abs=1e-5)
    assert found["plan_eviction"].figures["accuracy_clean"] == 1.0 if found["plan_eviction"].steps else True
    torch.testing.assert_close(found["evict"], found["knockout to all"], atol=2e-4, rtol=0)
    check = figures(model)  # of the walk, of its text, of what observes, and of the two blocks
    assert check["kinds"] == len(model.proofs) == 5 and check["difference"] <= check["bound"]


@pytest.mark.parametrize(
    "kind, message", [(kind, message) for message, kinds in REFUSED.items() for kind in kinds.split()]
)
def test_refused(kind, message):
    hf = made(kind)
    if message == NO_DECODER:
        with pytest.raises(AvflowError, match=message):
            Model(hf, Family())
        return
    for run in entries(Model(hf, Family()), tiny.text_prompt(64)).values():
        with pytest.raises(AvflowError, match=message):
            run()


@pytest.mark.parametrize("kind, more, message", [(kind, *case) for kind, case in WITHIN_ITSELF_ALONE.items()])
def test_walks_are_refused_and_blocks_are_exact(kind, more, message):
    model, prompt = Model(made(kind, **more), Family()), tiny.text_prompt(64)
    found = entries(model, prompt)
    torch.testing.assert_close(found.pop("evict")(), found.pop("knockout to all")(), atol=2e-4, rtol=0)
    found.pop("knockout")()
    for run in found.values():
        with pytest.raises(AvflowError, match=message):
            run()


class Typed(torch.nn.Module):
    """An MLP that a layer gives the kinds of tokens too, as Ernie 4.5 VL does."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def __call__(self, x):
        return super().__call__(x, torch.ones(x.shape[:2], dtype=torch.long))

    def forward(self, x, moe_mm_token_type_ids):
        return self.mlp(x) * moe_mm_token_type_ids[..., None]


def test_walks_are_refused_where_an_mlp_is_given_more_than_hidden_states():
    model, prompt = Model(made("qwen3"), Family()), tiny.text_prompt(64)
    for layer in model.layers:
        layer.mlp = Typed(layer.mlp).eval()
    found = entries(model, prompt)
    torch.testing.assert_close(found.pop("evict")(), found.pop("knockout to all")(), atol=2e-4, rtol=0)
    found.pop("knockout")()
    for run in found.values():
        with pytest.raises(AvflowError, match="gives its Typed moe_mm_token_type_ids beside hidden states"):
            run()


class TypedByName(Typed):
    """One that may do without them."""

    def forward(self, x, moe_mm_token_type_ids=None):
        return super().forward(x, moe_mm_token_type_ids)


@pytest.mark.parametrize("mlp", [Typed, TypedByName])
def test_they_are_refused_before_anything_runs(monkeypatch, mlp):
    model, prompt = Model(made("qwen3"), Family()), tiny.text_prompt(64)
    of_layer = type(model.layers[0])
    known = of_layer.forward

    def forward(self, x, moe_mm_token_type_ids=None, **named):
        return known(self, x, **named)

    monkeypatch.setattr(of_layer, "forward", forward)
    for layer in model.layers:
        layer.mlp = mlp(layer.mlp).eval()
    # The media's encoders too are run by the model's own forward.
    monkeypatch.setattr(model.hf, "forward", lambda **named: pytest.fail("the model was run"))
    with pytest.raises(AvflowError, match=f"gives its {mlp.__name__} moe_mm_token_type_ids beside hidden states"):
        avflow.sweep(model, prompt)


@pytest.mark.parametrize("kind, message", BY_KNOCKOUT_ALONE.items())
def test_all_but_knockouts_is_refused(kind, message):
    found = entries(Model(made(kind), Family()), tiny.text_prompt(64))
    own, cut = found.pop("knockout")(), found.pop("knockout to all")()
    assert not torch.allclose(own, cut, atol=1e-3)
    with pytest.raises(AvflowError, match=message):
        found.pop("evict")()
    for run in found.values():
        with pytest.raises(AvflowError, match="tables of positions that differ by layer"):
            run()


def test_at_least_sixty_decoders_are_tried_in_every_entry_point():
    names = "sweep sweep_text attention_share attention_map answer_lens sinks pathways plan_eviction knockout evict"
    model = Model(tiny.decoder("qwen3"), Family())
    assert set(names.split()) <= set(entries(model, tiny.text_prompt(64)))
    assert len({*EXACT, *WINDOWED}) + sum(len(kinds.split()) for kinds in REFUSED.values()) >= 60
