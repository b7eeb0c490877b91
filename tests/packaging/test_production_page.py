"""The Python of docs/production.md runs as it stands there, block after block, and does what the page says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

import avflow
from avflow.synthetic import make_items, write_items

PAGE = Path(__file__).resolve().parents[2] / "docs" / "production.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)


def test_the_blocks_run(tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    for name, count, seed in (("calls", 8, 3), ("fresh", 4, 4)):
        lines = write_items(make_items("heldout", count, seed=seed), tmp_path / name).read_text()
        lines = re.sub(r'"video": "', f'"video": "{name}/', re.sub(r', "answer": "[^"]*"', "", lines))
        assert '"answer"' not in lines
        (tmp_path / f"{name}.jsonl").write_text(lines)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=r".*model\.layers.*(q_proj|v_proj)", init_lora_weights=False)
    peft.get_peft_model(avflow.load("tiny-omni").hf, config).save_pretrained(tmp_path / "adapter")
    found: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", avflow.AvflowWarning)  # so few prompts promise little, and the plan says so
        for block in blocks():
            if "merge_and_unload" in block:
                plain = found["evicted"]
            exec(compile(block, str(PAGE), "exec"), found)
    assert found["schedule"].steps and found["schedule"].figures["measure"] == "kl"
    assert found["same"] == 1 and found["text"]
    one_by_one = [found["model"].text([token]) for token in found["evicted"].tolist()]
    assert found["answers"] == one_by_one
    assert torch.equal(found["merged"], found["unmerged"]) and not torch.equal(found["merged"], plain)
