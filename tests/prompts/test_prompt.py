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


def test_what_an_interleaved_item_is_made_of():
    item = Sample("1", "which?", answer="B", candidates=["a.png", "b.png"], reference="c.wav")
    assert item.interleaved == Interleaved(["a.png", "b.png"], "c.wav", "image")
    assert Sample("1", "which?", answer="it", video="v.mp4").interleaved is None
