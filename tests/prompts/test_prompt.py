"""A prompt keeps what it is given in one form, whatever form that had."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import avflow
from avflow.errors import InputError
from avflow.prompts.sample import Interleaved, Sample

GROUPS = ["video", "question_text", "last"]


def test_columns_are_lists_and_ids_are_tensors():
    prompt = avflow.Prompt(
        id=3, input_ids=[5, 6, 7], groups=tuple(GROUPS), items=torch.tensor([0, -1, -1]), answer_ids=np.array([4])
    )
    assert (prompt.id, prompt.groups, prompt.items, prompt.answer_ids) == ("3", GROUPS, [0, -1, -1], [4])
    assert torch.equal(prompt.input_ids, torch.tensor([5, 6, 7])) and prompt.inputs_embeds is None
    assert prompt.position_ids is None and prompt.option_ids is None and prompt.media == {}
    assert avflow.Prompt(input_ids=[5], groups=["last"], answer_ids=[4]).items == [-1]


def test_a_changed_copy_is_checked_anew():
    prompt = avflow.Prompt(torch.zeros(3, 8), groups=GROUPS, answer_ids=[4], option_ids=[4, 5])
    assert replace(prompt, answer_ids=[5]).answer_ids == [5]
    with pytest.raises(InputError, match="not among option_ids"):
        replace(prompt, answer_ids=[6])


def test_a_copy_keeps_what_is_known_of_the_media():
    prompt = avflow.Prompt(torch.zeros(3, 8), groups=GROUPS, answer_ids=[4])
    prompt.media["notes"] = ["cut"]
    other = replace(prompt, answer="red")
    assert other.media == {"notes": ["cut"]} and other.media is not prompt.media
    with pytest.raises(InputError, match="media is 3"):
        replace(prompt, media=3)


def test_prompts_are_compared_by_their_values():
    values = dict(groups=GROUPS, answer_ids=[4], id="a", model_inputs={"x": torch.ones(2), "y": [torch.zeros(1)]})
    prompt = avflow.Prompt(torch.zeros(3, 8), torch.tensor([0, 1, 2]), **values)
    same = avflow.Prompt(
        torch.zeros(3, 8), [0, 1, 2], **values | {"model_inputs": {"y": [torch.zeros(1)], "x": torch.ones(2)}}
    )
    same.media["notes"] = ["cut"]
    assert prompt == same and not prompt != same and prompt in [same]
    others = [
        replace(prompt, inputs_embeds=torch.ones(3, 8)),
        replace(prompt, inputs_embeds=torch.zeros(3, 9)),
        replace(prompt, inputs_embeds=torch.zeros(3, 8, dtype=torch.bfloat16)),
        replace(prompt, inputs_embeds=None, input_ids=[1, 2, 3]),
        replace(prompt, position_ids=None),
        replace(prompt, answer_ids=[5]),
        replace(prompt, id="b"),
        replace(prompt, model_inputs={"x": torch.ones(2), "y": [torch.ones(1)]}),
        replace(prompt, model_inputs={"x": torch.ones(2)}),
        replace(prompt, model_inputs=None),
    ]
    assert all(prompt != other and not prompt == other for other in others)
    assert prompt != "a" and prompt is not None and (prompt == None) is False  # noqa: E711


def test_what_an_interleaved_item_is_made_of():
    item = Sample("1", "which?", answer="B", candidates=["a.png", "b.png"], reference="c.wav")
    assert item.interleaved == Interleaved(["a.png", "b.png"], "c.wav", "image")
    assert Sample("1", "which?", answer="it", video="v.mp4").interleaved is None
