"""A load is complete or it fails, and says which weights or which file; what is fine in a folder stays fine."""

import importlib.util
import json
import shutil

import pytest
import tiny
import torch
from command import avflow_, one_line_error
from demo_folder import demo
from safetensors.torch import load_file, save_file

import avflow
from avflow import weights
from avflow.models import complete_load

FAMILIES = ("qwen2_5_omni", "qwen2_5_vl", "text")
LAYER = {
    "qwen2_5_omni": "thinker.model.layers.1.",
    "qwen2_5_vl": "model.layers.1.",
    "text": "model.layers.1.",
    "video_salmonn2_plus": "model.layers.1.",
}


def save_text(folder, **config):
    """A text decoder with a tokenizer, as a folder."""
    from transformers import AutoTokenizer

    hf = tiny.decoder("qwen3")
    for name, value in config.items():
        setattr(hf.config, name, value)
    hf.save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo()["checkpoint"]).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_bars():
    """Those of transformers stand on stderr, beside the one line that a command writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def copied(tmp_path):
    """family -> a checkpoint folder of it, to be broken."""

    def copy(family="qwen2_5_omni"):
        if family == "text":
            return save_text(tmp_path / family)
        shutil.copytree(demo(family)["checkpoint"], tmp_path / family)
        return tmp_path / family

    return copy


def edit(folder, change):
    """Rewrites the folder's one weight file."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def set_config(folder, *path_and_value):
    *path, value = path_and_value
    whole = config = json.loads((folder / "config.json").read_text())
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(whole))


