"""Whatever Python hands in by mistake, the public API answers with an error of its own, which names the value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from api_calls import SAMPLE, arguments, calls

import avflow
import avflow.data
from avflow.errors import AvflowError

HUGE = 10**5000  # an integer that Python does not even print
WRONG = {
    "none": None,
    "bool": True,
    "int": 3,
    "huge": HUGE,
    "negative": -(10**30),
    "nan": float("nan"),
    "inf": float("inf"),
    "text": "\ud800",
    "word": "no such thing",
    "bytes": b"\xff",
    "dict": {"a": {}},
    "list": [None, {}],
    "nested": [[["x"]]],
    "set": {1},
    "array": np.zeros((2, 2)),
    "tensor": torch.zeros(2, 2),
    "array without axes": np.array(3),
    "tensor without axes": torch.tensor(3),
    "object": object(),
    "class": dict,
}


@pytest.mark.parametrize("name, argument", [pytest.param(*one, id="-".join(one)) for one in arguments()])
def test_a_wrong_value_is_taken_or_named(qwen3, tmp_path, monkeypatch, name, argument):
    """No TypeError, AttributeError or OverflowError from within, and no value that comes back as another one."""
    monkeypatch.chdir(tmp_path)
    function, good = calls(qwen3)[name]
    raw = []
    for kind, value in WRONG.items():
        try:
            function(**{**good, argument: value})
        except AvflowError as error:
            if not str(error).strip() or len(str(error)) > 2000:
                raw.append(f"{kind}: a message of {len(str(error))} characters")
        except Exception as error:
            raw.append(f"{kind}: {type(error).__name__}: {str(error)[:200]}")
    assert raw == [], "\n".join([f"{name}({argument}=...):", *raw])


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: avflow.Knockout("last", "last", cut_self="no"), "Knockout.cut_self = 'no': use true or false"),
        (lambda: avflow.Knockout("video", "last", both=1), "Knockout.both = 1: use true or false"),
        (lambda: avflow.Knockout(None, "last"), "Knockout.source = None: pass a group"),
        (
            lambda: avflow.Sample(**SAMPLE | {"use_audio_in_video": 1}),
            "use_audio_in_video is 1: use true, false or null",
        ),
        (lambda: avflow.Sample(**SAMPLE | {"id": None}), "id must be a text or an integer, got None"),
        (
            lambda: avflow.Prompt(**{"input_ids": [1], "groups": "last", "answer_ids": [1]}),
            "groups is 'last': pass a list",
        ),
        (lambda: avflow.EveryNth(10**30), "EveryNth.n = 1000000000000000000000000000000: give an integer of 1 .. "),
        (lambda: avflow.SweepRequest(window=10**30), "window width 10+: pass a number of layers"),
        (lambda: avflow.SweepRequest(memory="9" * 400), "memory = '9+.*: pass a positive amount, of less than"),
        (lambda: avflow.EvictionSchedule(range(10**12)), "schedule step 0: pass"),
        (lambda: avflow.SweepRequest(window=range(1, 10**12)), "window width [0-9]+: pass a number of layers"),
        (lambda: avflow.SweepRequest(knockouts=None), "knockouts = None: pass a preset's name"),
        (lambda: avflow.data.choose([avflow.Sample(**SAMPLE)], limit=HUGE), "limit is a very long int"),
        (lambda: avflow.sweep("tiny-omni", []), "model = 'tiny-omni': pass what avflow.load or avflow.wrap gives"),
    ],
)
def test_the_error_names_the_value_and_the_mend(make, says):
    with pytest.raises(avflow.InputError, match=says):
        make()


def test_one_task_may_be_given_as_a_text():
    samples = [avflow.Sample(**SAMPLE | {"task": "color"}), avflow.Sample(**SAMPLE | {"id": "1", "task": "pitch"})]
    assert avflow.data.choose(samples, tasks="color") == samples[:1]


def test_a_path_in_the_home_folder_is_expanded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "s.jsonl").write_text('{"id": "1", "question": "?", "answer": "x", "video": "v.mp4"}\n')
    for path in ("~/s.jsonl", Path("~/s.jsonl")):
        (sample,) = avflow.data.read(path).samples
        assert sample.video == str(tmp_path / "v.mp4")
    avflow.EvictionSchedule({"video": 1}).save("~/schedule.json")
    assert avflow.EvictionSchedule.load(tmp_path / "schedule.json").layers == (1,)


def test_numbers_of_numpy_are_numbers(qwen3, tmp_path):
    """They come back as Python's, which a file's meta and config.yaml can hold."""
    prompt = avflow.Prompt(**{"input_ids": [1, 2, 3], "groups": ["video", "question_text", "last"], "answer_ids": [7]})
    two = np.int64(2)
    results = [
        avflow.sweep_text(qwen3, prompt, "video->last", layers=[0], window=1, max_new_tokens=two),
        avflow.sinks(qwen3, prompt, among="question", times=np.float32(2)),
        avflow.pathways(qwen3, prompt, {"question->last": None}, random=two, seed=two),
        avflow.attention_share(qwen3, prompt, tokens="answer", generate=two),
    ]
    for n, result in enumerate(results):
        result.save(tmp_path / f"{n}.parquet")
        assert avflow.read(tmp_path / f"{n}.parquet").table.equals(result.table)
    steps = [avflow.Step("video", 1, avflow.EveryNth(two)), avflow.Step("video", 2, avflow.TopK(count=two))]
    avflow.EvictionSchedule(steps).save(tmp_path / "schedule.json")
    assert avflow.EvictionSchedule.load(tmp_path / "schedule.json").steps == tuple(steps)
