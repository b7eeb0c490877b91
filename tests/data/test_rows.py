"""Tables and JSON files as rows: what ends a row, how many cells it has, and what no parser should swallow."""

from __future__ import annotations

import os

import pytest

from avflow.data import DataMapping, read
from avflow.errors import InputError
from avflow.prompts.sample import Sample


def table(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_line_ends_end_a_row(tmp_path, separator):
    question = f"What is said{separator}here?"
    rows = f"id,question,answer,video\r\n1,{question},red,a.mp4\r\n2,Second?,blue,b.mp4\r\n"
    samples = read(table(tmp_path, rows)).samples
    assert [(s.id, s.question, s.answer) for s in samples] == [("1", question, "red"), ("2", "Second?", "blue")]


def test_quoted_cells_hold_delimiters_line_ends_and_quotes(tmp_path):
    rows = 'id,video,answer,question\n1,a.mp4,red,"In the ""first"", scene\nwhich car?"\n\n2,b.mp4,blue,5" wide?\n'
    first, second = read(table(tmp_path, rows)).samples
    assert first.question == 'In the "first", scene\nwhich car?' and second.question == '5" wide?'


@pytest.mark.parametrize(
    "rows, says",
    [
        ("1,a.mp4,red,In the first scene, which car?\n", "row 0 .to line 2. has 5 cells, .* names 4 columns"),
        ("1,a.mp4,red,Which?\n2,b.mp4,blue\n", "row 1 .to line 3. has 3 cells"),
        ("1,a.mp4,red,Which\ncar?\n", "row 1 .* has 1 cells"),
        ('1,a.mp4,red,"Which?\n2,b.mp4,blue,Which?\n', "line 3: not CSV .unexpected end of data"),
        ('1,a.mp4,red,"Which" car?\n', "line 2: not CSV"),
    ],
)
def test_rows_whose_cells_do_not_fit_the_columns_are_refused(tmp_path, rows, says):
    path = table(tmp_path, "id,video,answer,question\n" + rows)
    for mapping in (None, DataMapping(video="path")):  # whatever the columns are then taken for
        with pytest.raises(InputError, match=says if mapping is None else "cells|CSV|no column 'path'"):
            read(path, mapping)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="the column 'answer' stands twice"):
        read(table(tmp_path, "id,question,answer,answer,video\n1,?,a,b,v.mp4\n"))


DEEP = "[" * 100_000
LONG = "7" * 5000


@pytest.mark.parametrize(
    "line, says",
    [
        ('{"id": "1", "note": ' + DEEP, "line 2: .*nested too deeply"),
        ('{"id": ' + LONG + "}", "line 2: .*an integer is too long"),
        ('{"id": "1", "answer": "A", "answer": "B"}', "line 2: the key 'answer' stands twice"),
        ('{"id": "\\ud800", "question": "?", "answer": "x", "video": "a"}', "line 2: a sample's id holds half"),
        ('{"id": "1", "question": "?\\udfff", "answer": "x", "video": "a"}', "line 2: sample '1': question holds half"),
        ('{"id": "1", "question": "?", "answer": "\\ud83d", "video": "a"}', "line 2: sample '1': answer holds half"),
        ('{"id": "1", "question": "?", "answer": "x", "video": "\\ud800"}', "line 2: sample '1': video .*surrogate"),
        ('{"id": "1", "question": "?", "answer": "x", "video": "a", "task": "\\ud800"}', "line 2: .*task holds half"),
        ('{"id": "1", "question": "?", "answer": "x", "video": "a", "use_audio_in_video": 1}', "use true, false or"),
        ('{"id": "1", "question": "?", "answer": "x", "video": "a", "start": NaN}', "start is nan"),
        ('{"id": "1", "question": "?", "answer": "x", "video": "a", "end": 1' + "0" * 400 + "}", "end is .*seconds"),
        ('{"id": 1.5, "question": "?", "answer": "x", "video": "a"}', "line 2: id must be a text or an integer"),
    ],
)
def test_a_line_that_no_run_could_carry_is_refused_with_its_number(tmp_path, line, says):
    good = '{"id": "0", "question": "?", "answer": "x", "video": "a"}\n'
    path = table(tmp_path, good + line + "\n", "s.jsonl")
    with pytest.raises(InputError, match=says):
        Sample.read_jsonl(path)
    if "stands twice" in says or "deeply" in says or "long" in says:
        with pytest.raises(InputError, match=f"s.jsonl: {says.removeprefix('line 2: ')}"):
            read(path, "avflow", media=tmp_path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "s.jsonl")
    with pytest.raises(InputError, match="s.jsonl: it is a pipe"):
        Sample.read_jsonl(tmp_path / "s.jsonl")
    with pytest.raises(InputError, match="no such file or folder|it is a pipe"):
        read(tmp_path / "s.jsonl", "avflow", media=tmp_path)
    os.mkfifo(tmp_path / "m.yaml")
    with pytest.raises(InputError, match="cannot read the mapping .*m.yaml: it is a pipe"):
        DataMapping.load(tmp_path / "m.yaml")


