"""Models, conversations and the dense oracle that the eviction tests share."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import oracle
import tiny
import tiny_deep
import tiny_salmonn
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import avflow

SCHEDULE = {"video": 1, "audio+question": 2}
NEVER = 99
MODELS = ("omni", "salmonn", "vl", "qwen2", "qwen3")


@dataclass
class Case:
    """Inputs of `generate` for one sequence or a batch, and what every token is."""

    inputs: dict
    groups: list[list[str]]  # per sequence, padding included
    items: list[list[int]]

    @property
    def n(self) -> int:
        return self.inputs["input_ids"].shape[1]


def vl(seed: int = 0):
    """A plain Qwen2.5-VL: vision tower and decoder."""
    torch.manual_seed(seed)
    text = dict(
        vocab_size=tiny.VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    )
    vision = dict(
        depth=1,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=112,
        out_hidden_size=64,
        fullatt_block_indexes=[0],
    )
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tiny.IMAGE,
        video_token_id=tiny.VIDEO,
        vision_start_token_id=tiny.VISION_BOS,
        vision_end_token_id=tiny.VISION_EOS,
    )
    hf = Qwen2_5_VLForConditionalGeneration(config).eval()
    tiny._sharpen(hf, avflow.models.compat.find_text_model(hf).layers)
    return hf


def deep():
    """Seven layers, so that something can rest for some of them."""
    return tiny.decoder("qwen3", layers=7)


@lru_cache
def model(name: str) -> avflow.Model:
    make = {"omni": tiny.thinker, "salmonn": tiny_salmonn.thinker, "vl": vl, "deep": deep}
    if name == "deepstack":
        return tiny_deep.model()
    return avflow.wrap(make[name]() if name in make else tiny.decoder(name))


def _media(prompt) -> dict:
    return {k: v for k, v in prompt.model_inputs.items() if k not in ("input_ids", "attention_mask")}


def prompt(name: str, seed: int = 1, size: int = 2) -> Case:
    """A prompt with media; `size` is seconds of video, or tens of tokens."""
    if name in ("omni", "salmonn"):
        made = (tiny if name == "omni" else tiny_salmonn).av_prompt("interleaved", seconds=size, seed=seed)
        inputs = _media(made)
    elif name == "vl":
        made = tiny.av_prompt("silent", seconds=size, seed=seed)
        inputs = {k: v for k, v in _media(made).items() if k in ("pixel_values_videos", "video_grid_thw")}
        inputs["mm_token_type_ids"] = 2 * (made.input_ids[None] == tiny.VIDEO).long()
    elif name == "deepstack":
        made = tiny_deep.prompt(frames=size, seed=seed)
        inputs = _media(made)
    else:
        made, inputs = tiny.text_prompt(64, tokens=20 + 10 * size, seed=seed), {}
    inputs = {"input_ids": made.input_ids[None], "attention_mask": torch.ones(1, len(made), dtype=torch.long), **inputs}
    return Case(inputs, [list(made.groups)], [list(made.items)])


def batch(cases: list[Case]) -> Case:
    """Left-padded; media one after the other, sound padded on the right."""
    n = max(c.n for c in cases)
    inputs: dict = {}
    for key in cases[0].inputs:
        values = [c.inputs[key] for c in cases]
        if key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            inputs[key] = torch.cat([torch.nn.functional.pad(v, (n - v.shape[1], 0)) for v in values])
        elif key in ("input_features", "feature_attention_mask"):
            most = max(v.shape[-1] for v in values)
            inputs[key] = torch.cat([torch.nn.functional.pad(v, (0, most - v.shape[-1])) for v in values])
        else:
            inputs[key] = torch.cat(values) if isinstance(values[0], torch.Tensor) else values[0]
    pads = [n - c.n for c in cases]
    groups = [["template"] * p + c.groups[0] for p, c in zip(pads, cases, strict=True)]
    return Case(inputs, groups, [[-1] * p + c.items[0] for p, c in zip(pads, cases, strict=True)])


def leaves(groups: list[list[str]], steps) -> torch.Tensor:
    """The layer after which each token leaves by a schedule {group: layer}: int [batch, n]."""
    out = torch.full((len(groups), len(groups[0])), NEVER)
    for group, after in steps.items():
        inside = torch.tensor([[g in oracle.names(group) for g in row] for row in groups])
        out[inside] = out[inside].clamp(max=after)
    return out


def cuts_of(gone: torch.Tensor, extra: int, prompts: list[int] | None = None, layers: int = 4) -> dict:
    """Dense masks: in layers after `gone[b, j]` token j is hidden from all others; `extra` tokens follow and stay.

    prompts: decode="drop": ends of prompts; a token of one is hidden in all layers from rows after it.
    """
    gone = torch.nn.functional.pad(gone, (0, extra), value=NEVER)
    n = gone.shape[1]
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    later = torch.zeros(n, n, dtype=torch.bool)
    for end in prompts or ():
        later |= (j < end) & (i >= end)
    out = {}
    for layer in range(layers):
        cut = (gone[:, None, :] < layer) | ((gone[:, None, :] < NEVER) & later[None])
        out[layer] = (cut & (i != j)[None])[:, None].expand(-1, 4, -1, -1)
    return out


@contextmanager
def dense(name: str, cuts: dict):
    with oracle.dense(model(name).hf, cuts), torch.no_grad():
        yield


def generate(name: str, case: Case, **how):
    given = dict(do_sample=False, min_new_tokens=how.get("max_new_tokens", 6), max_new_tokens=6)
    given |= dict(output_logits=True, return_dict_in_generate=True)
    torch.manual_seed(3)  # for sampling
    return model(name).hf.generate(**case.inputs, **(given | how))


def evicting(name: str, case: Case, schedule=SCHEDULE, decode: str = "keep"):
    return avflow.evict(model(name), schedule, decode, groups=case.groups, items=case.items)


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, where logits are larger than 1 relative to them: the tiny models' are, by design."""
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def check(ours, theirs, clean=None, tolerance: float = 1e-4) -> None:
    """Tokens are identical, logits agree, and eviction changed something."""
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for a, b in zip(ours.logits, theirs.logits, strict=False):
        assert far(a[: len(b)], b[: len(a)]) < tolerance
    if clean is not None:
        pairs = zip(ours.logits, clean.logits, strict=False)
        assert max(far(a[: len(b)], b[: len(a)]) for a, b in pairs) > 100 * tolerance


def lengths(cache) -> list[int]:
    return [layer.keys.shape[2] for layer in cache.layers]
