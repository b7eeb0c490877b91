"""Samples whose answers nobody knows: read where they are asked for, refused elsewhere."""

from __future__ import annotations

import pytest

import avflow

ROWS = {
    "a.csv": 'id,question,options,video\n1,What?,"[""red"", ""green""]",v.mp4\n',
    "b.csv": "id,question,answer,video\n1,What?,,v.mp4\n2,Who?,me,v.mp4\n",
    "c.jsonl": '{"id": "1", "question": "What?", "options": ["red", "green"], "video": "v.mp4"}\n',
    "d.json": '[{"id": "1", "question": "Which?", "reference": "s.wav", "candidates": ["a.png", "b.png"]}]',
}


@pytest.mark.parametrize("name", ROWS)
def test_every_format(name, tmp_path):
    path = tmp_path / name
    path.write_text(ROWS[name])
    with pytest.raises(avflow.InputError, match="answer"):
        avflow.data.read(path)
    samples = avflow.data.read(path, answers=False).samples
    assert samples[0].answer == ("?" if name == "b.csv" else "A")
    assert [s.answer for s in samples[1:]] == (["me"] if name == "b.csv" else [])  # one that is known stays


def test_an_open_sample_is_checked_as_any_other():
    sample = avflow.Sample.open(id="1", question="What?", video="v.mp4")
    assert (sample.answer, sample.options) == ("?", None)
    assert avflow.Sample.open(id="1", question="What?", options=["x", "y"], video="v.mp4").answer_index == 0
    with pytest.raises(avflow.InputError, match="no video, audio or image"):
        avflow.Sample.open(id="1", question="What?")


def test_what_is_written_of_an_open_sample_has_no_answer(tmp_path):
    """The letter that stands in its place would be read back as what is right."""
    sample = avflow.Sample.open(id="1", question="What?", options=["x", "y"], video="/v.mp4")
    (tmp_path / "a.jsonl").write_text(sample.to_json())
    with pytest.raises(avflow.InputError, match="answer"):
        avflow.Sample.read_jsonl(tmp_path / "a.jsonl")
    again = avflow.Sample.read_jsonl(tmp_path / "a.jsonl", answers=False)[0]
    assert again == sample and not again.answered
