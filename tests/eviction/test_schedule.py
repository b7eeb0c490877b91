"""A schedule is what was written, refuses what cannot be run, and survives a file."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

import avflow
from avflow import Changed, EveryNth, EvictionSchedule, KeepAll, KeepNone, Step, TopK


def test_steps_are_sorted_and_equal_in_both_forms():
    schedule = EvictionSchedule({"video": 26, "audio": 12})
    assert schedule.steps == (Step("audio", 12), Step("video", 26)) and schedule.layers == (12, 26)
    assert schedule == EvictionSchedule([Step("video", 26, KeepNone()), Step("audio", 12)])
    assert EvictionSchedule({}).steps == ()
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert replace(schedule, model={"layers": 28}) == EvictionSchedule(schedule.steps, {"layers": 28})
    with pytest.raises(FrozenInstanceError):
        schedule.steps = ()


def test_file(tmp_path):
    steps = [
        Step("video", 2, TopK(share=0.5, by="question")),
        Step("video", 8, EveryNth(4)),
        Step("audio", 3, KeepAll()),
    ]
    schedule = EvictionSchedule(steps, model={"layers": 9}, data={"prompts": 3}, figures={"accuracy": [0.5, None]})
    schedule.save(tmp_path / "deep" / "s.json")
    assert EvictionSchedule.load(tmp_path / "deep" / "s.json") == schedule
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["s.json"]
    value = json.loads((tmp_path / "deep" / "s.json").read_text())
    assert (value["format"], value["version"]) == ("avflow-eviction-schedule", 1)


def test_a_file_with_a_rest_is_of_a_version_that_older_avflows_refuse(tmp_path):
    """They would let the group leave for good."""
    schedule = EvictionSchedule([Step("audio", 3), Step("video", 2, TopK(share=0.5), until=8)])
    schedule.save(tmp_path / "s.json")
    value = json.loads((tmp_path / "s.json").read_text())
    assert value["version"] == 2
    assert [step.get("until") for step in value["steps"]] == [8, None] and "until" not in value["steps"][1]
    assert EvictionSchedule.load(tmp_path / "s.json") == schedule


def test_layers_at_which_rows_leave_or_come_back():
    schedule = EvictionSchedule([Step("video", 2, until=8), Step("audio", 3, until=5), Step("system", 8)])
    assert schedule.layers == (2, 3, 8) and schedule.ends == (2, 3, 5, 8)
    assert [str(step) for step in schedule.steps] == [
        "video after 2 until 8",
        "audio after 3 until 5",
        "system after 8",
    ]


@pytest.mark.parametrize(
    "steps, version",
    [
        ([Step("video", 0, TopK(share=0.5, scored_in="next", of="prompt")), Step("audio", 2)], 1),
        ([Step("video", 3), Step("audio", -1)], 2),
        ([Step("video", 3, Changed(0.25))], 2),
        ([Step("video+audio", 3, TopK(share=0.5), per="second"), Step("video", 5, per=2.5)], 2),
    ],
)
def test_a_file_that_older_versions_would_misread_is_of_version_2(tmp_path, steps, version):
    path = tmp_path / "s.json"
    EvictionSchedule(steps).save(path)
    assert json.loads(path.read_text())["version"] == version
    assert EvictionSchedule.load(path) == EvictionSchedule(steps)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 3}, "version 3, this avflow reads up to 2"),
        ({"version": "1"}, "version is '1'"),
        ({"format": "other"}, "is no eviction schedule"),
        ({"steps": [{"group": "video"}]}, "a step needs group, after and keep"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "Mine"}}]}, "policy .*Mine"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "TopK", "share": 2}}]}, "TopK.share = 2"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "TopK", "rate": 2}}]}, "no field 'rate'"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "EveryNth"}}]}, "EveryNth"),
        ({"steps": [{"group": "video", "after": -2, "keep": {"policy": "KeepNone"}}]}, "Step.after = -2"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "KeepNone"}, "until": 1}]}, "Step.until = 1"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "KeepNone"}, "per": "day"}]}, "Step.per .*'day'"),
        ({"steps": [{"group": "video", "after": 1, "keep": {"policy": "KeepNone"}, "untill": 2}]}, "no field 'untill'"),
        ({"steps": 5}, "is broken"),
        ({"model": [1]}, "model must be an object"),
    ],
)
def test_bad_files(tmp_path, change, message):
    path = tmp_path / "s.json"
    EvictionSchedule({"video": 1}).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(avflow.InputError, match=message):
        EvictionSchedule.load(path)


def test_broken_files(tmp_path):
    path = tmp_path / "s.json"
    with pytest.raises(avflow.InputError, match="cannot read schedule"):
        EvictionSchedule.load(path)
    for text in ("", "{", "[]", "\xff", "[" * 50_000, '{"version": ' + "7" * 5000 + "}", '{"steps": 1, "steps": 2}'):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(avflow.InputError, match="is broken|is no eviction schedule"):
            EvictionSchedule.load(path)


def test_what_cannot_be_saved(tmp_path):
    class Mine:
        def select(self, view):
            return view.items >= 0

    with pytest.raises(avflow.InputError, match="not one of avflow's"):
        EvictionSchedule([Step("video", 1, Mine())]).save(tmp_path / "s.json")
    with pytest.raises(avflow.InputError, match="cannot be written as JSON"):
        EvictionSchedule({"video": 1}, figures={"p": float("nan")}).save(tmp_path / "s.json")
    assert not list(tmp_path.iterdir())


def test_bad_steps():
    for make, message in [
        (lambda: Step("", 1), "Step.group = ''"),
        (lambda: Step("video", True), "Step.after = True"),
        (lambda: Step("video", 1.5), "Step.after = 1.5"),
        (lambda: Step("video", 1, 0.5), "Step.keep = 0.5"),
        (lambda: Step("video", 4, until=4), "'video': Step.until = 4: pass the last layer without them, above 4"),
        (lambda: Step("video", 4, until=True), "Step.until = True"),
        (lambda: Step("video", 4, until=5.0), "Step.until = 5.0"),
        (lambda: Step("video", -2), "Step.after = -2 .* or -1"),
        (lambda: Step("video", -1, TopK(count=2)), "Step.after = -1 .* no layer has run by then"),
        (lambda: EvictionSchedule(["video"]), "schedule step 'video'"),
        (lambda: EvictionSchedule.preset("omni"), "schedule preset 'omni'"),
    ]:
        with pytest.raises(avflow.InputError, match=message):
            make()


@pytest.mark.parametrize(
    "steps, message",
    [
        ({"video": 3}, "leaves after layer 3: the model has layers 0 .. 3, .* is 2"),
        ([Step("video", 0, until=3)], r"rests until layer 3: .* is 2. .* is to leave: Step\('video', 0\)"),
        ([Step("video", 0, until=1), Step("video", 1)], "'video' rests from layer 1 to 1 .*, .* after layer 1"),
        ([Step("video", 1), Step("audio+video", 1, until=2)], "'video' rests from layer 2 to 2"),
        ([Step("video", 0, until=2), Step("media", 1, TopK(count=1), until=2)], r"\(media after 1 until 2\)"),
        ({"vidoe": 1}, "no group or alias is called 'vidoe'"),
        ({"last": 1}, "'last', which must stay"),
        ({"all": 1}, "must stay"),
        ({"video+answer": 1}, "'answer', which must stay"),
    ],
)
def test_check(qwen3, steps, message):
    with pytest.raises(avflow.InputError, match=message):
        EvictionSchedule(steps).check(qwen3)


def test_steps_that_only_touch(qwen3):
    EvictionSchedule([Step("video", 0, until=1), Step("video", 2)]).check(qwen3)
    EvictionSchedule([Step("video", 0, until=1), Step("audio", 1, until=2)]).check(qwen3)
    EvictionSchedule([Step("video", 0, TopK(share=0.5)), Step("video", 1, until=2)]).check(qwen3)


def test_check_of_the_model(qwen3):
    facts = EvictionSchedule.facts(qwen3)
    assert facts == {"model_type": "qwen3", "layers": 4, "hidden": 64}
    EvictionSchedule({"video+audio": 2, "question": 0}, model=facts).check(qwen3)
    for name in ("omni_3b_av_video", "omni_3b_interleaved"):
        with pytest.raises(avflow.InputError, match="made for a model with model_type 'qwen2_5_omni_thinker'"):
            EvictionSchedule.preset(name).check(qwen3)
