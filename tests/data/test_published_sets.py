"""Data sets in their loaders' own columns: media at tags, nested questions, blanks, faulty letters, bad rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avflow.data import DataMapping, choose, read
from avflow.data.option_lists import filled
from avflow.errors import InputError
from avflow.prompts.answer import option_index, without_letters
from avflow.prompts.sample import Sample

PNG, WAV = b"\x89PNG\r\n\x1a\n", b"RIFF\x24\x00\x00\x00WAVE"
FOUR = "Listen: [audio1]. Which fits, [img1], [img2], [img3] or [img4]?"
NAMED = ["A: the third image", "B: the second image", "C: the first image", "D: the fourth image"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(tmp_path, value, name="rows.json"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def odyssey(question, options, images=4, audios=1, number=1, answer="A"):
    row = {"question_id": number, "question": question, "options": options, "answer": answer, "subfield": "Tone"}
    for n in range(1, 5):
        row[f"image_{n}"] = {"bytes": PNG + b"%d" % n, "path": None} if n <= images else None
        row[f"audio_{n}"] = {"bytes": WAV + b"%d" % n, "path": None} if n <= audios else None
    return row


# AV-Odyssey


def test_media_stand_at_their_tags_and_options_keep_their_texts(tmp_path):
    rows = [
        odyssey(FOUR, NAMED),
        odyssey("What is felt in [audio1] and [img1]?", ["A: joy", "B: fear", "C: anger", "D: calm"], 1, 1, 2, "C"),
        odyssey("No tag?", NAMED, number=3),
        odyssey("What happens in [video1]?", NAMED, number=4),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "av_odyssey_part1.parquet")
    found = read(tmp_path / "av_odyssey_part1.parquet", "av-odyssey")
    first, second = found.samples
    assert found.left_out == {"questions without a tag of a medium": 1, "a video at a tag": 1}
    assert first.question == FOUR and first.options == [text[3:] for text in NAMED] and first.answer == "A"
    assert list(first.tagged) == ["[audio1]", "[img1]", "[img2]", "[img3]", "[img4]"]
    assert first.names == ["[img3]", "[img2]", "[img1]", "[img4]"]
    assert [(Path(m.path).read_bytes()[-1:], m.group, m.item) for m in first.placed] == [
        (b"1", "reference", 0),
        (b"1", "candidate_incorrect", 0),
        (b"2", "candidate_incorrect", 1),
        (b"3", "candidate_correct", 2),
        (b"4", "candidate_incorrect", 3),
    ]
    assert second.names is None and [(m.kind, m.group) for m in second.placed] == [("audio",) * 2, ("image",) * 2]
    assert second.files == list(second.tagged.values()) and len(first.files) == 5


def test_tags_in_capitals_are_tags(tmp_path):
    question = "What is felt in [AUDIO1] and [Img1]?"
    pq.write_table(pa.Table.from_pylist([odyssey(question, NAMED, 1, 1)]), tmp_path / "a.parquet")
    (sample,) = read(tmp_path / "a.parquet", "av-odyssey").samples
    assert list(sample.tagged) == ["[AUDIO1]", "[Img1]"] and [m.kind for m in sample.placed] == ["audio", "image"]


def test_the_copy_with_lists_of_paths(tmp_path):
    row = {"question_id": 5, "question": FOUR, "options": NAMED, "answer": "B", "subfield": "Tone"}
    row |= {
        "data_type": "image",
        "image_path": [f"i/{n}.png" for n in range(1, 5)],
        "audio_path": ["a/1.wav"],
        "video_path": None,
    }
    (sample,) = read(written(tmp_path, [row]), "av-odyssey-lmms", media="/data").samples
    assert sample.tagged["[img2]"] == "/data/i/2.png" and sample.tagged["[audio1]"] == "/data/a/1.wav"
    assert [m.group for m in sample.placed].index("candidate_correct") == 2  # the second image, after the sound


@pytest.mark.parametrize(
    "row, says",
    [
        (odyssey(FOUR, NAMED, images=3), r"has \[img4\], but the row holds no such medium"),
        (odyssey(FOUR, NAMED, audios=2), r"a medium that the question has no tag for: \[audio2\]"),
        (odyssey(FOUR + " [img1]!", NAMED), r"the tag '\[img1\]' stands 2 times"),
    ],
)
def test_tags_that_do_not_fit_their_media_are_refused(tmp_path, row, says):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=says):
        read(tmp_path / "a.parquet", "av-odyssey")


ITEM = dict(id="1", question="Is [a] like [b]?", options=["yes", "no"], answer="A")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"tagged": {}}, r"tagged is {}: pass"),
        ({"tagged": {"[c]": "c.png"}}, "stands 0 times in the question"),
        ({"tagged": {"[a]": ""}}, "names no file"),
        ({"tagged": {"[a]": "a.mp4"}}, "name an image or a sound"),
        ({"video": "v.mp4"}, "tagged and video: an item has either"),
        ({"names": ["[a]"]}, "names has 1 tags for 2 options"),
        ({"names": ["[a]", "[a]"]}, "one tag twice"),
        ({"names": ["[a]", "[c]"]}, "none of the tags"),
        ({"names": ["[a]", "[b]"], "tagged": None, "image": "i.png"}, "none of the tags"),
    ],
)
def test_a_sample_with_tags_that_makes_no_sense(change, says):
    with pytest.raises(InputError, match=says):
        Sample(**ITEM | {"tagged": {"[a]": "a.png", "[b]": "b.wav"}} | change)


def test_tags_go_through_a_file(tmp_path):
    sample = Sample(**ITEM, tagged={"[b]": "b.wav", "[a]": "/d/a.png"}, names=["[b]", "[a]"])
    assert list(sample.tagged) == ["[a]", "[b]"]  # as the question has them
    path = tmp_path / "s.jsonl"
    path.write_text(sample.to_json())
    (again,) = Sample.read_jsonl(path)
    assert again.tagged == {"[a]": "/d/a.png", "[b]": str(tmp_path / "b.wav")} and again.names == sample.names


# The others


def test_omnivideobench_nests_its_questions(tmp_path):
    ask = {"question": "How many?", "question_type": "counting", "answer": "1", "correct_option": "B"}
    data = [
        {"video": "v1", "questions": [ask | {"options": ["A.0", "B.1", "C.0"]}, ask | {"options": ["A.0", "B.1"]}]},
        {"video": "v2", "questions": [ask | {"options": ["A.9", "B.1"]}]},
        {"video": "v3", "questions": []},
    ]
    samples = read(written(tmp_path, data), "omnivideobench", media="/videos").samples
    assert [(s.id, s.video, s.answer, s.task) for s in samples] == [
        ("v1-0", "/videos/v1.mp4", "B", "counting"),
        ("v1-1", "/videos/v1.mp4", "B", "counting"),
        ("v2-2", "/videos/v2.mp4", "B", "counting"),
    ]
    assert samples[0].options == ["0", "1", "0"]  # equal ones, and none of them is asked for
    data[0]["questions"][0]["correct_option"] = "A"
    with pytest.raises(InputError, match="row 0: .*'0' stands twice, so the answer is not one of them alone"):
        read(written(tmp_path, data), "omnivideobench")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "yaml"])
def test_nested_rows_of_other_files(tmp_path, kind):
    """A list of objects in each line, or in a column, is rows as in a .json file; the mapping may be a file too."""
    outer = [
        {"video": f"{n}.mp4", "qa": [{"q": f"q{n}{i}", "a": "A", "o": ["x", "y"]} for i in range(n)]} for n in (1, 2)
    ]
    mapping = dict(id="{video}-{index}", question="q", options="o", answer="a", video="video", nested="qa")
    file = tmp_path / f"rows.{'jsonl' if kind == 'yaml' else kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(outer), file)
    else:
        file.write_text("\n".join(map(json.dumps, outer)) + "\n{broken\n")
    data = DataMapping(**mapping)
    if kind == "yaml":
        data = tmp_path / "mapping.yaml"
        data.write_text("".join(f'{key}: "{value}"\n' for key, value in mapping.items()))
    found = read(file, data, skip_bad=True)
    assert [s.question for s in found.samples] == ["q10", "q20", "q21"]
    assert [s.id for s in found.samples] == ["1.mp4-0", "2.mp4-1", "2.mp4-2"]
    assert len(found.bad) == (kind != "parquet")


def test_music_avqa_fills_its_blanks(tmp_path):
    row = {"question_id": 7, "video_id": "00001", "question_content": "Is the <Object> on the <LR> louder?"}
    row |= {"templ_values": '["violin", "left"]', "anser": "yes", "type": '["Audio-Visual", "Comparative"]'}
    (sample,) = read(written(tmp_path, [row]), "music-avqa").samples
    assert sample.question == "Is the violin on the left louder?" and sample.options is None
    assert (sample.answer, sample.task) == ("yes", "Audio-Visual Comparative")
    assert sample.video == str(tmp_path / "00001.mp4")
    plain = row | {"question_content": "How many sound?", "templ_values": "[]"}
    assert read(written(tmp_path, [plain]), "music-avqa").samples[0].question == "How many sound?"
    for values in ("[]", '["violin"]', '["violin", "left", "right"]', None):
        with pytest.raises(InputError, match="row 0: the question .* has 2 blanks .<Object>, <LR>., its row has"):
            read(written(tmp_path, [row | {"templ_values": values}]), "music-avqa")


ASK = {"question": "Which?", "options": ["red", "blue"]}


@pytest.mark.parametrize(
    "mapping, name, data, id, answer, files",
    [
        (
            "daily-omni",
            "qa.json",
            [{"Question": "Which?", "Choice": ["A. red", "B. blue"], "Answer": "B", "video_id": "v", "Type": "x"}],
            "v-0",
            "B",
            ["Videos/v/v_video.mp4"],
        ),
        (
            "omnibench",
            "b.json",
            [ASK | {"index": 3, "answer": "blue", "audio_path": "s.mp3", "image_path": "i.png", "task type": "x"}],
            "3",
            "B",
            ["mm_data/audio/s.mp3", "mm_data/image/i.png"],
        ),
        (
            "video-mme",
            "t.json",
            [
                {"question": "Which?", "question_id": "1-1", "videoID": "v", "task_type": "x"}
                | {"options": ["A. red.", "B. blue."], "answer": "A"}
            ],
            "1-1",
            "A",
            ["data/v.mp4"],
        ),
        (
            "avqa",
            "val_qa.json",
            [
                {"id": 1, "video_name": "v", "question_text": "Which?", "question_type": "x"}
                | {"multi_choice": ["red", "blue"], "answer": 1}
            ],
            "1",
            "B",
            ["v.mp4"],
        ),
        (
            "tomato",
            "data/x.json",
            {"17": ASK | {"answer": 0, "key": "clip", "demonstration_type": "human"}},
            "x-17",
            "A",
            ["data/../videos/human/clip.mp4"],
        ),
    ],
)
def test_named_mappings(tmp_path, mapping, name, data, id, answer, files):
    (sample,) = read(written(tmp_path, data, name), mapping).samples
    assert (sample.id, sample.answer, sample.task) == (id, answer, "x")
    assert sorted(sample.files) == sorted(str(tmp_path / file) for file in files)
    assert [o.rstrip(".") for o in sample.options] == ["red", "blue"]


# Letters


@pytest.mark.parametrize("answer", ["Ｂ", "（B）", "B。", "（Ｂ）", "B．", "B、蓝", "（B）蓝"])
def test_full_width_letters(answer):
    assert option_index(answer, ["红", "蓝"]) == 1


def test_full_width_letters_of_options_are_taken_off():
    assert without_letters(["A、红", "B、蓝"]) == ["红", "蓝"]
    assert without_letters(["（Ａ）红", "（Ｂ）蓝"]) == ["红", "蓝"]


@pytest.mark.parametrize(
    "options, other",
    [
        (["A. an excited tone", "B. a sad tone", "A. an angry tone", "B. a calm tone"], "A. an angry tone"),
        (["A.Horse neighing", "B Horse chewing", "C.Cow mooing", "D.Cow chewing"], "B Horse chewing"),
        (["A.Horse neighing", "B Horse chewing"], "B Horse chewing"),
    ],
)
def test_faulty_letters_are_refused_and_never_doubled(options, other):
    with pytest.raises(InputError, match=f"sample '1': the options carry letters of their own, but '{other}'"):
        Sample(id="1", question="?", options=options, answer="A", video="v.mp4")


def test_names_with_initials_are_no_letters():
    for options in (["E. coli", "B. subtilis", "D. mel"], ["C. Smith", "C. Jones", "D. Brown"], ["A.D.", "B.C."]):
        assert without_letters(options) == options


# Bad rows


def test_bad_rows_are_skipped_and_told(tmp_path):
    good = [ASK | {"id": str(n), "answer": "A", "video": "v.mp4"} for n in range(3)]
    rows = [good[0], good[1] | {"answer": "E"}, good[1], good[0], good[2] | {"options": ["red"]}]
    for source in (written(tmp_path, rows), tmp_path / "rows.jsonl"):
        if source.suffix == ".jsonl":
            source.write_text("\n".join([*map(json.dumps, rows), "{broken"]))
        with pytest.raises(InputError, match="neither a letter"):
            read(source)
        found = read(source, skip_bad=True)
        assert [s.id for s in found.samples] == ["0", "1"]
        assert len(found.bad) == (4 if source.suffix == ".jsonl" else 3)
        reasons = list(found.bad.values())
        assert "neither a letter A to B" in reasons[0] and "id '0' is that of" in reasons[1]
        assert "1 options" in reasons[2]
        assert all(str(source) in where for where in found.bad)
        assert choose(found.samples, limit=1)[0].id == "0"


def test_where_no_row_makes_a_sample_the_first_reason_is_the_error(tmp_path):
    rows = [ASK | {"id": n, "answer": "E", "video": "v.mp4"} for n in range(2)]
    with pytest.raises(InputError, match=r"row 0: .*neither a letter A to B.* \(and 1 more\)"):
        read(written(tmp_path, rows), skip_bad=True)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "nowhere.json", skip_bad=True)
    with pytest.raises(InputError, match="at_tags is about images and audios"):
        DataMapping(video="v", at_tags=True)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.jsonl", "{GOOD1}\n{{bad\n{GOOD2}\n", "not JSON"),
        ("a.jsonl", "{GOOD1}\n5\n{GOOD2}\n", "holds int"),
        ("a.json", "[{GOOD1}, 5, {GOOD2}]", "holds int"),
        ("a.csv", "id,question,answer,video\n1,Q?,a,a.mp4\n7,Q\n2,Q?,b,a.mp4\n", "has 2 cells"),
    ],
)
def test_what_is_no_row_is_skipped_too(tmp_path, name, text, reason):
    good = [json.dumps({"id": n, "question": "Q?", "answer": "a", "video": "a.mp4"}) for n in (1, 2)]
    path = tmp_path / name
    path.write_text(text.format(GOOD1=good[0], GOOD2=good[1]) if name != "a.csv" else text)
    found = read(path, "avflow", skip_bad=True)
    assert [sample.id for sample in found.samples] == ["1", "2"]
    assert list(found.bad) == [f"{path}, row 1"] and reason in found.bad[f"{path}, row 1"]
    with pytest.raises(InputError, match=reason):
        read(path, "avflow")


def test_a_blank_filled_with_nothing_is_a_bad_row():
    with pytest.raises(InputError, match="an empty value"):
        filled("Is the <Object> left of the <Object>?", ["piano", " "])
