"""The family that docs/models.md shows is run as it stands there: loaded, prepared, labelled, swept."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import oracle
import pytest
import torch
from clips import Clip, write_png
from demo_folder import demo

import avflow
from avflow import models
from avflow.errors import InputError, UnsupportedModelError
from avflow.knockouts.presets import as_knockouts
from avflow.models import registry
from avflow.prompts.sample import Sample
from avflow.tiny.checkpoint import Tiny
from avflow.tiny.random_weights import mrope_section, scale_weights
from avflow.tiny.tokenizer import build_tokenizer, save_tokenizer
from avflow.tiny.vision import CHAT_TEMPLATE, TOKENS, save_pictures

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SIZE = Tiny(layers=3)


@pytest.fixture
def family(monkeypatch):
    """The page's code, registered for one test."""
    monkeypatch.setattr(registry, "_FAMILIES", {name: list(found) for name, found in models.families().items()})
    code = re.search(r"^## Adding a family.*?^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    assert len(code.splitlines()) < 60
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})


@pytest.fixture
def folder(tmp_path):
    """A small Qwen2-VL checkpoint."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = build_tokenizer(TOKENS)
    save_tokenizer(tokenizer, TOKENS, CHAT_TEMPLATE, tmp_path)
    save_pictures(tmp_path)
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in TOKENS}
    config = Qwen2VLConfig(
        **ids,
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=SIZE.hidden,
            intermediate_size=SIZE.intermediate,
            num_hidden_layers=SIZE.layers,
            num_attention_heads=SIZE.heads,
            num_key_value_heads=SIZE.kv_heads,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": mrope_section(SIZE)},
        ),
        vision_config=dict(depth=1, embed_dim=64, hidden_size=SIZE.hidden, num_heads=4, mlp_ratio=2),
    )
    torch.manual_seed(0)
    hf = Qwen2VLForConditionalGeneration(config)
    scale_weights(hf, SIZE)
    hf.save_pretrained(tmp_path)
    return tmp_path


def test_it_is_unknown_without_the_page(folder):
    with pytest.raises(UnsupportedModelError, match="qwen2_vl"):
        avflow.load(folder)


def test_the_page_works(family, folder, tmp_path):
    model = avflow.load(folder)
    ask = {"id": "0", "question": "Which color is the shape?", "options": ["red", "green"], "answer": "red"}
    prompt = model.prepare(Sample(image=str(write_png(Clip(), tmp_path / "a.png")), **ask))
    pairs = zip(prompt.groups, prompt.items, strict=True)
    assert [(*key, len(list(same))) for key, same in itertools.groupby(pairs)] == [
        ("template", -1, 3),
        ("system", -1, 11),
        ("template", -1, 6),
        ("image", 0, 12),
        ("template", -1, 1),
        ("question_text", -1, 7),
        ("option_correct", 0, 4),
        ("option_incorrect", 1, 4),
        ("question_text", -1, 13),
        ("template", -1, 7),
        ("last", -1, 1),
    ]
    knockouts = as_knockouts(["image->question", "image->last"])
    rows = avflow.sweep(avflow.wrap(model.hf), [prompt], knockouts=knockouts, select="all", window=1).table.to_pylist()
    assert oracle.check_rows(model.hf, prompt, knockouts, rows, window=1) > 1e-3
    with pytest.raises(InputError, match="one image"):
        model.prepare(Sample(video=demo()["clips"][0], **ask))


def test_patches_under_their_old_name():
    """A family that defines `quicker`, as before 0.2, is warned about and served; one below it may use either name."""
    from avflow.models.base import Family

    with pytest.warns(DeprecationWarning, match="Old.quicker: call it patches"):

        class Old(Family):
            def quicker(self, model):
                return [*super().quicker(model), (model, "old", 1)]

    class New(Old):
        def patches(self, model):
            return [*super().patches(model), (model, "new", 2)]

    assert Old().patches("m") == Old().quicker("m") == [("m", "old", 1)]
    assert New().patches("m") == New().quicker("m") == [("m", "old", 1), ("m", "new", 2)]
    assert Family().patches("m") == Family().quicker("m") == []
