"""Knockouts: text forms, names, presets, windows, and the cuts they become."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

import avflow
from avflow.knockouts.presets import as_knockouts, preset
from avflow.knockouts.sides import group_names
from avflow.knockouts.windows import layer_list, window
from avflow.prompts.groups import GroupTable

TABLE = GroupTable()


def test_a_knockout_is_a_frozen_value():
    one = avflow.Knockout(["video", "audio"], "last", heads=[3, 1, 3], random_share=0.5, seed=7)
    assert (one.source, one.heads) == ("video+audio", (1, 3)) and avflow.Knockout("video", "last", heads=2).heads == (
        2,
    )
    assert pickle.loads(pickle.dumps(one)) == one and hash(replace(one)) == hash(one)
    assert replace(one, seed=8, name="") == avflow.Knockout("video+audio", "last", "all", (1, 3), False, 0.5, 8)
    with pytest.raises(FrozenInstanceError):
        one.seed = 3


def test_text_forms():
    one = avflow.Knockout.parse("video->question")
    assert (one.source, one.target, one.both, one.scope) == ("video", "question", False, "all")
    both = avflow.Knockout.parse(" audio <-> video ")
    assert both.edges == (("audio", "video"), ("video", "audio")) and both.name == "audio<->video"
    cross = avflow.Knockout.parse("cross:video")
    assert cross == avflow.Knockout("video", "video", scope="other_items") and cross.name == "cross:video"
    own = avflow.Knockout.parse("last->last (self)")
    assert own.cut_self and own.name == "last->last (self)"
    assert avflow.Knockout.parse("video+audio -> last").source == "video+audio"
    assert avflow.Knockout(["video", "audio"], "last") == avflow.Knockout("video + audio", "last")
    for text in ("video->question", "audio<->video", "cross:video", "last->last (self)"):
        assert avflow.Knockout.parse(text).name == text


@pytest.mark.parametrize("text", ["video", "video=>last", "->last", "video->", "cross:", "a->b->c", "cross video", ""])
def test_texts_of_no_form(text):
    with pytest.raises(avflow.InputError, match='write "video->question"'):
        avflow.Knockout.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("audio+video->last", "video+audio->last"),
        ("object+options+video->answer + last", "video+options+object->last+answer"),
        ("b+a+all->last", "all+a+b->last"),
        ("audio[2]+video[3,1]+audio[0]->last", "video[1,3]+audio[0]+audio[2]->last"),
        ("video+video->last", "video->last"),
        ("audio+video<->question", "video+audio<->question"),
        ("cross:audio+video", "cross:video+audio"),
    ],
)
def test_one_sum_has_one_name(text, name):
    one = avflow.Knockout.parse(text)
    assert one.name == name and avflow.Knockout.parse(name) == one
    if "all" not in text and "object" not in text:
        source = text.partition("->")[0].partition("<->")[0].removeprefix("cross:")
        assert TABLE.expand(group_names(one.source)) == TABLE.expand(group_names(source))
    assert [k.name for k in as_knockouts([text])] == [name]


def test_sums_that_are_one_are_one_cell():
    with pytest.raises(avflow.InputError, match="twice"):
        as_knockouts(["video+audio->last", "audio+video->last"])
    assert avflow.PatchSite("audio+video") == avflow.PatchSite("video+audio")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("video<->audio", "audio<->video"),
        ("question<->video[1]", "video[1]<->question"),
        ("last<->question_text (heads 0)", "question_text<->last (heads 0)"),
        ("reference<->candidates (x 2)", "candidates<->reference (x 2)"),
        ("object<->video (random 0.5, seed 1)", "video<->object (random 0.5, seed 1)"),
        ("video<->all", "video<->all"),
    ],
)
def test_a_path_both_ways_has_one_name(text, name):
    (one,), (same,) = as_knockouts(text), as_knockouts(name)
    assert one.name == same.name == name and one == same and hash(one) == hash(same)
    with pytest.raises(avflow.InputError, match="twice"):
        as_knockouts([text, name] if text != name else [text, "all<->video"])


def test_items_of_the_source_stay_its_own():
    one = avflow.Knockout("video", "audio", items=[2], both=True)
    assert one.name == "audio<->video[2]" and one == avflow.Knockout("audio", "video[2]", both=True)
    assert avflow.Knockout("video", "audio") != avflow.Knockout("audio", "video")
    assert set(one.edges) == {("audio", "video[2]"), ("video[2]", "audio")}


def test_names_tell_variants_apart():
    names = [
        avflow.Knockout("video", "last", **more).name
        for more in ({}, {"heads": 3}, {"heads": (1, 0)}, {"cut_self": True}, {"random_share": 0.5}, {"both": True})
    ] + [avflow.Knockout("video", "last", random_share=0.5, seed=1).name, avflow.Knockout("a", "b", name="mine").name]
    assert len(set(names)) == len(names)
    assert "video->last (heads 0,1)" in names and names[-1] == "mine"


def test_cuts():
    cuts = avflow.Knockout("audio", "video", both=True, heads=(0, 5)).cuts(TABLE, streams=(3, 4))
    assert [(c.source, c.target) for c in cuts] == [
        (TABLE.expand("audio"), TABLE.expand("video")),
        (TABLE.expand("video"), TABLE.expand("audio")),
    ]
    assert all(c.heads == 0b100001 and c.streams == (3, 4) and c.scope == "all" for c in cuts)
    (cut,) = avflow.Knockout("media", "all", scope="other_items", random_share=0.25, seed=7, cut_self=True).cuts(TABLE)
    assert (cut.scope, cut.random_share, cut.seed, cut.cut_self, cut.streams) == ("other_items", 0.25, 7, True, None)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"scope": "some"}, "scope = 'some': pass one of all, other_items"),
        ({"heads": ()}, "heads = \\(\\)"),
        ({"heads": (64,)}, "heads = \\(64,\\)"),
        ({"heads": (-1,)}, "heads"),
        ({"heads": True}, "heads"),
        ({"random_share": 0.0}, "random_share = 0.0"),
        ({"random_share": 1.5}, "random_share = 1.5"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_bad_values(more, message):
    with pytest.raises(avflow.InputError, match=message):
        avflow.Knockout("video", "last", **more)


@pytest.mark.parametrize("side", ["", "a b", [], [3], None])
def test_bad_sides(side):
    with pytest.raises((avflow.InputError, TypeError)):
        avflow.Knockout(side, "last")


def test_presets():
    paths = preset("av_video")
    assert len(paths) == 15
    for knockout in paths:
        knockout.cuts(TABLE)  # every group exists
    assert {"cross:video", "cross:audio", "audio<->video", "video->question", "audio->question", "question->last",
            "video->last", "audio->last", "last->last (self)"} <= {k.name for k in paths}  # fmt: skip
    for name, count in (("interleaved", 13), ("map_the_flow", 11)):
        assert len(as_knockouts(name)) == count
        for knockout in as_knockouts(name):
            knockout.cuts(TABLE)
    with pytest.raises(avflow.InputError, match="pass one of av_video"):
        preset("av")


def test_lists():
    assert [k.name for k in as_knockouts(["a->b", avflow.Knockout("c", "d")])] == ["a->b", "c->d"]
    assert [k.name for k in as_knockouts("a->b")] == ["a->b"]
    assert len(as_knockouts(avflow.Knockout("a", "b"))) == 1
    with pytest.raises(avflow.InputError, match="'a->b' is given twice"):
        as_knockouts(["a->b", "a -> b"])
    with pytest.raises(avflow.InputError, match="no knockout is given"):
        as_knockouts([])
    with pytest.raises(avflow.InputError, match="pass a text form"):
        as_knockouts([3])


def test_windows():
    assert sorted(window(0, 7, "center", 36)) == [0, 1, 2, 3]
    assert sorted(window(10, 7, "center", 36)) == [7, 8, 9, 10, 11, 12, 13]
    assert sorted(window(10, 4, "center", 36)) == [8, 9, 10, 11]
    assert sorted(window(35, 7, "center", 36)) == [32, 33, 34, 35]
    assert sorted(window(2, 1, "center", 4)) == [2]
    assert sorted(window(2, 2, "inverse", 5)) == [0, 3, 4]
    assert sorted(window(3, 99, "top_down", 5)) == [3, 4]
    assert sorted(window(3, 99, "bottom_up", 5)) == [0, 1, 2, 3]
    for style, width, layer, message in [
        ("sideways", 7, 0, "style 'sideways': pass one of center, inverse, top_down, bottom_up"),
        ("center", 0, 0, "width 0"),
        ("center", 2.5, 0, "width 2.5"),
        ("center", 7, 4, "layer 4 is out of range: the model has layers 0 .. 3"),
    ]:
        with pytest.raises(avflow.InputError, match=message):
            window(layer, width, style, 4)


def test_layer_lists():
    assert layer_list(None, 3) == [0, 1, 2] and layer_list([2, 0, 2], 3) == [0, 2] and layer_list(1, 3) == [1]
    assert layer_list(range(1, 3), 3) == [1, 2]
    for value, message in [([0, 3, -1], r"layers \[-1, 3\] are out of range"), ([], "empty"), (["1"], "'1'")]:
        with pytest.raises(avflow.InputError, match=message):
            layer_list(value, 3)
