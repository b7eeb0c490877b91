"""What avflow.wrap takes: models of PEFT, models that change after wrap, two wraps of one; what it refuses at once."""

import importlib.metadata

import pytest
import tiny
import torch

import avflow
from avflow import versions

PROMPT = tiny.text_prompt(64)
KNOCKOUT = "video->last"


def logp(model, prompt=PROMPT):
    return avflow.sweep(model, prompt, KNOCKOUT, layers=[1], select="all").table["logp_knockout"].to_pylist()


def continued(model, block):
    with block:
        return model.hf.generate(PROMPT.input_ids[None], max_new_tokens=4, do_sample=False)[0, -4:].tolist()


def blocks(model, prompt=PROMPT):
    labels = dict(groups=prompt.groups, items=prompt.items)
    return avflow.knockout(model, KNOCKOUT, **labels), avflow.evict(model, {"video": 1}, **labels)


# --- PEFT -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def lora(peft, **more):
    torch.manual_seed(3)
    options = dict(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False) | more
    return peft.get_peft_model(tiny.decoder("qwen3"), peft.LoraConfig(**options)).eval()


def test_a_peft_model_is_the_model_with_its_adapters(peft):
    """knockout, evict and sweep give what the model gives with the adapters merged into its weights."""
    model = avflow.wrap(lora(peft))
    merged = avflow.wrap(lora(peft).merge_and_unload())
    without = avflow.wrap(tiny.decoder("qwen3"))
    for ours, theirs, plain in zip(blocks(model), blocks(merged), blocks(without), strict=True):
        found = continued(model, ours)
        assert found == continued(merged, theirs)
        assert found != continued(without, plain)
    assert logp(model) == pytest.approx(logp(merged), abs=1e-4)
    assert abs(logp(model)[0] - logp(without)[0]) > 1e-2


def test_adapters_of_the_output_matrix_and_after_wrap(peft):
    """Modules that PEFT puts in place of others are found where they are now."""
    hf = tiny.decoder("qwen3")
    model = avflow.wrap(hf)
    before = logp(model)
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    wrapped = peft.get_peft_model(hf, config).eval()
    after = logp(model)
    assert after == pytest.approx(logp(avflow.wrap(wrapped.merge_and_unload())), abs=1e-4)
    assert abs(after[0] - before[0]) > 1e-2


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_the_peft_model_itself_within_a_block(task, peft):
    """Its generate and its forward are the model's own. What goes past the model's __call__ is an error."""
    outer = lora(peft, task_type=task)
    model = avflow.wrap(outer)
    ids = PROMPT.input_ids[None]
    for of_inner, of_outer in zip(blocks(model), blocks(model), strict=True):
        wanted = continued(model, of_inner)
        with of_outer:
            got = outer.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
            assert torch.equal(outer(input_ids=ids).logits, model.hf(input_ids=ids).logits)
            with pytest.raises(avflow.InputError, match="call model.hf .*, not .* `forward` past __call__"):
                model.hf.forward(input_ids=ids)
        assert got[0, -4:].tolist() == wanted


def test_adapters_that_stand_before_the_prompt_are_refused(peft):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    hf = peft.get_peft_model(tiny.decoder("qwen3"), config)
    with pytest.raises(avflow.UnsupportedModelError, match="adapter 'default' is a PromptTuningConfig: .*LoRA"):
        avflow.wrap(hf)


# --- changed after wrap, wrapped twice --------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_more_tokens_after_wrap(tied):
    """The output matrix is the model's present one: new tokens have a probability, old ones what they had."""
    hf = tiny.decoder("qwen3")
    if tied:
        hf.config.tie_word_embeddings = True
        hf.tie_weights()
    model = avflow.wrap(hf)
    hf.resize_token_embeddings(tiny.VOCAB + 8, mean_resizing=False)
    assert model.lm_head is hf.lm_head and model.vocab == tiny.VOCAB + 8
    with torch.no_grad():
        hf.get_output_embeddings().weight[tiny.VOCAB + 3] *= 20
    assert logp(model) == logp(avflow.wrap(hf))
    prompt = tiny.text_prompt(64, answer_ids=(tiny.VOCAB + 3,))
    with torch.no_grad():
        plain = hf(prompt.input_ids[None]).logits[0, -1].log_softmax(-1)[tiny.VOCAB + 3]
    clean = avflow.sweep(model, prompt, KNOCKOUT, layers=[1], select="all").table["logp_clean"][0].as_py()
    assert clean == pytest.approx(float(plain), abs=1e-4)


