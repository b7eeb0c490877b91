"""Damaged checkpoint folders: the model that was saved, or an error of ours; never another model, nothing raw."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from demo_folder import demo
from fuzzing import fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st

import avflow
from avflow.errors import AvflowError

SMALL = (".json", ".jinja")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A text decoder's folder; its files' bytes; its parameters, as they are loaded."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.decoder("qwen3", layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo()["checkpoint"]).save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield folder, files, avflow.load(folder).hf.state_dict()
    logging.enable_progress_bar()


def load(folder, files, name: str, data: bytes):
    """The model after one file was replaced; None after an error of ours. The file is put back."""
    (folder / name).write_bytes(data)
    try:
        return avflow.load(folder)
    except AvflowError as error:
        assert 5 < len(str(error)) < 4000
        return None
    finally:
        (folder / name).write_bytes(files[name])


@fuzz(60)
@given(data=st.data())
def test_damaged_weights(checkpoint, data):
    """Cut off, or bits flipped in the header: the numbers of the weights themselves carry no checksum."""
    folder, files, saved = checkpoint
    whole = bytearray(files["model.safetensors"])
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 2))):
        whole[data.draw(st.integers(0, header - 1))] ^= 1 << data.draw(st.integers(0, 7))
    end = data.draw(st.none() | st.integers(0, len(whole)))
    if found := load(folder, files, "model.safetensors", bytes(whole[:end])):
        state = found.hf.state_dict()
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[name], saved[name]) and state[name].dtype == saved[name].dtype for name in saved)


@fuzz(50)
@given(data=st.data())
def test_config(checkpoint, data):
    """A field of another kind or size. What loads can be asked for its facts, and put back into a folder."""
    folder, files, _ = checkpoint
    config = data.draw(mutated(json.loads(files["config.json"])))
    if found := load(folder, files, "config.json", json.dumps(config).encode()):
        assert found.n_layers > 0 and found.n_heads > 0


@fuzz(40)
@given(data=st.data())
def test_damaged_small_files(checkpoint, data):
    """Tokenizer, generation config, chat template: cut off, a bit flipped, a value of another kind."""
    folder, files, _ = checkpoint
    name = data.draw(st.sampled_from(sorted(n for n in files if n.endswith(SMALL))))
    whole = bytearray(files[name])
    if whole[:1] == b"{" and len(whole) < 20_000 and data.draw(st.booleans()):
        load(folder, files, name, json.dumps(data.draw(mutated(json.loads(whole)))).encode())
        return
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    load(folder, files, name, bytes(whole[: data.draw(st.none() | st.integers(0, len(whole)))]))
