"""For who sends requests: what every token is, as runs that a request can carry. Needs no vLLM."""

from __future__ import annotations

import json
from typing import Any

from avflow.prompts.prompt import Prompt

from .names import RUNS


def runs(prompt: Prompt) -> list[list[Any]]:
    """[start, stop, group, item] of neighbouring tokens that are alike, of a prompt that `model.prepare` made."""
    labels = list(zip(prompt.groups, prompt.items, strict=True))
    edges = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    return [[start, stop, *labels[start]] for start, stop in zip(edges, edges[1:], strict=False)]


def extra_args(prompt: Prompt) -> dict[str, str]:
    """For SamplingParams(extra_args=...), and for vllm_xargs of vLLM's HTTP server, which takes text and no lists."""
    return {RUNS: json.dumps(runs(prompt))}
