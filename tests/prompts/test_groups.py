"""Token groups, their aliases, and user groups."""

from __future__ import annotations

import numpy as np
import pytest

import avflow
from avflow.prompts.groups import ALIASES, BASE_GROUPS, GroupTable


def test_base_groups_and_aliases():
    table = GroupTable()
    assert table.names == list(BASE_GROUPS) and len(table) == 14
    assert table.members("question") == ("question_text", "option_correct", "option_incorrect")
    assert table.members("options") == ("option_correct", "option_incorrect")
    assert table.members("candidates") == ("candidate_correct", "candidate_incorrect")
    assert table.members("media") == ("video", "audio", "image")
    assert set(table.members("text")) == {
        "system",
        *table.members("question"),
        "instruction",
        "template",
        "last",
        "answer",
    }
    assert table.members("all") == BASE_GROUPS
    assert table.members("video + media") == ("video", "audio", "image")
    assert set().union(*ALIASES.values()) <= set(BASE_GROUPS)


def test_words_and_ids():
    table = GroupTable()
    assert table.expand("video") == 1 << table["video"]
    assert table.expand("video+last") == 1 << table["video"] | 1 << table["last"]
    assert table.expand("all") == (1 << 14) - 1
    ids = table.ids(["last", "video", "video"])
    assert ids.dtype == np.int32 and ids.tolist() == [table["last"], table["video"], table["video"]]
    assert table.ids([]).tolist() == []


def test_user_groups():
    table = GroupTable()
    assert table.add("speech") == 14 and table.add("speech") == 14 and table.add("video") == table["video"]
    assert "speech" in table.members("all") and "speech" not in table.members("media")
    for number in range(49):
        table.add(f"g{number}")
    assert table.expand("all") == 2**64 - 1
    with pytest.raises(avflow.InputError, match="64 groups are the most"):
        table.add("one_more")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a->b", "x-y", 3])
def test_names_that_a_rule_could_not_hold(name):
    with pytest.raises(avflow.InputError, match="letters, digits and underscores"):
        GroupTable().add(name)


def test_unknown_names():
    table = GroupTable()
    with pytest.raises(avflow.InputError, match=r"no group is called 'vidoe'; .*model.groups.add\('vidoe'\)"):
        table["vidoe"]
    with pytest.raises(avflow.InputError, match="no group or alias is called 'vidoe'"):
        table.expand("audio+vidoe")
    with pytest.raises(avflow.InputError, match="'media' is an alias"):
        table.add("media")


def test_a_user_group_in_a_sweep(qwen3):
    import oracle
    import tiny

    model = avflow.wrap(qwen3.hf)
    prompt = tiny.text_prompt(64)
    names = ["speech" if g == "audio" else g for g in prompt.groups]
    own = avflow.Prompt(input_ids=prompt.input_ids, groups=names, items=prompt.items, answer_ids=[7], id="own")
    with pytest.raises(avflow.InputError, match="no group is called 'speech'"):
        avflow.sweep(model, own, "video->last", select="all")
    model.groups.add("speech")
    rows = avflow.sweep(model, own, "speech->last", window=1, select="all").table.to_pylist()
    audio = avflow.Knockout("audio", "last", name="speech->last")
    assert oracle.check_rows(qwen3.hf, prompt, [audio], rows, window=1) > 1e-4