def in_layer(family, tensors):
    return next(name for name in sorted(tensors) if name.startswith(LAYER[family]) and "q_proj.weight" in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_that_is_not_there(family, copied, caplog):
    folder = copied(family)
    edit(folder, lambda t: t.pop(in_layer(family, t)))
    with pytest.raises(avflow.InputError, match=r"1 of the model's weights are not in it: .*layers\.1\..*q_proj") as e:
        avflow.load(folder)
    assert str(folder) in str(e.value) and "download all of its files again" in str(e.value)
    assert "LOAD REPORT" not in caplog.text  # the error says it


@pytest.mark.parametrize("family", FAMILIES)
def test_many_weights_are_counted_and_a_few_named(family, copied):
    folder = copied(family)
    gone = [name for name in load_file(folder / "model.safetensors") if name.startswith(LAYER[family])]
    edit(folder, lambda t: [t.pop(name) for name in gone])
    with pytest.raises(
        avflow.InputError, match=rf"^.* {len(gone)} of the model's .*: (\S+, ){{2}}\S+ and {len(gone) - 3} more"
    ):
        avflow.load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_that_has_no_place(family, copied):
    folder = copied(family)
    edit(folder, lambda t: t.update({LAYER[family] + "self_attn.extra": torch.zeros(1)}))
    with pytest.raises(avflow.InputError, match=r"1 of its weights have no place in the model: .*self_attn\.extra"):
        avflow.load(folder)


@pytest.mark.parametrize("ignore", [{}, {"ignore_mismatched_sizes": True}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_of_another_shape(family, ignore, copied):
    """Asked to ignore it, transformers fills it with random numbers."""
    folder = copied(family)
    edit(folder, lambda t: t.update({in_layer(family, t): torch.zeros(16, 24)}))
    with pytest.raises(avflow.InputError, match=r"another shape: .*q_proj.weight \(16, 24\), expected \(\d+, \d+\)"):
        avflow.load(folder, **ignore)


def test_fewer_layers_in_the_config_than_in_the_weights(copied):
    folder = copied("text")
    set_config(folder, "num_hidden_layers", 3)
    set_config(folder, "layer_types", ["full_attention"] * 3)
    with pytest.raises(avflow.InputError, match=r"11 of its weights have no place in the model: model\.layers\.3\."):
        avflow.load(folder)


def test_the_speech_half_of_a_full_model_is_no_error(copied):
    folder = copied()
    speech = {"talker.model.norm.weight": torch.ones(4), "token2wav.code2wav_dit_model.x": torch.ones(1)}
    edit(folder, lambda t: t.update(speech))
    assert avflow.load(folder).n_layers == 8
    edit(folder, lambda t: t.update({"walker.weight": torch.ones(1)}))
    with pytest.raises(avflow.InputError, match="1 of its weights have no place in the model: walker.weight; "):
        avflow.load(folder)


def test_tied_and_computed_weights_are_no_error(tmp_path):
    """An output matrix that is the embeddings is in no file; rotary frequencies of old folders are computed anew."""
    folder = save_text(tmp_path, tie_word_embeddings=True)
    edit(folder, lambda t: (t.pop("lm_head.weight", None), t.update({"model.rotary_emb.inv_freq": torch.ones(8)})))
    model = avflow.load(folder)
    assert model.lm_head.weight.data_ptr() == model.text_model.embed_tokens.weight.data_ptr()


def test_in_shards(copied):
    """Whole: as in one file. A shard that is not there, an index that names none: an error that names the file."""
    folder = copied("text")
    whole = avflow.load(folder)
    (folder / "model.safetensors").unlink()
    whole.hf.save_pretrained(folder, max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    last = sorted(set(json.loads(index.read_text())["weight_map"].values()))[-1]
    again = avflow.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(whole.hf.parameters(), again.hf.parameters(), strict=True))
    (folder / last).rename(folder / "elsewhere")
    with pytest.raises(avflow.InputError, match=f"lacks {last}: download the checkpoint again"):
        avflow.load(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": 3}}))
    with pytest.raises(avflow.InputError, match="index.json has no weight_map that says which file holds a weight"):
        avflow.load(folder)


# --- quantised --------------------------------------------------------------------------------------------------------


def as_gptq(tensors):
    for name in [n for n in tensors if n.startswith(LAYER["qwen2_5_omni"][:-2]) and n.endswith("proj.weight")]:
        out, width = tensors.pop(name).shape
        base = name.removesuffix("weight")
        tensors |= {base + "qweight": torch.zeros(width // 8, out, dtype=torch.int32)}
        tensors |= {base + "qzeros": torch.zeros(1, out // 8, dtype=torch.int32), base + "scales": torch.ones(1, out)}


def test_packed_weights_that_no_config_explains(copied):
    folder = copied()
    edit(folder, as_gptq)
    with pytest.raises(avflow.InputError, match="they are quantised, and its config.json has no quantization_config"):
        avflow.load(folder)


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="optimum is installed")
def test_a_quantised_full_model_without_the_package_that_reads_it(copied):
    """Its quantization_config stands beside thinker_config, not in it."""
    folder = copied()
    edit(folder, as_gptq)
    set_config(folder, "quantization_config", {"quant_method": "gptq", "bits": 4, "group_size": 128})
    with pytest.raises(avflow.InputError, match="GPTQ .* requires optimum .*; install the package that this names"):
        avflow.load(folder)
    assert "optimum" in one_line_error(avflow_("sweep", folder, demo()["samples"], "--out", folder / "run"))


@pytest.mark.parametrize("method", ["", "no such method"])
def test_a_quantisation_that_transformers_does_not_know(method, copied):
    folder = copied()
    edit(folder, as_gptq)
    set_config(folder, "quantization_config", {"quant_method": method})
    with pytest.raises(avflow.InputError, match=r"does not fill the model|cannot be loaded"):
        avflow.load(folder)


@pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="compressed-tensors is not installed"
)
def test_a_quantised_full_model_loads(tmp_path):
    """Eight bits per weight and a scale per row: the answer is that of tiny-omni to four digits."""
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    shutil.copytree(weights.folder("tiny-omni"), tmp_path / "packed")

    def pack(tensors):
        for name in [n for n in tensors if n.startswith("thinker.model.layers.") and n.endswith("proj.weight")]:
            weight = tensors.pop(name).float()
            scale = weight.abs().amax(1, keepdim=True) / 127
            tensors[name + "_packed"] = pack_to_int32((weight / scale).round().to(torch.int8), 8)
            tensors |= {name + "_scale": scale, name + "_shape": torch.tensor(weight.shape)}

    edit(tmp_path / "packed", pack)
    packed = dict(num_bits=8, type="int", symmetric=True, strategy="channel", dynamic=False)
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["thinker.lm_head", "re:thinker\\.visual.*", "re:.*(visual|audio_tower).*"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": packed}},
    }
    set_config(tmp_path / "packed", "quantization_config", config)
    sample = avflow.Sample(
        id="0", question="Which color?", options=["red", "blue"], answer="A", video=demo()["clips"][0]
    )
    rows = [
        avflow.sweep(avflow.load(name), sample, "video->last", layers=[0], select="all")
        .table["logp_knockout"][0]
        .as_py()
        for name in ("tiny-omni", tmp_path / "packed")
    ]
    assert rows[0] == pytest.approx(rows[1], abs=0.1) and rows[0] != rows[1]


# --- files ------------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-2],
    "zeroed": lambda data: b"\0" * 4096,
    "a list": lambda data: b"[1, 2]",
    "deep": lambda data: b"[" * 100_000,
    "long integer": lambda data: b'{"a": ' + b"7" * 5000 + b"}",
}
NEEDED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("family", [*FAMILIES, "video_salmonn2_plus"])
def test_a_broken_file_is_named(family, how, copied):
    folder = copied(family)
    for name in NEEDED:
        file = folder / name
        if not file.is_file():
            continue
        whole = file.read_bytes()
        file.write_bytes(BROKEN[how](whole))
        with pytest.raises(avflow.AvflowError) as error:
            avflow.load(folder)
        assert str(file) in str(error.value), (name, error.value)
        file.write_bytes(whole)
    avflow.load(folder)


@pytest.mark.parametrize("family", [*FAMILIES, "video_salmonn2_plus"])
def test_a_file_that_is_not_there(family, copied):
    folder = copied(family)
    for name, said in (("config.json", "no config.json"), ("model.safetensors", "model.safetensors.*download")):
        (folder / name).rename(folder / "away")
        with pytest.raises(avflow.AvflowError, match=said):
            avflow.load(folder)
        (folder / "away").rename(folder / name)


@pytest.mark.parametrize(
    "path, value, said",
    [
        (("num_attention_heads",), 0, "config.json has num_attention_heads 0: take it from the checkpoint again"),
        (("num_key_value_heads",), 0, "config.json has num_key_value_heads 0|has another shape|have another shape"),
        (("num_attention_heads",), -4, "num_attention_heads -4"),
        (("num_hidden_layers",), -1, "num_hidden_layers -1|no place in the model"),
        (("head_dim",), 7, "`head_dim`=7.*is its config.json of these weights"),
        (("head_dim",), 24, "have another shape: .*k_proj"),
        (("quantization_config",), 5, "cannot be loaded"),
        (("hidden_size",), "wide", "hidden_size"),
        (("vocab_size",), 10, "have another shape: .*embed_tokens"),
        (("rope_parameters",), 3, "is its config.json of these weights"),
        (("model_type",), ["qwen3"], "model type"),
    ],
)
def test_sizes_of_which_no_model_is_made(path, value, said, copied):
    folder = copied("text")
    set_config(folder, *path, value)
    with pytest.raises(avflow.AvflowError, match=said):
        avflow.load(folder)


@pytest.mark.parametrize(
    "family, path, value",
    [
        ("text", ("num_hidden_layers",), 10**12),
        ("text", ("num_hidden_layers",), 1e30),
        ("text", ("hidden_size",), 10**12),
        ("text", ("intermediate_size",), 10**4000),
        ("text", ("num_attention_heads",), 10**9),
        ("text", ("head_dim",), 10**9),
        ("text", ("vocab_size",), 10**15),
        ("qwen2_5_omni", ("thinker_config", "text_config", "num_hidden_layers"), 10**12),
        ("qwen2_5_omni", ("thinker_config", "audio_config", "encoder_layers"), 10**12),
        ("qwen2_5_omni", ("thinker_config", "vision_config", "depth"), 10**12),
        ("video_salmonn2_plus", ("num_hidden_layers",), 10**12),
    ],
)
def test_sizes_beyond_any_model_are_refused_before_one_is_made(family, path, value, copied, monkeypatch):
    """10**12 layers would be made one by one."""
    folder = copied(family)
    set_config(folder, *path, value)
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self, *a, **k: pytest.fail("a module is made"))
    with pytest.raises(avflow.InputError, match=rf"config.json has {'.'.join(path)} .*more than any model has"):
        avflow.load(folder)


def test_sizes_of_published_models_are_none_of_these():
    from avflow.models.complete_load import check_sizes

    large = dict(num_hidden_layers=126, hidden_size=53_248, intermediate_size=262_144, num_attention_heads=512)
    check_sizes({**large, "text_config": large, "vocab_size": 1_000_000, "max_position_embeddings": 10**9}, "large")


def test_the_home_folder_is_expanded(copied, monkeypatch):
    folder = copied("text")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert avflow.load(f"~/{folder.name}").n_layers == avflow.load(folder).n_layers
    for wrong in (None, 5, ""):
        with pytest.raises(avflow.InputError, match="the checkpoint (must be a path|is empty)"):
            avflow.load(wrong)


def test_more_memory_than_there_is(copied, monkeypatch):
    folder = copied("text")

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("Tried to allocate 20 GiB")

    monkeypatch.setattr(complete_load, "placed", full)
    with pytest.raises(avflow.InputError, match="does not fit the memory of its device: pass dtype='bfloat16'"):
        avflow.load(folder)


@pytest.mark.parametrize("command", ["sweep", "plan", "look"])
def test_the_command_says_it_in_one_line(command, copied):
    folder = copied()
    edit(folder, lambda t: t.pop(in_layer("qwen2_5_omni", t)))
    kind, name = ["share"] if command == "look" else [], "out.json" if command == "plan" else "out"
    line = one_line_error(avflow_(command, *kind, folder, demo()["samples"], "--out", folder / name))
    assert "layers.1.self_attn.q_proj" in line and "download" in line


def test_a_folder_is_judged_by_what_is_read():
    """vocab.json beside tokenizer.json is not; the two models of the package are whole."""
    for name in weights.NAMES:
        assert avflow.load(name).processor is not None
