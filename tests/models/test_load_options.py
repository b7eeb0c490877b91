"""What avflow.load passes on to from_pretrained, and what it refuses."""

import importlib.util

import pytest
import torch
from demo_folder import demo

import avflow
from avflow.models import base, loading

FAMILIES = ("qwen2_5_omni", "qwen2_5_vl", "video_salmonn2_plus")


@pytest.mark.parametrize("name", ["tiny-omni", "tiny-salmonn"])
def test_auto_is_the_dtype_of_the_checkpoint(name):
    assert avflow.load(name, dtype="auto").dtype == torch.bfloat16
    assert avflow.load(name).dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_options_of_every_family(family):
    folder = demo(family)["checkpoint"]
    model = avflow.load(folder, attn_implementation="eager", trust_remote_code=True, local_files_only=True)
    assert model.text_model.config._attn_implementation == "eager" and model.processor is not None
    assert avflow.load(folder, attn_implementation="sdpa").text_model.config._attn_implementation == "sdpa"
    assert avflow.load(folder, dtype="auto").dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")
def test_a_device_map_places_the_model(family, monkeypatch):
    folder = demo(family)["checkpoint"]
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *a, **k: moved.append(a) or self)
    model = avflow.load(folder, device_map={"": "cpu"})
    assert model.device.type == "cpu" and ("cpu",) not in moved
    with pytest.raises(avflow.InputError, match="puts the model on meta: avflow needs all of it on one device"):
        avflow.load(folder, device_map={"": "meta"})


def test_a_device_map_without_accelerate(monkeypatch):
    found = loading.importlib.util.find_spec
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    with pytest.raises(avflow.InputError, match="'auto' needs the package accelerate, .* pip install accelerate"):
        avflow.load("tiny-omni", device_map="auto")


@pytest.mark.parametrize(
    "options, match",
    [
        ({"device": "cdua"}, "device 'cdua': pass 'cpu', 'cuda'"),
        ({"device": "mps"}, "device 'mps': pass 'cpu', 'cuda'"),
        ({"device": "xyz"}, "device 'xyz': pass 'cpu', 'cuda'"),
        ({"device": "CPU"}, "device 'CPU': pass 'cpu', 'cuda'"),
        ({"device": ""}, "device '': pass 'cpu', 'cuda'"),
        ({"device": "meta"}, "device 'meta': pass 'cpu', 'cuda'"),
        ({"device": None}, "device None: pass 'cpu'"),
        ({"dtype": "auot"}, "dtype 'auot': pass one of float32, bfloat16, float16, auto"),
        ({"dtype": torch.int8}, "dtype torch.int8: pass one of"),
        ({"revision": "main"}, "revision = 'main': .* is a folder, leave it out"),
        ({"attn_implementation": "none"}, "cannot be loaded with attn_implementation='none'"),
        ({"colour": 1}, "colour"),
    ],
)
@pytest.mark.parametrize("name", ["tiny-omni", "tiny-salmonn"])
def test_what_cannot_be_honoured(name, options, match):
    with pytest.raises(avflow.InputError, match=match):
        avflow.load(name, **options)


def test_device_and_device_map_exclude_each_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(avflow.InputError, match="device = 'cuda' and device_map = 'auto': pass one of the two"):
        avflow.load("tiny-omni", device="cuda", device_map="auto")
    with pytest.raises(avflow.InputError, match="device 'cuda:3': torch sees 1 CUDA devices"):
        avflow.load("tiny-omni", device="cuda:3")


def test_a_family_written_for_0_1_serves_without_options(monkeypatch):
    asked = []

    class Old(base.Family):
        def load_hf(self, folder, dtype, device):
            asked.append((folder, dtype, device))
            return avflow.load("tiny-omni").hf

        def load_processor(self, folder):
            return None

    monkeypatch.setattr(loading, "family_of", lambda config, where: Old() if "old" in where else _family(config, where))
    monkeypatch.setattr(loading, "read_config", lambda name, hub: {} if name == "old" else _config(name, hub))
    assert avflow.load("old", dtype="bfloat16").processor is None
    assert asked == [("old", torch.bfloat16, "cpu")]
    with pytest.raises(avflow.InputError, match="attn_implementation = 'eager': .*Old.load_hf takes no such option"):
        avflow.load("old", attn_implementation="eager")


_family, _config = loading.family_of, loading.read_config


def test_where_on_the_hub_reaches_config_weights_and_processor(monkeypatch, tmp_path):
    """revision, token and cache_dir; a token is in no message."""
    import huggingface_hub
    import transformers

    folder = demo("qwen2_5_vl")["checkpoint"]
    hf, read = avflow.load(folder).hf, transformers.PretrainedConfig.get_config_dict
    seen = {}
    given = dict(revision="v1", token="secret", cache_dir=str(tmp_path))

    def config_dict(name, **options):
        if name != "org/name":
            return read(name, **options)
        seen["config"] = options
        return {"model_type": "qwen2_5_vl"}, {}

    class Hf:
        @staticmethod
        def from_pretrained(name, **options):
            seen["weights"] = options
            return hf, {}

    def snapshot(name, allow_patterns, **options):
        seen["processor"] = options
        return folder

    monkeypatch.setattr(transformers.utils, "cached_file", lambda name, file, **options: None)
    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", config_dict)
    monkeypatch.setattr(transformers, "Qwen2_5_VLForConditionalGeneration", Hf)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    avflow.load("org/name", **given)
    assert seen["config"] == given and seen["processor"] == given
    assert {key: seen["weights"][key] for key in given} == given

    def refused(name, allow_patterns, **options):
        raise OSError("no such revision")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(avflow.InputError, match="revision='v1', token=...,") as error:
        avflow.load("org/name", **given)
    assert "secret" not in str(error.value)
