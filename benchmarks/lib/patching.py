"""What the benchmarks of patching put in, and their peer: one forward with a hook for each cell."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import avflow
from benchmarks.lib.peers import clean_forward
from benchmarks.lib.prompts import media_rows

SITES = ("question_text", "option_correct", "option_incorrect", "last")


def others(prompt: avflow.Prompt) -> dict[str, str | avflow.PatchSource]:
    """By name, what is put in; of a prompt with its embeddings in the CPU's memory or a device's."""
    media, embeds = media_rows(prompt), prompt.inputs_embeds
    assert embeds is not None
    new = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(2)).to(embeds)
    after = torch.arange(len(prompt)) >= prompt.groups.index("question_text")
    question, clip = (
        dataclasses.replace(prompt, inputs_embeds=torch.where(rows[:, None].to(embeds.device), new, embeds))
        for rows in (after, media)
    )
    return {
        "zero": "zero",
        "another question": avflow.PatchSource.of(question),
        "other media": avflow.PatchSource.of(clip),
    }


def hooked_forward(model: avflow.Model, prompt: avflow.Prompt, layer: int) -> torch.Tensor:
    """Logits [vocab] with zeros for the output of a layer at the last token."""

    def zeroed(module: torch.nn.Module, args: Any, out: Any) -> Any:
        (out if isinstance(out, torch.Tensor) else out[0])[:, -1] = 0
        return out

    handle = model.layers[layer].register_forward_hook(zeroed)
    try:
        return clean_forward(model, prompt)
    finally:
        handle.remove()
