"""Items and heads in the text form of a knockout: what they cut is what groups made by hand cut."""

from __future__ import annotations

import dataclasses

import oracle
import pytest
import tiny

import avflow
from avflow.cli.options import split_texts
from avflow.errors import InputError
from avflow.knockouts.presets import as_knockouts
from avflow.knockouts.sides import Parts, ranges
from avflow.prompts.groups import GroupTable

ASKED = dict(window=2, select="all")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("video[2]->last", avflow.Knockout("video", "last", items=2)),
        ("video[ 3, 0-1 ] + audio -> question[1]", avflow.Knockout(["video[0,1,3]", "audio"], "question[1]")),
        ("video->last (heads 0-2,5)", avflow.Knockout("video", "last", heads=(0, 1, 2, 5))),
        ("video->last (head 3) (self)", avflow.Knockout("video", "last", heads=3, cut_self=True)),
        ("audio<->video (other items)", avflow.Knockout("audio", "video", both=True, scope="other_items")),
        ("video->last (random 0.25, seed 3)", avflow.Knockout("video", "last", random_share=0.25, seed=3)),
        ("cross:video[0-3] (heads 1)", avflow.Knockout("video[0-3]", "video[0-3]", scope="other_items", heads=1)),
    ],
)
def test_a_text_says_all_that_a_knockout_holds(text, same):
    one = avflow.Knockout.parse(text)
    assert one == same
    assert avflow.Knockout.parse(one.name) == one  # what tables and config.yaml name can be asked for again


@pytest.mark.parametrize(
    "text",
    ["video[]->last", "video[-1]->last", "video[a]->last", "video->last (heads)", "video->last (heads x)", "[2]->last"]
    + ["video->last (random)", "video->last (random 1e)", "cross:video (other items)", "video->last (all)", "video[1"],
)
def test_texts_of_no_form(text):
    with pytest.raises(InputError, match='write "video->question"'):
        avflow.Knockout.parse(text)


def test_what_makes_no_sense():
    for text, message in (("video[3-1]->last", "'3-1' is no range"), ("video->last (self) (self)", "said twice")):
        with pytest.raises(InputError, match=message):
            avflow.Knockout.parse(text)
    for items in (-1, [], True, "2", [1.5]):
        with pytest.raises(InputError, match=r"Knockout\.items"):
            avflow.Knockout("video", "last", items=items)
    with pytest.raises(InputError, match="names items itself"):
        avflow.Knockout("video[1]", "last", items=2)


def test_commas_in_brackets_part_no_paths():
    assert split_texts(["video[0,2]->last (heads 1,2),cross:video", "audio->last"]) == [
        "video[0,2]->last (heads 1,2)",
        "cross:video",
        "audio->last",
    ]


def test_parts_are_the_sets_of_items_that_are_told_apart():
    table = GroupTable()
    parts = Parts(table, ["video[0-2]", "video[2-4]", "audio", "media[2]"])
    words = {side: parts.expand(side) for side in ("video", "video[0-2]", "video[2-4]", "media[2]", "audio")}
    assert words["video[0-2]"] & words["video[2-4]"] == parts.expand("video[2]") != 0
    assert words["video"] & words["video[0-2]"] == words["video[0-2]"] and words["media[2]"] & words["audio"]
    assert parts.expand("all") == sum({1 << i for i in range(len(table))} | {1 << n for n in parts.part.values()})
    assert ranges([5, 0, 1, 2]) == "0-2,5"
    with pytest.raises(InputError, match="ask for fewer items at a time"):
        Parts(table, [f"video[{i}]" for i in range(64)])


def by_hand(prompt, group, items, name):
    """The prompt with some items of a group in a group of their own."""
    kinds = zip(prompt.groups, prompt.items, strict=True)
    return dataclasses.replace(prompt, groups=[name if g == group and i in items else g for g, i in kinds])


@pytest.mark.parametrize("layout", ["interleaved", "question_first"])
def test_items_equal_groups_made_by_hand_and_the_oracle(omni, layout):
    """Several at once, which overlap, beside whole groups: each is what it is alone."""
    omni.groups.add("part")
    prompt = tiny.av_prompt(layout)
    cases = {  # text: the same with the group `part`, its items
        "video[1]->last": ("part->last", "video", {1}),
        "video[0-2]->question": ("part->question", "video", {0, 1, 2}),
        "video[1-3]+audio->last": ("audio+part->last", "video", {1, 2, 3}),
        "video->question": ("video+part->question", "video", {1}),
        "cross:video": ("cross:video+part", "video", {1}),
        "video->option_incorrect[2]": ("video->part", "option_incorrect", {2}),
        "audio[0]<->video[1]": ("audio[0]<->part", "video", {1}),
        "cross:video[0-1]": ("cross:part", "video", {0, 1}),
    }
    found = avflow.sweep(omni, prompt, list(cases), **ASKED).table.to_pylist()
    assert {row["status"] for row in found} <= {"ok", "no edge to cut"}
    for text, (path, group, items) in cases.items():
        marked = by_hand(prompt, group, items, "part")
        rows = [row for row in found if row["knockout"] == text]
        wanted = avflow.sweep(omni, marked, path, **ASKED).table.to_pylist()
        assert [row["logp_knockout"] for row in rows] == pytest.approx([w["logp_knockout"] for w in wanted], abs=2e-5)
        assert [row["status"] for row in rows] == [w["status"] for w in wanted]
        if "[" not in path:
            named = [{**row, "knockout": path} for row in rows]
            oracle.check_rows(omni.hf, marked, as_knockouts(path), named, window=2)


def test_heads_from_a_text_equal_the_oracle(omni):
    prompt, paths = tiny.av_prompt(), as_knockouts(["video->question (heads 0-1)", "question->last (heads 3)"])
    rows = avflow.sweep(omni, prompt, paths, **ASKED).table.to_pylist()
    assert oracle.check_rows(omni.hf, prompt, paths, rows, window=2) > 1e-3


def test_an_item_that_a_prompt_lacks_has_no_value(omni):
    rows = avflow.sweep(omni, tiny.av_prompt(), "video[99]->last", **ASKED).table.to_pylist()
    assert {row["status"] for row in rows} == {"no token: video[99]"} and rows[0]["logp_knockout"] is None


def test_generated_text_under_items(omni):
    omni.groups.add("part")
    prompt = tiny.av_prompt(seconds=2)
    asked = dict(window=4, layers=[0, 1], max_new_tokens=4)
    found = avflow.sweep_text(omni, prompt, ["video[0]->question+last+answer", "video->text"], **asked).table
    for path, same in (("part->question+last+answer", 0), ("video+part->text", 1)):
        wanted = avflow.sweep_text(omni, by_hand(prompt, "video", {0}, "part"), path, **asked).table
        rows = found.to_pylist()[2 * same : 2 * same + 2]
        assert [row["tokens_knockout"] for row in rows] == wanted["tokens_knockout"].to_pylist()


def test_where_items_cannot_be_told_apart(omni):
    with pytest.raises(InputError, match="items cannot be kept apart"):
        avflow.pathways(omni, tiny.av_prompt(), {"video[0]->last": None})
    with pytest.raises(InputError, match="in a block, put these tokens into a group of your own"):
        with avflow.knockout(omni, "video[0]->last"):
            pass