def test_two_wraps_of_one_model():
    """In turns: each right. One block within the other's: an error, and the model is left as it was."""
    hf = tiny.decoder("qwen3")
    one, two = avflow.wrap(hf), avflow.wrap(hf)
    assert logp(one) == logp(two)
    first = continued(one, blocks(one)[0])
    assert continued(two, blocks(two)[0]) == first
    for outer in blocks(one):
        with outer:
            for inner in blocks(two):
                with pytest.raises(avflow.InputError, match="wrapped twice, .*put all blocks on one avflow.Model"):
                    continued(two, inner)
    assert continued(two, blocks(two)[0]) == first
    with blocks(one)[0], blocks(one)[1]:  # of one Model they nest
        for model in (one, two):
            with pytest.raises(
                avflow.InputError, match="within a block of .*: leave the block before a sweep or another experiment"
            ):
                logp(model)


# --- refused at once --------------------------------------------------------------------------------------------------


def test_offloaded_layers_are_refused():
    accelerate = pytest.importorskip("accelerate")
    hf = tiny.decoder("qwen3")
    accelerate.cpu_offload(hf.model.layers[3], torch.device("cpu"))
    with pytest.raises(
        avflow.InputError, match=r"on cpu, meta: .*layers\.3\..* on meta; weights on meta are offloaded"
    ):
        avflow.wrap(hf)
    whole = tiny.thinker()
    accelerate.cpu_offload(whole, torch.device("cpu"))
    with pytest.raises(avflow.InputError, match="the model is on meta: avflow needs all of it on one device"):
        avflow.wrap(whole)


def test_loaded_with_layers_on_disk(tmp_path):
    pytest.importorskip("accelerate")
    tiny.thinker().save_pretrained(tmp_path / "ck")
    parts = dict.fromkeys(["model.visual", "model.audio_tower", "lm_head", "model.language_model"], "cpu")
    parts |= {f"model.language_model.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb", "layers")}
    del parts["model.language_model"]
    parts |= {"model.language_model.layers": "disk"}
    with pytest.raises(avflow.InputError, match=r"device_map = .* puts the model on cpu, meta: avflow needs all of it"):
        avflow.load(tmp_path / "ck", device_map=parts, offload_folder=str(tmp_path / "offloaded"))


@pytest.mark.parametrize("width", [7, 12, 264])
def test_heads_that_the_op_does_not_have(width):
    with pytest.raises(avflow.UnsupportedModelError, match=f"heads of {width} .*multiples of 8 up to 256"):
        avflow.wrap(tiny.decoder("llama", head_dim=width) if width % 2 == 0 else odd_heads(width))


def odd_heads(width):
    hf = tiny.decoder("qwen3")
    hf.config.head_dim = width
    return hf


@pytest.mark.parametrize("version", ["4.57.6", "5.16.2"])
def test_a_transformers_that_is_too_old(version, monkeypatch):
    from avflow.cli import doctor

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "transformers" else real(name))
    said = f"transformers {version} is too old, avflow needs 5.17 or later: pip install 'transformers>=5.17,<6'"
    for call in (lambda: avflow.load("tiny-omni"), lambda: avflow.wrap(tiny.decoder("qwen3"))):
        with pytest.raises(avflow.UnsupportedModelError) as error:
            call()
        assert str(error.value) == said
    assert said in doctor.examine()["problems"]


@pytest.mark.parametrize("version", ["5.17.0", "5.24.0.dev0", "6.1"])
def test_a_transformers_that_will_do(version, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert versions.transformers_problem() is None
