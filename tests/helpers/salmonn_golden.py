"""The data of tests/data/video_salmonn2_plus_tiny: a checkpoint folder, inputs, and what the published code gives."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "video_salmonn2_plus_tiny"
CASES = ("av", "video", "audio", "av_long")
LAYOUTS = {"B": "released", "A": "trained"}  # the letters of the data -> names here
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None]


@cache
def golden() -> dict[str, torch.Tensor]:
    """Every tensor of the file; ints are int64, and `<case>.pixel_values_videos` float32 [T H W, 1176] is restored."""
    out = {}
    for name, value in load_file(FOLDER / "golden.safetensors").items():
        out[name] = value.long() if value.dtype == torch.int16 else value
    for case in ("av", "video"):
        pixels = out[f"{case}.pixels"].float().view(-1, 3, 2 * 14 * 14)
        out[f"{case}.pixel_values_videos"] = ((pixels - MEAN * 255) / (STD * 255)).flatten(1)
    out["mel.12s"] = torch.cat([out["mel.12s"], out["mel.12s"][..., -1:].expand(-1, -1, 1797)], -1)
    return out


@cache
def cases() -> dict[str, dict]:
    return json.loads((FOLDER / "golden.json").read_text())["cases"]


def inputs(case: str) -> dict[str, torch.Tensor]:
    """The forward's inputs."""
    facts, data = cases()[case], golden()
    out = {"input_ids": data[f"{case}.input_ids"]}
    if facts["pixel_values_videos"]:
        out["pixel_values_videos"] = data[facts["pixel_values_videos"]]
        out["video_grid_thw"] = data[f"{case}.video_grid_thw"]
        out["video_second_per_grid"] = torch.tensor([facts["seconds_per_grid"]])
    if facts["audio_feature"]:
        out["audio_features"] = torch.cat([data[name] for name in facts["audio_feature"]]).float()
    return out
