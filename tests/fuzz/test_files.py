"""Files that users write, with anything in them: read, or an error of ours that names it; nothing else, and no end."""

from __future__ import annotations

import csv
import io
import json
import pickle

import pytest
import yaml
from fuzzing import TEXTS, VALUES, fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st

import avflow
import avflow.data
from avflow import EveryNth, EvictionSchedule, Step, TopK
from avflow.errors import AvflowError

SAMPLE = dict(id="0", question="Which?", options=["a", "b"], answer="A", video="v.mp4", task="t", start=0.5, end=2)
ITEM = dict(id="1", question="Which?", answer="B", candidates=["1.png", "2.png"], reference="r.wav")
OPEN = dict(id=2, question="What?", answer="red", audio="a.wav", use_audio_in_video=None)
MAPPING = dict(
    id="id", question="{question} {task?}", options=["a", "b"], first_answer=1, answer="answer", video="v/{id}.mp4"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def as_json(value) -> str:
    return json.dumps(value)  # NaN and infinity too, as many programs write them


def read(call, *arguments):
    """What it gives; None after an error of ours, whose message is of a reasonable length and can be printed."""
    try:
        return call(*arguments)
    except AvflowError as error:
        assert 5 < len(str(error)) < 3000
        str(error).encode()
        return None


def holds(samples) -> None:
    """What was read is whole: it can be written, and is the same when it is read again."""
    for sample in samples:
        again = avflow.Sample(**json.loads(sample.to_json()))
        assert again == sample


DIGITS = as_json(SAMPLE).replace("0.5", "5" * 5000)  # more than Python reads
LINES = st.one_of(
    mutated(SAMPLE).map(as_json),
    mutated(ITEM).map(as_json),
    mutated(OPEN).map(as_json),
    VALUES.map(as_json),
    st.sampled_from(
        [as_json(SAMPLE), as_json(ITEM), as_json(OPEN), "", "{", "[" * 5000, DIGITS, '{"id": 1, "id": 2}', "\ufeff{}"]
    ),
    st.text(max_size=30),
)
BYTES = st.one_of(
    st.lists(LINES, max_size=4).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass")),
    st.binary(max_size=40),
    st.tuples(st.integers(0, 400), st.binary(max_size=3)).map(
        lambda cut: as_json(SAMPLE).encode()[: cut[0]] + cut[1] + as_json(SAMPLE).encode()[cut[0] :]
    ),
)


@fuzz(150)
@given(data=BYTES)
def test_samples(folder, data):
    path = folder / "s.jsonl"
    path.write_bytes(data)
    if found := read(avflow.Sample.read_jsonl, path):
        holds(found)
    (folder / "s.json").write_bytes(data)
    read(avflow.data.read, folder / "s.json")


@st.composite
def tables(draw):
    columns = draw(st.lists(TEXTS, max_size=3)) + ["id", "question", "answer", "a", "b", "task", "video"]
    rows = draw(st.lists(st.lists(TEXTS | st.sampled_from(["x", "1", "2", "A"]), max_size=11), max_size=4))
    out = io.StringIO()
    csv.writer(out).writerows([draw(st.permutations(columns)), *rows])
    return out.getvalue().encode(errors="surrogatepass")


@fuzz(100)
@given(data=tables() | st.binary(max_size=60), mapping=st.none() | mutated(MAPPING) | st.just(MAPPING))
def test_tables(folder, data, mapping):
    (folder / "t.csv").write_bytes(data)
    chosen = (
        None
        if mapping is None
        else read(avflow.data.DataMapping.from_dict, mapping)
        if isinstance(mapping, dict)
        else None
    )
    if found := read(avflow.data.read, folder / "t.csv", chosen):
        holds(found.samples)


@fuzz(150)
@given(values=mutated(MAPPING) | st.just(MAPPING), row=mutated(SAMPLE), data=st.none() | BYTES)
def test_mappings(folder, values, row, data):
    path = folder / "m.yaml"
    text = yaml.safe_dump(values, allow_unicode=False) if data is None else None
    path.write_bytes(text.encode(errors="surrogatepass") if text is not None else data)
    mapping = read(avflow.data.DataMapping.load, path)
    if mapping is None:
        return
    assert avflow.data.DataMapping.from_dict(mapping.to_dict()) == mapping
    if isinstance(row, dict):
        (folder / "r.json").write_text(as_json([row]), errors="surrogatepass")
        if found := read(avflow.data.read, folder / "r.json", mapping):
            holds(found.samples)


STEPS = [Step("video", 1), Step("audio", 0, EveryNth(2)), Step("question", 2, TopK(share=0.5))]
MODEL = {"model_type": "qwen3", "layers": 4, "hidden": 64}


@pytest.fixture(scope="module")
def schedule(folder):
    EvictionSchedule(STEPS, MODEL, {"samples": 3}, {"accuracy": 1.0}).save(folder / "whole.json")
    return json.loads((folder / "whole.json").read_text())


@fuzz(200)
@given(data=st.data())
def test_schedules(folder, schedule, qwen3, data):
    path = folder / "schedule.json"
    text = data.draw(mutated(schedule).map(as_json) | BYTES)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    found = read(EvictionSchedule.load, path)
    if found is None:
        return
    read(found.check, qwen3)
    if read(found.save, folder / "again.json") is None and (folder / "again.json").exists():
        assert EvictionSchedule.load(folder / "again.json") == found
        (folder / "again.json").unlink()


@fuzz(150)
@given(
    steps=mutated({"video": 1, "audio+question": 2}) | st.lists(st.sampled_from(STEPS), max_size=3) | VALUES,
    rest=VALUES,
)
def test_schedules_in_python(qwen3, steps, rest):
    found = read(EvictionSchedule, steps)
    read(EvictionSchedule, {"video": 1}, rest, rest, rest)
    for policy in (EveryNth, TopK, lambda n: TopK(share=n), lambda n: TopK(count=2, by=n)):
        read(policy, rest)
    if found is not None:
        assert pickle.loads(pickle.dumps(found)) == found
        read(found.check, qwen3)
