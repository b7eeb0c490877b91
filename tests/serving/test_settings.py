"""What an engine is told, checked before there is an engine. Needs no vLLM."""

import pytest

from avflow import Changed, EveryNth, EvictionSchedule, InputError, Step, TopK
from avflow_vllm.settings import read_settings


def read(given):
    return read_settings({"avflow": given})


@pytest.mark.parametrize("config", [None, {}, {"other": 1}, {"avflow": None}])
def test_without_the_key_there_is_nothing(config):
    assert read_settings(config) is None


def test_the_short_form():
    settings = read({"video": 26, "audio": 20})
    assert settings.boundaries == (20, 26) and settings.corrected
    assert [settings.segment(layer) for layer in (0, 20, 21, 26, 27)] == [0, 0, 1, 1, 2]
    assert settings.needs_runs() is None


def test_a_file_of_avflow_plan(tmp_path):
    path = tmp_path / "schedule.json"
    EvictionSchedule([Step("video", 3, EveryNth(2)), Step("question", 5)], model={"layers": 12}).save(path)
    settings = read({"schedule": str(path), "positions": "vllm"})
    assert settings.boundaries == (3, 5) and not settings.corrected and settings.facts == {"layers": 12}
    assert settings.needs_runs().group == "video"


def test_positions_alone():
    settings = read({})
    assert settings.boundaries == () and settings.corrected


def test_untried_is_no_group():
    assert not read({"video": 2}).untried
    settings = read({"video": 2, "untried": True})
    assert settings.untried and settings.boundaries == (2,)


def test_a_step_that_is_switched_off_is_no_boundary(tmp_path):
    from avflow import KeepAll

    path = tmp_path / "schedule.json"
    EvictionSchedule([Step("video", 3, KeepAll())]).save(path)
    assert read({"schedule": str(path)}).boundaries == ()


def test_a_group_of_ones_own():
    settings = read({"subtitles": 4})
    assert "subtitles" in settings.table() and settings.needs_runs().group == "subtitles"


@pytest.mark.parametrize(
    "given, message",
    [
        ("schedule.json", 'pass {"schedule"'),
        ({"schedule": 3}, 'pass {"schedule"'),
        ({"schedule": {"video": 1}, "audio": 2}, "give one"),
        ({"video": 2, "decode": "drop"}, 'no decode="drop"'),
        ({"video": 2, "positions": "mine"}, "positions"),
        ({"video": 2, "untried": "yes"}, "untried"),
        ({"video": -2}, "pass a layer"),
        ({"video": "2"}, "pass a layer"),
        ({"last": 2}, "must stay"),
        ({"all": 2}, "must stay"),
        ({"schedule": "/nowhere/schedule.json"}, "schedule"),
    ],
)
def test_refused(given, message):
    with pytest.raises(InputError, match=message):
        read(given)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"until": 4}, "'video' after layer 1 has until = 4: in vLLM what leaves does not come back"),
        ({"per": "second"}, "'video' after layer 1 has per = 'second': in vLLM a step counts"),
    ],
)
def test_rests_and_parts_are_refused_with_a_reason(more, message, tmp_path):
    path = tmp_path / "schedule.json"
    EvictionSchedule([Step("video", 1, EveryNth(2), **more)]).save(path)
    with pytest.raises(InputError, match=message):
        read({"schedule": str(path)})


def test_before_layer_0():
    settings = read({"video": -1, "audio": 5})
    assert settings.boundaries == (-1, 5)
    assert [settings.segment(layer) for layer in (0, 5, 6)] == [1, 1, 2]


def test_what_the_model_computes_is_refused_by_name(tmp_path):
    path = tmp_path / "schedule.json"
    EvictionSchedule([Step("video", -1, Changed(share=0.5))]).save(path)
    with pytest.raises(InputError, match=r"'video' before layer 0 keeps by Changed.*before there are embeddings"):
        read({"schedule": str(path)})
    EvictionSchedule([Step("video", 1, TopK(share=0.5))]).save(path)
    with pytest.raises(InputError, match=r"'video' after layer 1 keeps by TopK\(share=0.5.*no attention scores"):
        read({"schedule": str(path)})
