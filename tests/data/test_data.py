"""Data sets in their own layouts, from small files that the tests write in them; and the choice among samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from avflow.data import DataMapping, choose, mapping_of, read, register
from avflow.data.layouts import MAPPINGS
from avflow.errors import InputError
from avflow.prompts.sample import Sample

PNG, WAV = b"\x89PNG\r\n\x1a\n", b"RIFF\x24\x00\x00\x00WAVE"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Media from within rows go here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "avflow" / "media"


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# The published layouts

SPEAKER = {
    "question_id": "q7",
    "video_id": "abc",
    "question": "Who speaks first?",
    "choices": "['A. The man', \"B. The woman's friend\", 'C. The girl', 'D. Nobody']",
    "answer": "B",
    "audio_visual_path": "audiovisual/abc_10_20.mp4",
    "visual_path": "visual/abc_10_20.mp4",
    "task_id": "speaker_recognition",
    "category": "Speaker",
}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_av_speakerbench(tmp_path, kind):
    path = tmp_path / f"test.{kind}"
    if kind == "parquet":
        parquet(path, [SPEAKER | {"choices": ["A. The man", "B. The woman's friend", "C. The girl", "D. Nobody"]}])
    elif kind == "jsonl":
        path.write_text(json.dumps(SPEAKER))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, SPEAKER, delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerow(SPEAKER)
    (sample,) = read(path, "av-speakerbench").samples
    assert sample == Sample(
        id="q7",
        question="Who speaks first?",
        options=["The man", "The woman's friend", "The girl", "Nobody"],
        answer="B",
        video=str(tmp_path / "audiovisual/abc_10_20.mp4"),
        task="speaker_recognition",
    )


def test_worldsense_as_one_json_file_and_as_rows(tmp_path):
    task = {
        "question": "What is heard?",
        "candidates": ["A. A bell.", "B. A horn."],
        "answer": "B",
        "task_type": "Audio Recognition",
        "task_domain": "Recognition",
    }
    first = {
        "duration": "<1min",
        "domain": "Music",
        "video_caption": "...",
        "task0": task,
        "task1": task | {"answer": "A"},
    }
    path = tmp_path / "worldsense_qa.json"
    path.write_text(json.dumps({"vid_a": first, "vid_b": {"duration": "1-2min", "task0": task}}))
    samples = read(path, "worldsense", media="/data").samples
    assert [(s.id, s.video, s.answer) for s in samples] == [
        ("0", "/data/videos/vid_a.mp4", "B"),
        ("1", "/data/videos/vid_a.mp4", "A"),
        ("2", "/data/videos/vid_b.mp4", "B"),
    ]
    assert samples[0].options == ["A bell.", "A horn."] and samples[0].task == "Audio Recognition"
    rows = [{"index": n, "video": v, "domain": "Music", **task} for n, v in enumerate(("vid_a", "vid_a", "vid_b"))]
    rows[1]["answer"] = "A"
    flat = read(parquet(tmp_path / "rows" / "test.parquet", rows), "worldsense", media="/data")
    assert flat.samples == samples


def test_tvbench(tmp_path):
    folder = tmp_path / "json"
    folder.mkdir()
    plain = {"video": "v.mp4", "question": "How often?", "candidates": ["2", "3"], "answer": "3"}
    (folder / "action_count.json").write_text(json.dumps([plain, plain | {"answer": "2"}]))
    (folder / "action_sequence.json").write_text(json.dumps([plain | {"start": 1.5, "end": 9.0}]))
    samples = read(folder, "tvbench").samples
    assert [s.id for s in samples] == ["action_count-0", "action_count-1", "action_sequence-0"]
    assert [s.answer for s in samples] == ["B", "A", "B"]
    assert Path(samples[0].video).resolve() == tmp_path / "video" / "action_count" / "v.mp4"
    assert (samples[0].start, samples[2].start, samples[2].end) == (None, 1.5, 9.0)
    assert {s.task for s in samples} == {"action_count", "action_sequence"}
    assert samples[0].use_audio_in_video is False


def odyssey(number, images, audios, options, answer="A"):
    row = {"question_id": number, "question_type_id": 3, "question": "Which image [img1] ... [audio1]?"}
    row |= {"options": options, "answer": answer, "subfield": "Tone", "data_type": "image", "video_1": None}
    for n in range(1, 5):
        row[f"image_{n}"] = {"bytes": PNG + b"%d" % n, "path": None} if n <= images else None
        row[f"audio_{n}"] = {"bytes": WAV + b"%d" % n, "path": "x.wav"} if n <= audios else None
    return row


def test_av_odyssey_keeps_the_interleaved_items(tmp_path, cache):
    named = ["A: the third image", "B: the second image", "C: the first image", "D: the fourth image"]
    heard = ["A. the second audio", "B. the first audio", "C. the third audio", "D. the fourth audio"]
    rows = [
        odyssey(1, 4, 1, named, "A"),
        odyssey(2, 1, 4, heard, "D"),
        odyssey(3, 1, 1, ["A: 190", "B: 153", "C: 182", "D: 159"]),
        odyssey(4, 4, 1, ["A: happy", "B: sad", "C: angry", "D: calm"]),
    ]
    parquet(tmp_path / "odyssey" / "av_odyssey_part1.parquet", rows[:2])
    parquet(tmp_path / "odyssey" / "av_odyssey_part2.parquet", rows[2:])
    found = read(tmp_path / "odyssey", "av-odyssey-candidates")
    first, second = found.samples
    assert (first.id, first.candidate_kind, first.answer, first.task) == ("1", "image", "C", "Tone")
    assert (second.candidate_kind, second.answer, second.options) == ("audio", "D", ["A", "B", "C", "D"])
    assert [Path(c).read_bytes()[-1:] for c in first.candidates] == [b"1", b"2", b"3", b"4"]
    assert Path(first.reference).read_bytes() == WAV + b"1" and Path(first.reference).suffix == ".wav"
    assert Path(first.reference).parent == cache
    assert found.left_out == {"1 images and 1 sounds": 1, "options that do not name the candidates one by one": 1}
    assert len(list(cache.iterdir())) == 8  # of the two items; nothing of those left out
    assert read(tmp_path / "odyssey", "av-odyssey-candidates") == found


# Mappings of one's own

TOML = {
    "id": "n",
    "options": ["a", "b"],
    "answer": "right",
    "first_answer": 1,
    "audio": "{folder}/{n}.wav",
    "task": "kind?",
}


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_mapping_of_ones_own(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    path.write_text(yaml.safe_dump(TOML) if suffix == "yaml" else json.dumps(TOML))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"n": 3, "question": "Which?", "a": "low", "b": "high", "right": 2, "folder": "wavs"}))
    (sample,) = read(rows, path).samples
    assert (sample.options, sample.answer, sample.audio) == (["low", "high"], "B", str(tmp_path / "wavs/3.wav"))
    assert DataMapping.from_dict(mapping_of(path).to_dict()) == mapping_of(path)


def test_a_mapping_may_be_registered(tmp_path, monkeypatch):
    monkeypatch.setattr("avflow.data.layouts.MAPPINGS", dict(MAPPINGS))
    register("mine", DataMapping(video="clip"))
    assert mapping_of("mine").video == "clip"
    with pytest.raises(InputError, match="'mine' is there already"):
        register("mine", DataMapping(video="clip"))


@pytest.mark.parametrize(
    "values, says",
    [
        ({"video": "v", "chioces": "x"}, r"unknown keys \['chioces'\]"),
        ({"options": "x"}, "names no media"),
        ({"images": ["a"]}, "both images and audios, or neither"),
        ({"images": ["a"], "audios": ["b"], "reference": "c"}, "leave one pair out"),
        ({"video": 3}, "video is 3: write a column's name"),
        ({"video": ["a", "b"]}, "video is a list"),
    ],
)
def test_a_bad_mapping_says_what_is_wrong(tmp_path, values, says):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=says):
        mapping_of(path)


def test_mappings_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "text.yaml").write_text("just text")
    for name, says in [
        ("broken.yaml", "neither YAML nor JSON"),
        ("text.yaml", "holds no keys"),
        ("nowhere.yaml", "cannot read the mapping"),
        ("worldsence", "no mapping is called .*worldsense"),
    ]:
        with pytest.raises(InputError, match=says):
            mapping_of(name if "." not in name else tmp_path / name)


# Bad data

ROW = {"id": "1", "question": "Which?", "options": ["red", "blue"], "answer": "A", "video": "v.mp4"}


@pytest.mark.parametrize(
    "rows, says",
    [
        ([{k: v for k, v in SPEAKER.items() if k != "choices"}], "row 0: no column 'choices': there are"),
        ([SPEAKER, SPEAKER], "row 1: id 'q7' is that of .*row 0 too: ids must differ"),
        ([SPEAKER | {"answer": "E"}], "row 0: .*neither a letter A to D"),
        ([SPEAKER | {"choices": "A"}], "row 0: .*1 options"),
        ([SPEAKER | {"audio_visual_path": None}], "row 0: .*no video, audio or image"),
        ([SPEAKER | {"audio_visual_path": 3}], "row 0: a path must be text"),
        ([SPEAKER | {"question_id": None}], "row 0: .*id is empty"),
        ([["a"]], "row 0 holds list"),
        ([], "holds no sample"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, says):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=says):
        read(path, "av-speakerbench")


def test_a_missing_column_of_a_parquet_file_is_told_before_a_row_is_read(tmp_path):
    with pytest.raises(InputError, match="test.parquet: no column 'choices': there are .*'visual_path'"):
        read(
            parquet(tmp_path / "test.parquet", [{k: v for k, v in SPEAKER.items() if k != "choices"}]),
            "av-speakerbench",
        )


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("a.json", b"{", "not JSON .*line 1"),
        ("a.json", b'"x"', "write a list of objects"),
        ("a.jsonl", b"\n{", "not JSON .*line 2"),
        ("a.json", b"\xff\xfe\x00", "not UTF-8"),
        ("a.parquet", b"PAR1", "cannot read the samples"),
        ("a.txt", b"", "its ending is none of"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=says):
        read(tmp_path / name, "avflow", media=tmp_path)


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        read(tmp_path / "nowhere.json", "tvbench")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file of samples"):
        read(tmp_path / "empty", "tvbench")


def test_embedded_bytes_of_an_unknown_kind_are_refused(tmp_path):
    row = odyssey(1, 4, 1, ["A: image 1", "B: image 2", "C: image 3", "D: image 4"])
    row["image_2"] = {"bytes": b"nothing known", "path": None}
    with pytest.raises(InputError, match="row 0: a file of 13 bytes .* no known kind"):
        read(parquet(tmp_path / "a.parquet", [row]), "av-odyssey-candidates")


def test_plain_rows_need_no_mapping(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([ROW, ROW | {"id": "2", "video": None, "image": "i.png"}]))
    assert [s.image for s in read(tmp_path / "a.json").samples] == [None, str(tmp_path / "i.png")]


# Hugging Face


def test_hugging_face_data_sets(tmp_path, cache, monkeypatch):
    datasets = pytest.importorskip(
        "datasets", reason="the package datasets is not installed: pip install 'avflow[data]'"
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    row = odyssey(1, 4, 1, ["A: the third image", "B: the second image", "C: the first image", "D: the fourth image"])
    one = datasets.Dataset.from_list([row])
    for n in range(1, 5):
        one = one.cast_column(f"image_{n}", datasets.Image())  # would be decoded, and fail, where it is read carelessly
    one.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "splits")
    datasets.DatasetDict({"train": one, "dev": one}).save_to_disk(tmp_path / "unclear")
    (expected,) = read(parquet(tmp_path / "rows" / "a.parquet", [row]), "av-odyssey-candidates").samples
    assert read(tmp_path / "saved", "av-odyssey-candidates").samples == [expected]
    assert read(tmp_path / "splits", "av-odyssey-candidates").samples == [expected]
    assert read(f"hf:{tmp_path / 'rows'}", "av-odyssey-candidates").samples == [expected]
    with pytest.raises(InputError, match=r"has the splits \['dev', 'train'\]: name one"):
        read(tmp_path / "unclear", "av-odyssey-candidates")
    with pytest.raises(InputError, match="saved: no column 'audio_visual_path': there are .*'image_1'"):
        read(tmp_path / "saved", "av-speakerbench")
    with pytest.raises(InputError, match="write hf:owner/name"):
        read("hf:nonsense", "av-odyssey-candidates")


def test_without_the_package_the_mend_is_told(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'avflow\[data\]'"):
        read("hf:owner/name", "av-odyssey-candidates")


# The choice


def many(n=50):
    return [Sample(**ROW | {"id": str(i), "task": "even" if i % 2 == 0 else "odd"}) for i in range(n)]


def test_choosing_tasks_a_limit_and_an_order():
    samples = many()
    assert choose(samples) == samples
    assert [s.id for s in choose(samples, limit=3)] == ["0", "1", "2"]
    assert {s.task for s in choose(samples, tasks=["odd"])} == {"odd"}
    mixed = choose(samples, shuffle_seed=1)
    assert mixed != samples and sorted(mixed, key=lambda s: int(s.id)) == samples
    assert mixed == choose(list(reversed(samples)), shuffle_seed=1) != choose(samples, shuffle_seed=2)
    assert choose(samples, limit=5, shuffle_seed=1) == choose(samples, limit=9, shuffle_seed=1)[:5]
    assert choose(samples[:20], limit=50, shuffle_seed=1) == [s for s in mixed if int(s.id) < 20]
    with pytest.raises(InputError, match=r"no sample is of the task 'prime': there are \['even', 'odd'\]"):
        choose(samples, tasks=["odd", "prime"])


def test_a_sweep_over_a_data_set_is_extended_by_a_larger_limit(tmp_path, capsys):
    import tiny_job

    from avflow.results.results import read as read_run
    from avflow.runs.folder import read_config
    from avflow.runs.loop import run

    task = {"question": "What?", "candidates": ["A. a bell", "B. a horn"], "answer": "B", "task_type": "Recognition"}
    videos = {f"v{n}": {"domain": "Music", "task0": task, "task1": task | {"task_type": "Counting"}} for n in range(6)}
    path = tmp_path / "worldsense_qa.json"
    path.write_text(json.dumps(videos))
    options = dict(data="worldsense", tasks=["Counting"], shuffle_seed=3)
    run(tiny_job.job(path, limit=2, **options), tmp_path / "run", quiet=True)
    first = read_run(tmp_path / "run").table
    outcome = run(tiny_job.job(path, limit=4, **options), tmp_path / "run", quiet=True)
    table = read_run(tmp_path / "run").table
    assert outcome.skipped == 2 and table.slice(0, first.num_rows).equals(first)
    assert set(table["task"].to_pylist()) == {"Counting"} and len(table["prompt"].unique()) == 4
    config = read_config(tmp_path / "run")
    assert config["data"]["video"] == "videos/{video}.mp4" and "limit" not in config
    with pytest.raises(InputError, match="another configuration .data"):
        path.write_text(json.dumps([task | {"index": 0, "video": "v0"}]))
        mine = tmp_path / "mine.yaml"
        mine.write_text(yaml.safe_dump(MAPPINGS["worldsense"].to_dict() | {"video": "clips/{video}.mp4"}))
        run(tiny_job.job(path, data=str(mine)), tmp_path / "run", quiet=True)


def test_the_command_line_reads_data_sets(tmp_path, monkeypatch):
    import tiny_job
    from typer.testing import CliRunner

    import avflow.models
    from avflow.cli import main as cli

    loaded = tiny_job.job(tmp_path).load()
    monkeypatch.setattr(avflow.models, "load", lambda name, device, dtype: loaded)
    item = odyssey(1, 4, 1, ["A: image 2", "B: image 1", "C: image 3", "D: image 4"])
    parquet(tmp_path / "a.parquet", [item, odyssey(2, 1, 1, ["A: 1", "B: 2", "C: 3", "D: 4"])])
    arguments = [
        str(tmp_path / "a.parquet"),
        "--data",
        "av-odyssey-candidates",
        "--out",
        str(tmp_path / "run"),
        "--select",
        "all",
    ]
    said = CliRunner().invoke(cli.app, ["sweep", "m", *arguments, "--knockouts", "video->last", "--task", "Tone"])
    assert said.exit_code == 0 and "1 swept" in said.stdout, said.output
    assert "1 rows are left out: 1 images and 1 sounds" in said.stderr
    said = CliRunner().invoke(cli.app, ["sweep", "m", *arguments, "--task", "tone"])
    assert said.exit_code == 2 and "no sample is of the task 'tone': there are ['Tone']" in said.stderr