NAN = float("nan")
ROW = {"id": "1", "question": "?", "options": ["red", "blue"], "answer": "A", "video": "v.mp4", "kind": "k"}


@pytest.mark.parametrize(
    "mapping, row, says",
    [
        ({"options": "options"}, {"options": ["red", None, "blue"]}, "option number 2 is None"),
        ({"options": "options"}, {"options": ["red", ["blue"]]}, r"option number 2 is \['blue'\]"),
        ({"options": "options"}, {"options": {"A": "red", "B": "blue"}}, "options must be a list or a text"),
        ({"options": "options"}, {"options": "[red,\nblue]"}, "neither JSON nor Python"),
        ({"video": "clips/{clip}.mp4"}, {"clip": None}, "the column 'clip' holds nothing"),
        ({"id": "n"}, {"n": NAN}, "id is empty"),
        ({"first_answer": 0, "options": "options"}, {"answer": 0.7}, "answer 0.7 is no number"),
        ({"first_answer": 0, "options": "options"}, {"answer": True}, "answer True is no number"),
        ({"first_answer": 0, "options": "options"}, {"answer": float("inf")}, "answer inf is no number"),
        ({"start": "from"}, {"from": True}, "start must be seconds, got True"),
        ({"start": "from"}, {"from": 10**400}, "start must be seconds, got 1000"),
        ({"options": "options"}, {"options": ["B. red", "A. blue"]}, "carries that letter"),
    ],
)
def test_a_row_that_would_be_read_as_something_else_is_refused(tmp_path, mapping, row, says):
    with pytest.raises(InputError, match=says):
        DataMapping(**{"video": "video", **mapping}).sample(ROW | row, tmp_path)


def test_what_a_row_may_lack_and_numbers_in_place_of_text(tmp_path):
    mapping = DataMapping(options="options", video="clips/{clip?}.mp4", audio="sound?", task="kind?")
    row = ROW | {"options": ["red", "blue", None, None], "clip": None, "sound": "s.wav", "kind": 0}
    sample = mapping.sample(row, tmp_path)
    assert sample.options == ["red", "blue"] and sample.video is None and sample.task == "0"
    assert mapping.sample(row | {"kind": NAN}, tmp_path).task == ""
    numbered = DataMapping(options="options", video="video", first_answer=1)
    assert numbered.sample(ROW | {"answer": 2.0}, tmp_path).answer == "B"


@pytest.mark.parametrize(
    "values, says",
    [
        ({"video": 3}, "video is 3: write a column's name"),
        ({"video": "v", "options": []}, "options is an empty list: name the columns, or leave options out"),
        ({"candidates": ()}, "candidates is an empty list"),
        ({"video": "v", "id": None}, "id is None: write a column's name"),
        ({"video": "v", "use_audio_in_video": 0}, "use_audio_in_video is 0: use true or false"),
        ({"video": "v", "first_answer": True}, "first_answer is True: give the number of the first option"),
        ({"images": "a", "audios": ["b"]}, "images is 'a'"),
        ({"video": "v", "options": ["a", 2]}, r"options is \['a', 2\]"),
    ],
)
def test_a_mapping_made_in_python_is_checked_as_one_of_a_file(values, says):
    with pytest.raises(InputError, match=says):
        DataMapping(**values)
    with pytest.raises(InputError, match=f"the mapping: {says}"):
        DataMapping.from_dict(values)


def test_a_pipe_without_an_ending_is_called_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "rows")
    with pytest.raises(InputError, match="it is a pipe or a device"):
        read(tmp_path / "rows")
