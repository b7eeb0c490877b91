"""Configurations and checkpoint folders of video-SALMONN 2+: published, saved from here, broken."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import tiny_salmonn
import torch
from safetensors.torch import load_file, save_file
from salmonn_golden import FOLDER, golden, inputs

import avflow
from avflow.errors import InputError, UnsupportedModelError
from avflow.models.video_salmonn2_plus import (
    VideoSalmonn2PlusConfig,
    VideoSalmonn2PlusForConditionalGeneration,
    load_model,
    register,
)
from avflow.models.video_salmonn2_plus.checkpoint import own_name

PUBLISHED = json.loads((FOLDER / "config.json").read_text())
SIZES = {  # hidden, MLP, layers, heads, kv heads, vocabulary, tied, vision MLP
    "3B": (2048, 11008, 36, 16, 2, 151936, True, 3420),
    "7B": (3584, 18944, 28, 28, 4, 152064, False, 3420),
    "72B": (8192, 29568, 80, 64, 8, 152064, False, 3456),
}


def published_config(size: str) -> dict:
    """The flat config.json of a size."""
    hidden, mlp, layers, heads, kv_heads, vocab, tied, vision_mlp = SIZES[size]
    return {
        "model_type": "qwen2_5_vl",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "default", "mrope_section": [16, 24, 24], "rope_type": "default"},
        "tie_word_embeddings": tied,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "audio_token_id": 151665,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": vision_mlp,
            "out_hidden_size": hidden,
            "in_chans": 3,
            "tokens_per_second": 2,
        },
        "audio_config": {
            "num_mel_bins": 128,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "d_model": 1280,
            "encoder_ffn_dim": 5120,
            "second_per_window": 0.5,
            "second_stride": 0.5,
            "qformer_config": {
                "hidden_size": 3072,
                "num_hidden_layers": 2,
                "num_attention_heads": 12,
                "intermediate_size": 12288,
                "encoder_width": 1280,
                "cross_attention_freq": 1,
                "query_length": 1,
            },
        },
    }


def linear(name: str, out: int, into: int, bias: bool = True) -> dict[str, tuple]:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int, bias: bool = True) -> dict[str, tuple]:
    return {f"{name}.weight": (width,)} | ({f"{name}.bias": (width,)} if bias else {})


def published_tensors(size: str) -> dict[str, tuple]:
    """Names and shapes that a published checkpoint of a size has."""
    hidden, mlp, layers, heads, kv_heads, vocab, tied, vision_mlp = SIZES[size]
    out: dict[str, tuple] = {"audio.q_tokens": (1, 1, 3072), "audio.embed_positions.weight": (1500, 1280)}
    out |= {"audio.conv1.weight": (1280, 128, 3), "audio.conv2.weight": (1280, 1280, 3)}
    out |= {"audio.conv1.bias": (1280,), "audio.conv2.bias": (1280,)} | norm("audio.layer_norm", 1280)
    for n in range(32):
        at = f"audio.layers.{n}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out |= linear(f"{at}self_attn.{name}", 1280, 1280, bias=name != "k_proj")
        out |= norm(f"{at}self_attn_layer_norm", 1280) | norm(f"{at}final_layer_norm", 1280)
        out |= linear(f"{at}fc1", 5120, 1280) | linear(f"{at}fc2", 1280, 5120)
    former = "audio.qformer.bert."
    out |= {f"{former}embeddings.position_ids": (1, 512)} | norm(f"{former}embeddings.LayerNorm", 3072)
    for n in range(2):
        at = f"{former}encoder.layer.{n}."
        for part, width in (("attention", 3072), ("crossattention", 1280)):
            out |= linear(f"{at}{part}.self.query", 3072, 3072)
            out |= linear(f"{at}{part}.self.key", 3072, width) | linear(f"{at}{part}.self.value", 3072, width)
            out |= linear(f"{at}{part}.output.dense", 3072, 3072) | norm(f"{at}{part}.output.LayerNorm", 3072)
        out |= linear(f"{at}intermediate_query.dense", 12288, 3072)
        out |= linear(f"{at}output_query.dense", 3072, 12288) | norm(f"{at}output_query.LayerNorm", 3072)
    out |= linear("audio.audio_proj", hidden, 3072)
    out |= {"visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14)}
    for n in range(32):
        at = f"visual.blocks.{n}."
        out |= norm(f"{at}norm1", 1280, bias=False) | norm(f"{at}norm2", 1280, bias=False)
        out |= linear(f"{at}attn.qkv", 3840, 1280) | linear(f"{at}attn.proj", 1280, 1280)
        for name in ("gate_proj", "up_proj"):
            out |= linear(f"{at}mlp.{name}", vision_mlp, 1280)
        out |= linear(f"{at}mlp.down_proj", 1280, vision_mlp)
    out |= norm("visual.merger.ln_q", 1280, bias=False)
    out |= linear("visual.merger.mlp.0", 5120, 5120) | linear("visual.merger.mlp.2", hidden, 5120)
    out |= {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for n in range(layers):
        at = f"model.layers.{n}."
        out |= norm(f"{at}input_layernorm", hidden, bias=False)
        out |= norm(f"{at}post_attention_layernorm", hidden, bias=False)
        kv = hidden // heads * kv_heads
        for name, width in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)):
            out |= linear(f"{at}self_attn.{name}", width, hidden)
        out |= linear(f"{at}self_attn.o_proj", hidden, hidden, bias=False)
        out |= linear(f"{at}mlp.gate_proj", mlp, hidden, bias=False) | linear(f"{at}mlp.up_proj", mlp, hidden, False)
        out |= linear(f"{at}mlp.down_proj", hidden, mlp, bias=False)
    return out if tied else out | {"lm_head.weight": (vocab, hidden)}


@pytest.mark.parametrize(
    "size, total, decoder", [("3B", 1369, 434), ("7B", 1274, 338), ("72B", None, 962)], ids=["3B", "7B", "72B"]
)
def test_published_sizes(size, total, decoder):
    """On the meta device: every published tensor has its place, and no place is left."""
    listed = published_tensors(size)
    counts = Counter(name.partition(".")[0] for name in listed)
    assert (counts["audio"], counts["visual"], counts["model"]) == (545, 390, decoder)
    assert total in (None, len(listed))
    config = VideoSalmonn2PlusConfig.from_published(published_config(size))
    assert config.audio_tokens_per_piece == 60 and config.frames_per_window == 25
    with torch.device("meta"):
        model = VideoSalmonn2PlusForConditionalGeneration(config)
    wanted = {own_name(name): shape for name, shape in listed.items()}
    wanted.pop(None)
    assert len(wanted) == len(listed) - 1  # one unused buffer; no two names fall together
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        assert here.pop("lm_head.weight") == here["model.embed_tokens.weight"]
    assert here == wanted


def test_fields_of_the_published_config():
    config = VideoSalmonn2PlusConfig.from_published(published_config("7B"))
    text, vision = config.text_config, config.vision_config
    assert text.rope_parameters == {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    assert text.rms_norm_eps == 1e-6 and text.sliding_window is None and set(text.layer_types) == {"full_attention"}
    assert vision.fullatt_block_indexes == [7, 15, 23, 31] and vision.window_size == 112
    assert config.qformer_config.layer_norm_eps == 1e-12 and config.position_layout == "released"
    again = VideoSalmonn2PlusConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()


def change(config: dict, path: str, value) -> dict:
    """A copy with one field changed, or taken out with value None."""
    out = copy.deepcopy(config)
    *parents, last = path.split(".")
    part = out
    for name in parents:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return out


@pytest.mark.parametrize(
    "path, value, error",
    [
        ("hidden_size", None, InputError),
        ("num_key_value_heads", "two", InputError),
        ("num_hidden_layers", True, InputError),
        ("rope_scaling", None, InputError),
        ("rope_theta", None, InputError),
        ("rope_scaling.mrope_section", [1, 2, 3], InputError),
        ("rope_scaling.rope_type", "yarn", UnsupportedModelError),
        ("use_sliding_window", True, UnsupportedModelError),
        ("audio_token_id", None, InputError),
        ("audio_token_id", 9999, InputError),
        ("vision_config", None, InputError),
        ("vision_config.depth", None, InputError),
        ("vision_config.out_hidden_size", 64, InputError),
        ("audio_config.d_model", None, InputError),
        ("audio_config.second_stride", 0.25, UnsupportedModelError),
        ("audio_config.qformer_config", None, InputError),
        ("audio_config.qformer_config.encoder_width", 48, InputError),
        ("audio_config.qformer_config.cross_attention_freq", 2, InputError),
        ("audio_config.qformer_config.position_embedding_type", "relative", UnsupportedModelError),
    ],
)
def test_config_errors_name_the_field(path, value, error):
    named = {"encoder_width": "encoder_hidden_size", "cross_attention_freq": "cross_attention_frequency"}
    last = path.rpartition(".")[2]
    last = "rope_scaling" if last == "rope_type" else last
    with pytest.raises(error, match=named.get(last, last)):
        VideoSalmonn2PlusConfig.from_published(change(PUBLISHED, path, value))


def test_unknown_layout():
    with pytest.raises(InputError, match="'aligned'"):
        VideoSalmonn2PlusConfig.from_published(PUBLISHED, position_layout="aligned")


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


@torch.no_grad()
def same(a, b) -> bool:
    """All weights equal, and what is computed with them."""
    tensors = a.state_dict(), b.state_dict()
    return (
        tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(t, tensors[1][name]) for name, t in tensors[0].items())
        and torch.equal(a(**inputs("av")).logits, b(**inputs("av")).logits)
    )


@pytest.mark.parametrize("shards", ["5GB", "300KB"])
def test_save_and_load(model, tmp_path, shards):
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards == "300KB"
    again = load_model(tmp_path)
    assert same(model, again)
    assert again.generation_config.repetition_penalty == 1.05


def test_auto_classes_on_request(model, tmp_path):
    from transformers import AutoConfig, AutoModelForImageTextToText

    register()
    register()
    model.config.position_layout = "trained"
    try:
        model.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).position_layout == "trained"
        again, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert same(model, again.eval())
    finally:
        model.config.position_layout = "released"


def test_nothing_is_registered_at_import():
    code = (
        "import avflow.models.compat; avflow.models.compat.declare_torchvision()\n"
        "import avflow.models.video_salmonn2_plus.modeling, avflow.models.video_salmonn2_plus.checkpoint\n"
        "from transformers import CONFIG_MAPPING\n"
        "assert 'video_salmonn2_plus' not in CONFIG_MAPPING"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_one_dtype(dtype):
    """transformers keeps Q-Formers of its own models in float32; here it follows the model, as published."""
    model = load_model(FOLDER, dtype)
    assert {t.dtype for t in model.state_dict().values()} == {dtype}
    assert model.get_audio_features(inputs("audio")["audio_features"]).dtype == dtype
    logits = model(**inputs("av")).logits[0, golden()["av.logits_rows"]].float()
    assert logits.dtype == torch.float32 and float((logits - golden()["av.logits_B"]).abs().max()) < 1.0


@pytest.fixture
def folder(tmp_path):
    """A copy that may be broken."""
    out = tmp_path / "checkpoint"
    out.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, out / name)
    return out


def rewrite(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def set_config(folder, **fields) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t.pop("audio.q_tokens"), "1 missing: audio.q_tokens"),
        (lambda t: t.pop("lm_head.weight"), "1 missing: lm_head.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda t: t.update({"audio.audio_proj.bias": torch.zeros(7)}),
            r"audio.audio_proj.bias \(7,\), expected \(128,",
        ),
        (lambda t: t.update({"audio.encoder.conv1.bias": torch.zeros(32)}), "1 unexpected: audio.encoder.conv1.bias"),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("visual.")],
            r"54 missing: visual.*, \.\.\.",
        ),
    ],
)
def test_wrong_tensors(folder, edit, message):
    rewrite(folder, edit)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_tied(folder):
    """As published for 3B: no lm_head; one that equals the embeddings is let pass, another one is not."""
    set_config(folder, tie_word_embeddings=True)
    with pytest.raises(InputError, match="lm_head.weight differs"):
        load_model(folder)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    with_head = load_model(folder)
    rewrite(folder, lambda t: t.pop("lm_head.weight"))
    model = load_model(folder)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert same(model, with_head)
    model.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert same(model, load_model(folder))


def test_broken_files(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="model.safetensors is broken"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="lacks model.safetensors"):
        load_model(folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="convert it to safetensors"):
        load_model(folder)
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="lacks model-00001-of-00002"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    for load in (load_model, avflow.load):
        with pytest.raises(InputError, match="config.json"):
            load(folder)
    (folder / "config.json").unlink()
    for load in (load_model, avflow.load):
        with pytest.raises(InputError, match="has no config.json"):
            load(folder)


@pytest.mark.parametrize("load", [load_model, avflow.load])
@pytest.mark.parametrize(
    "name, base, wanted",
    [
        ("video-SALMONN-2_plus_7B", "/base/video_SALMONN2plus_7B_audioAlign", "video-SALMONN2_plus_7B_full' instead"),
        (
            "adapter",
            "tsinghua-ee/video_SALMONN2plus_3B_audioAlign",
            "'tsinghua-ee/video-SALMONN2_plus_3B_full' instead",
        ),
        ("adapter_of_salmonn", "base", "3B_full' or .*7B_full' or .*72B_full"),
        ("adapter", "Qwen/Qwen2.5-Omni-3B", r"merge it into its base model \(Qwen/Qwen2.5-Omni-3B\)"),
    ],
)
def test_adapters(tmp_path, load, name, base, wanted):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(UnsupportedModelError, match=f"LoRA adapter .*{wanted}"):
        load(folder)


def test_other_models(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config, "audio_config", None)))
    with pytest.raises(UnsupportedModelError, match="without audio_config"):
        load_model(folder)
    set_config(folder, model_type="bert")
    with pytest.raises(UnsupportedModelError, match="'bert'"):
        load_model(folder)
    with pytest.raises(InputError, match="no folder"):
        load_model(folder / "absent")


def test_family_by_config(model):
    """A published folder, one saved from here and a plain Qwen2.5-VL share or differ in model_type."""
    from avflow.models import family_of

    assert type(family_of(PUBLISHED, "it")).__name__ == "VideoSalmonn2Plus"
    assert type(family_of(model.config.to_dict(), "it")).__name__ == "VideoSalmonn2Plus"
    assert type(family_of(change(PUBLISHED, "audio_config", None), "it")).__name__ == "Qwen25VL"
    assert avflow.wrap(tiny_salmonn.thinker(layers=1)).n_layers == 1
    with pytest.raises(UnsupportedModelError, match="'bert'"):
        family_of({"model_type": "bert"}, "it")
