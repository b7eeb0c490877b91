"""Whatever Python hands in by mistake, the public API answers with an error of its own, which names the value."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import avflow
import avflow.data
from avflow.data.prepare import as_prompts
from avflow.errors import AvflowError
from avflow.planning.plan_eviction import PlanRequest

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
    "object": object(),
    "class": dict,
}
SAMPLE = dict(id="0", question="?", options=["a", "b"], answer="A", video="v.mp4")
ITEM = dict(id="0", question="?", answer="A", candidates=["1.png", "2.png"], reference="r.wav")


def calls(model):
    """Name -> (callable, good arguments); a call with the good ones alone must work."""
    prompt = tiny.text_prompt(8, id="p")
    rows = {"input_ids": [1, 2, 3], "groups": ["video", "question_text", "last"], "answer_ids": [7]}
    step = avflow.Step("question_text", 0)
    return {
        "Sample": (avflow.Sample, SAMPLE),
        "item": (avflow.Sample, ITEM),
        "read_jsonl": (avflow.Sample.read_jsonl, {}),
        "Prompt": (avflow.Prompt, rows),
        "Knockout": (avflow.Knockout, {"source": "video", "target": "last"}),
        "Knockout.parse": (avflow.Knockout.parse, {"text": "video->last"}),
        "Step": (avflow.Step, {"group": "video", "after": 1}),
        "EveryNth": (avflow.EveryNth, {"n": 2}),
        "TopK": (avflow.TopK, {"count": 2}),
        "EvictionSchedule": (avflow.EvictionSchedule, {"steps": [step]}),
        "EvictionSchedule.load": (avflow.EvictionSchedule.load, {}),
        "EvictionSchedule.preset": (avflow.EvictionSchedule.preset, {"name": "omni_3b_av_video"}),
        "SweepRequest": (avflow.SweepRequest, {}),
        "groups.add": (model.groups.add, {"name": "video"}),
        "groups.expand": (model.groups.expand, {"name": "video"}),
        "data.read": (avflow.data.read, {"source": "nowhere.json"}),
        "data.choose": (avflow.data.choose, {"samples": []}),
        "data.mapping_of": (avflow.data.mapping_of, {"name": "tvbench"}),
        "data.DataMapping": (avflow.data.DataMapping, {"video": "v"}),
        "as_prompts": (as_prompts, {"model": model, "given": prompt}),
        "sweep": (avflow.sweep, {"model": model, "prompts": prompt, "knockouts": "video->last", "select": "all"}),
        "sweep_text": (avflow.sweep_text, {"model": model, "prompts": prompt, "knockouts": "video->last"}),
        "estimate": (avflow.estimate, {"model": model, "prompts": prompt}),
        "attention_share": (avflow.attention_share, {"model": model, "prompts": prompt}),
        "attention_map": (avflow.attention_map, {"model": model, "prompt": prompt}),
        "answer_lens": (avflow.answer_lens, {"model": model, "prompts": prompt}),
        "sinks": (avflow.sinks, {"model": model, "prompts": prompt, "among": "question"}),
        "mark_sinks": (avflow.mark_sinks, {"model": model, "prompt": prompt, "tokens": [0]}),
        "pathways": (avflow.pathways, {"model": model, "prompts": prompt, "keep": {"question->last": None}}),
        "PlanRequest": (PlanRequest, {}),
        "plan_eviction": (plan_of, {"model": model, "prompts": prompt}),
        "generate": (avflow.generate, {"model": model, "prompt": prompt}),
        "prepare": (model.prepare, {}),
        "read": (avflow.read, {}),
        "knockout": (
            lambda **given: avflow.knockout(**given).__enter__(),
            {"model": model, "knockouts": "video->last"},
        ),
        "evict": (lambda **given: avflow.evict(**given).__enter__(), {"model": model, "schedule": {"video": 1}}),
    }


def plan_of(model, prompts):
    return avflow.plan_eviction(model, prompts, groups=["question_text"])


SIGNATURES = {"knockout": avflow.knockout, "evict": avflow.evict}
# Arguments that are objects of other packages or the user's own, taken as they are.
FREE = {("Prompt", "sample"), ("Prompt", "model_inputs"), ("Prompt", "inputs_embeds"), ("as_prompts", "again")}
FREE |= {("sweep", "progress"), ("plan_eviction", "progress"), ("as_prompts", "model")}  # only asked whether it is true


def wrong_calls():
    for name, (function, _) in calls(_NoModel()).items():
        parameters = inspect.signature(SIGNATURES.get(name, function)).parameters.values()
        for one in parameters:
            if (name, one.name) not in FREE and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                yield pytest.param(name, one.name, id=f"{name}-{one.name}")


class _NoModel:
    """For the names of the calls alone."""

    from avflow.prompts.groups import GroupTable as _Table

    groups = _Table()
    prepare = avflow.Model.prepare


@pytest.mark.parametrize("name, argument", list(wrong_calls()))
def test_a_wrong_value_is_taken_or_named(qwen3, tmp_path, monkeypatch, name, argument):
    """No TypeError, AttributeError or OverflowError from within, and no value that comes back as another one."""
    monkeypatch.chdir(tmp_path)
    if argument == "self":
        pytest.skip("a method's own object")
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
