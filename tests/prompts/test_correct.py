"""The one rule of a right answer: with options the answer leads them, without every token is the most probable one."""

from __future__ import annotations

import pytest
import tiny
import torch

from avflow.prompts.correct import answers_correctly, leads_options, says_answer


def logits(*rows: dict[int, float]) -> torch.Tensor:
    out = torch.zeros(len(rows), 12)
    for row, values in enumerate(rows):
        for token, value in values.items():
            out[row, token] = value
    return out


@pytest.mark.parametrize(
    "rows, right",
    [
        (logits({7: 2.0, 8: 1.0, 3: 9.0}), True),  # a token that is no option may be above all of them
        (logits({7: 1.0, 8: 2.0}), False),
        (logits({7: 2.0, 9: 2.0}), True),  # a tie is the answer's
        (logits({7: 2.0}, {5: 1.0}), True),  # later tokens do not matter
        (logits({7: float("nan")}), False),
    ],
)
def test_with_options(rows, right):
    prompt = tiny.text_prompt(64, answer_ids=(7, 4)[: len(rows)], option_ids=(7, 8, 9))
    assert answers_correctly(prompt, rows) is right


@pytest.mark.parametrize(
    "rows, right",
    [(logits({7: 1.0}, {4: 1.0}), True), (logits({7: 1.0}, {5: 1.0}), False), (logits({}, {4: 1.0}), False)],
)
def test_without_options(rows, right):
    assert answers_correctly(tiny.text_prompt(64, answer_ids=(7, 4)), rows) is right


def test_many_rows_at_once():
    rows = logits({7: 2.0, 8: 1.0}, {7: 1.0, 8: 2.0})
    found = leads_options(rows, torch.tensor([7, 7]), torch.tensor([[7, 8], [7, 8]]))
    assert found.tolist() == [True, False]


def test_the_studies_rule_takes_no_notice_of_case_of_open_answers_too():
    prompt = tiny.text_prompt(64, answer_ids=(7, 4))
    words = {7: "two", 4: " cellos", 8: "Two", 5: " violins"}

    def text(ids):
        return "".join(words[i] for i in ids)

    assert says_answer(prompt, [7, 4], text) and says_answer(prompt, [8, 4], text)
    assert not says_answer(prompt, [8, 5], text)
