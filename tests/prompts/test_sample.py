"""Samples and the JSONL files that hold them: what is read, and what is refused and how."""

from __future__ import annotations

import json

import pytest

from avflow.errors import InputError, UnsupportedModelError
from avflow.prompts.sample import Sample

LINE = {"id": "1", "question": "Which color?", "options": ["red", "green"], "answer": "B", "video": "clips/a.mp4"}


def write(folder, *lines, name="s.jsonl"):
    path = folder / name
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


def test_a_file_is_read_in_order_with_paths_relative_to_it(tmp_path):
    path = write(
        tmp_path,
        LINE | {"task": "color", "source": "ignored"},
        "",
        {"id": 7, "question": "What is said?", "answer": "Good morning", "audio": "/data/b.wav"},
        LINE | {"id": 8, "dub": "c.wav"},
    )
    first, second, third = Sample.read_jsonl(path)
    assert (first.id, first.answer, first.answer_index, first.task) == ("1", "B", 1, "color")
    assert first.video == str(tmp_path / "clips/a.mp4")
    assert (second.id, second.audio, second.options, second.answer_index) == ("7", "/data/b.wav", None, None)
    assert third.files == [str(tmp_path / "clips/a.mp4"), str(tmp_path / "c.wav")]
    again = Sample.read_jsonl(write(tmp_path, *(one.to_json() for one in (first, second, third)), name="t.jsonl"))
    assert again == [first, second, third]


@pytest.mark.parametrize(
    "answer, letter",
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("green", "B"),
        ("B. green", "B"),
        ("red", "A"),
        (" red ", "A"),
    ],
)
def test_an_answer_is_a_letter_or_an_options_text(answer, letter):
    assert Sample(**(LINE | {"answer": answer})).answer == letter


def test_options_that_carry_their_letters_lose_them():
    sample = Sample(**(LINE | {"options": ["A. red", "(B) green", "C: blue"], "answer": "(B) green"}))
    assert sample.options == ["red", "green", "blue"] and sample.answer == "B"
    names = {"options": ["B. Goode", "A. Smith"], "answer": "B. Goode"}  # initials, not letters in order
    kept = Sample(**(LINE | names))
    assert kept.options == ["B. Goode", "A. Smith"] and kept.answer == "A"


@pytest.mark.parametrize(
    "change, says",
    [
        ({"answer": "E"}, "neither a letter A to B nor one of"),
        ({"answer": None}, "an option list without the answer"),
        ({"answer": "purple"}, "an option list without the answer"),
        ({"answer": "A. green"}, r"fits the options \['A', 'B'\]"),
        ({"options": ["B", "A"], "answer": "A"}, "write one letter"),
        ({"answer": 1}, 'answer must be text, got 1: write "1"'),
        ({"options": ["red"]}, "1 options"),
        ({"options": ["red", "red"]}, "'red' stands twice"),
        ({"options": ["red", ""]}, "option B is empty"),
        ({"options": "red, green"}, "must be a list of texts"),
        ({"options": list("abcdefghijklmnopqrstuvwxyz") + ["more"]}, "27 options"),
        ({"options": None, "answer": ""}, "no answer"),
        ({"video": None}, "no video, audio or image"),
        ({"question": "  "}, "question is empty"),
        ({"id": ""}, "id is empty"),
        ({"video": ["a.mp4"]}, "video must be one path"),
        ({"use_audio_in_video": "yes"}, "use true, false or null"),
        ({"use_audio_in_video": True, "audio": "a.wav"}, "leave one of them out"),
        ({"dub": "a.wav", "audio": "b.wav"}, "dub is the sound of a video"),
        ({"dub": "a.wav", "video": None, "image": "a.png"}, "dub is the sound of a video"),
        ({"dub": "a.wav", "use_audio_in_video": False}, "dub is the sound of a video"),
        ({"use_audio_in_video": True, "video": None, "audio": "a.wav"}, "there is no video"),
        ({"options": ["A", "B", "C"], "answer": "B"}, "are the letters .* without a text"),
        ({"options": ["A.", "B."], "answer": "B"}, "option A is empty"),
        ({"start": -1}, "start is -1"),
        ({"start": 3, "end": 2}, "end 2.0 s is not after start 3.0 s"),
        ({"end": "soon"}, "end is 'soon'"),
        ({"start": 3, "video": None, "image": "a.png"}, "start is set, but there is no video"),
    ],
)
def test_a_bad_sample_says_what_is_wrong(change, says):
    with pytest.raises(InputError, match=says):
        Sample(**(LINE | change))


