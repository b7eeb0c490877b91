"""The prompt of the end-to-end benchmarks, an audio-visual clip with a question, and the knockouts that are swept."""

from __future__ import annotations

import torch

import avflow
from avflow.knockouts.presets import as_knockouts

AFTER_MEDIA = [k for k in as_knockouts("av_video") if "cross" not in k.name and "<->" not in k.name]
IN_MEDIA = [k for k in as_knockouts("av_video") if k not in AFTER_MEDIA]
QUESTION = 48  # tokens of question and options; the benchmarks at Qwen2.5's sizes say their own
MEDIA = ("video", "audio")


def make_prompt(model: avflow.Model, tokens: int, question: int = QUESTION) -> avflow.Prompt:
    """System text, interleaved video and audio, `question` tokens of question and four options, last.

    Random embeddings, fp32 [tokens, hidden] on the CPU.
    """
    media = tokens - question - 13
    groups, items = ["system"] * 12, [-1] * 12
    for i in range(media):
        chunk, at = divmod(i, 100)
        groups.append("video" if at < 75 else "audio")
        items.append(4 * chunk + (at // 19 if at < 75 else 0))
    groups += ["question_text"] * (question - 16)
    items += [-1] * (question - 16)
    for option in range(4):
        groups += ["option_correct" if option == 1 else "option_incorrect"] * 4
        items += [option] * 4
    groups, items = [*groups, "last"], [*items, -1]
    embeds = torch.randn(len(groups), model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    return avflow.Prompt(inputs_embeds=embeds, groups=groups, items=items, answer_ids=[7], id="bench")


def media_rows(prompt: avflow.Prompt, device: torch.device | str = "cpu") -> torch.Tensor:
    """bool [N]: tokens of video or audio."""
    return torch.tensor([group in MEDIA for group in prompt.groups], device=device)
