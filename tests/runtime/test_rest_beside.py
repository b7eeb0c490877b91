"""Rests beside what else a schedule may say: before layer 0, by item, by embeddings; each against plain dense runs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from evict_cases import NEVER, batch, check, evicting, far, generate, model, prompt
from rest_oracle import Fate, fate_of, resting

from avflow import EveryNth, Step
from avflow.models.compat import cache_of, find_text_model

STEPS = {
    "rests from layer 0": [Step("video", -1, until=1), Step("audio", 2)],
    "one gone before, one rests": [Step("video", -1), Step("audio", 0, until=1)],
    "some of both": [Step("video", -1, EveryNth(2), until=2), Step("audio", -1, until=0), Step("question_text", 1)],
}


@pytest.mark.parametrize("decode", ["keep", "drop"])
@pytest.mark.parametrize("sequences", [1, 2])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["omni", "qwen2"])
def test_generate(name, steps, sequences, decode):
    case = prompt(name) if sequences == 1 else batch([prompt(name, 1, 1), prompt(name, 2, 3)])
    with evicting(name, case, STEPS[steps], decode):
        ours = generate(name, case)
    fate = fate_of(name, case, STEPS[steps])
    with resting(name, fate, prompts=[case.n] if decode == "drop" else ()):
        theirs = generate(name, case)
    check(ours, theirs, generate(name, case))


@dataclass(frozen=True)
class FirstOfEach:
    """Keeps the first of the tokens it is asked about."""

    uses_scores = False

    def select(self, view):
        return view.orders == view.orders.min()


def test_each_item_rests_but_for_its_first_token():
    case = prompt("omni")
    with evicting("omni", case, [Step("video", 0, FirstOfEach(), until=2, per="item")]):
        ours = model("omni").hf(**case.inputs)
    leave, seen = torch.zeros(1, case.n, dtype=torch.bool), set()
    for at, (group, item) in enumerate(zip(case.groups[0], case.items[0], strict=True)):
        if group == "video":
            leave[0, at] = item in seen
            seen.add(item)
    fate = Fate(torch.full((1, case.n), NEVER))
    fate.take(leave, Step("video", 0, until=2))
    with resting("omni", fate, 0):
        theirs = model("omni").hf(**case.inputs)
    assert len(seen) > 1 and far(ours.logits, theirs.logits) < 1e-4
    assert [layer.keys.shape[2] for layer in cache_of(ours).layers] == [
        case.n - int(leave.sum()) * r for r in (0, 1, 1, 0)
    ]


@dataclass(frozen=True)
class Positive:
    """Keeps the tokens whose first hidden number is above 0."""

    uses_scores = False
    uses_embeddings = True

    def select(self, view):
        return (view.embeddings()[:, 0] > 0).cpu().numpy()


def test_embeddings_while_others_come_back():
    """What a policy is shown are its own tokens' hidden states, though the rows that return stand among them."""
    case, steps = prompt("omni"), [Step("video", 0, until=1), Step("audio", 1, Positive())]
    with evicting("omni", case, steps):
        ours = model("omni").hf(**case.inputs)
    fate, entering = fate_of("omni", case, steps[:1]), []
    hook = (
        find_text_model(model("omni").hf)
        .layers[2]
        .register_forward_pre_hook(
            lambda module, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    )
    try:
        with resting("omni", fate, 0):
            model("omni").hf(**case.inputs)
    finally:
        hook.remove()
    audio = torch.tensor([[group == "audio" for group in case.groups[0]]])
    leave = audio & (entering[0][..., 0] <= 0)
    assert 0 < leave.sum() < audio.sum()
    fate.take(leave, Step("audio", 1))
    with resting("omni", fate, 0):
        theirs = model("omni").hf(**case.inputs)
    assert far(ours.logits, theirs.logits[:, ~leave[0]]) < 1e-4