@pytest.mark.parametrize(
    "line, says",
    [
        ("{bad", "line 2: not JSON"),
        ("[1, 2]", "line 2: holds list, not an object"),
        ({"question": "?", "answer": "x", "video": "a"}, "line 2: has no 'id'"),
        ({"id": "2", "answer": "x", "video": "a"}, "line 2: has no 'question'"),
        ({"id": {}, "question": "?", "answer": "x", "video": "a"}, "line 2: id must be"),
        ({"id": "2", "question": "?", "answer": "x", "vidoe": "a"}, "line 2: .*no video, audio or image.*vidoe"),
        (LINE, "line 2: id '1' is that of line 1 too"),
        (LINE | {"id": "2", "answer": "Z"}, "line 2: .*an option list without the answer"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, says):
    with pytest.raises(InputError, match=says):
        Sample.read_jsonl(write(tmp_path, LINE, line))


def test_files_without_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the samples file .*nowhere.jsonl"):
        Sample.read_jsonl(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="holds no sample"):
        Sample.read_jsonl(write(tmp_path, "", " "))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        Sample.read_jsonl(tmp_path / "b.jsonl")


def test_separators_inside_strings_do_not_split_lines(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text("\ufeff" + json.dumps(LINE | {"question": "a\u2028b\x85?"}, ensure_ascii=False), encoding="utf-8")
    assert Sample.read_jsonl(path)[0].question == "a\u2028b\x85?"


ITEM = {"id": "i", "question": "Which sounds like it?", "answer": "c", "reference": "r.wav"}
IMAGES = ["1.png", "2.jpg", "3.webp"]


def test_an_interleaved_item_has_candidates_a_reference_and_letters(tmp_path):
    sample = Sample(**ITEM, candidates=IMAGES)
    assert (sample.options, sample.answer, sample.answer_index) == (["A", "B", "C"], "C", 2)
    assert sample.candidate_kind == "image"
    assert (
        Sample(**ITEM | {"reference": "r.png", "candidates": ["1.wav", "2.MP3"], "answer": "A"}).candidate_kind
        == "audio"
    )
    (read,) = Sample.read_jsonl(write(tmp_path, ITEM | {"candidates": IMAGES}))
    assert read.candidates == [str(tmp_path / name) for name in IMAGES] and read.reference == str(tmp_path / "r.wav")
    assert Sample.read_jsonl(write(tmp_path, read.to_json())) == [read]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"candidates": None}, "come together"),
        ({"reference": None}, "come together"),
        ({"video": "v.mp4"}, "candidates and video: an item has either"),
        ({"candidates": ["1.png"]}, "1 candidates: give 2 to 26"),
        ({"candidates": "1.png"}, "must be a list of paths"),
        ({"candidates": ["1.png", ""]}, "must be a list of paths"),
        ({"candidates": ["1.png", "2.wav"]}, "of two kinds"),
        ({"candidates": ["1.wav", "2.wav"]}, "both of kind audio: give an image"),
        ({"candidates": ["1.png", "2.txt"]}, "candidate 2 is '2.txt': name an image or a sound"),
        ({"options": ["dog", "cat", "cow"]}, "leave options out"),
        ({"answer": "D"}, "neither a letter A to C"),
    ],
)
def test_a_bad_interleaved_item_says_what_is_wrong(change, says):
    with pytest.raises(InputError, match=says):
        Sample(**(ITEM | {"candidates": IMAGES} | change))


def test_what_a_family_does_not_read_is_refused(qwen3):
    with pytest.raises(UnsupportedModelError, match="'i' has candidates, .* which TextFamily does not lay out"):
        qwen3.prepare(Sample(**ITEM, candidates=IMAGES))
