"""Groups of one's own: labels of samples, a labelling function, and what they cover."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter

import numpy as np
import oracle
import pytest
from clips import Clip, write_png, write_wav
from demo_folder import clip_file, demo, model
from tiny import av_prompt, text_prompt

import avflow
from avflow.errors import AvflowWarning, InputError
from avflow.knockouts.presets import as_knockouts
from avflow.prompts.label import Label
from avflow.prompts.relabel import relabel
from avflow.runs.loop import run
from avflow.runs.sweep_job import SweepJob
from avflow.runs.workers.worker import SampleWorker

CLIP = Clip()  # 4 s, 112 x 84 pixels: 4 temporal patches of 1 s, each of 3 rows of 4 tokens; sound of 100 tokens
FILE = """GROUPS = ["object", "rest_of_it"]


def marks(prompt, sample):
    video = [at for at, group in enumerate(prompt.groups) if group == "video"]
    return {"object": video[:5], "rest_of_it": video[5:9]}
"""


def sample(*labels, **changes) -> avflow.Sample:
    asked = dict(id="0", question="Which color is the shape?", options=["red", "green", "blue"], answer="green")
    return avflow.Sample(**(asked | {"video": str(clip_file(CLIP)), "labels": list(labels) or None} | changes))


def places(prompt, group) -> list[tuple[int, int]]:
    """(item, number within it by the prompt without labels) of a group's tokens."""
    groups, items = prompt.media["labels_of_avflow"]
    seen: Counter = Counter()
    out = []
    for own, was, item in zip(prompt.groups, groups, items, strict=True):
        number = seen[was, item]
        seen[was, item] += 1
        if own == group:
            out.append((item, number))
    return out


def test_a_box_covers_the_tokens_that_show_some_of_it():
    box = {"group": "object", "of": "video", "box": [0.3, 0.4, 0.5, 0.6]}  # column 1 of 4, row 1 of 3
    assert places(model().prepare(sample(box)), "object") == [(item, 5) for item in range(4)]
    wide = {**box, "box": [0.0, 0.34, 0.51, 1.0], "start": 1.5, "end": 3.0}  # columns 0 to 2, rows 1 and 2
    found = [(item, 4 * row + column) for item in (1, 2) for row in (1, 2) for column in (0, 1, 2)]
    assert places(model().prepare(sample(wide)), "object") == found


def test_the_box_of_a_picture(tmp_path):
    picture = write_png(CLIP, tmp_path / "picture.png")
    own = {"group": "object", "box": [0, 0, 0.1, 0.1]}
    prompt = model().prepare(sample(own, video=None, image=str(picture)))
    assert places(prompt, "object") == [(0, 0)]
    both = sample(own, image=str(picture))
    with pytest.raises(InputError, match=r'a video and an image: say which is meant, "of": "video"'):
        model().prepare(both)
    named = model().prepare(sample(own | {"of": "image"}, image=str(picture)))
    assert places(named, "object") == [(0, 0)]


@pytest.mark.parametrize("tagged", [True, False])
def test_the_box_of_a_candidate(tmp_path, tagged):
    pictures = [str(write_png(Clip(color=color), tmp_path / f"{color}.png")) for color in ("red", "blue")]
    sound = str(write_wav(Clip(), tmp_path / "a.wav"))
    asked = dict(id="0", question="Which?", answer="B", labels=[{"group": "left", "box": [0, 0, 0.5, 1], "items": [1]}])
    if tagged:
        asked |= dict(question="Does [img1] fit [audio1], or [img2]?", options=["it", "the other"], answer="A")
        asked |= dict(
            tagged={"[img1]": pictures[0], "[audio1]": sound, "[img2]": pictures[1]}, names=["[img2]", "[img1]"]
        )
    else:
        asked |= dict(candidates=pictures, reference=sound)
    prompt = model().prepare(avflow.Sample(**asked))
    own, left = (prompt.media["labels_of_avflow"][0].count("candidate_correct"), prompt.groups.count("left"))
    assert own and left == own / 2  # of the second picture, which is the right one
    assert prompt.groups.count("candidate_correct") == own - left
    right = [at for at, group in enumerate(prompt.groups) if group == "left"]
    assert {prompt.items[at] for at in right} == {1}
    both = dict(asked, labels=[{"group": "left", "box": [0, 0, 0.5, 1], "of": "candidates"}])
    assert model().prepare(avflow.Sample(**both)).groups.count("left") == 2 * left


def test_seconds_are_those_of_the_file():
    told = {"group": "speech", "of": "audio", "start": 1.0, "end": 2.0}
    prompt = model().prepare(sample(told))
    assert places(prompt, "speech") == [(0, number) for number in range(25, 50)]  # 25 tokens a second, segments of 2 s
    moment = {"group": "then", "start": 2.5, "end": 2.6}
    part = model().prepare(sample(told, moment, start=1.0))
    assert places(part, "speech") == [(0, number) for number in range(25)]
    shown = places(part, "then")  # of the part's second step all; of its sound 1.48, 1.52, 1.56 s
    assert Counter(item for item, _ in shown) == {0: 3, 1: 12}


def test_seconds_are_those_of_the_file_whatever_the_model_is_told():
    """With timing="published" the model is told 2 frames a second; 4 of them are read here."""
    told = {"group": "then", "of": "video", "start": 1.1, "end": 1.4}
    player, published = (model().prepare(sample(told), fps=4, timing=timing) for timing in ("player", "published"))
    assert published.times != player.times
    assert {item for item, _ in places(player, "then")} == {2}  # steps of half a second
    assert places(published, "then") == places(player, "then")


@pytest.mark.parametrize("words", ["猫", "犬", "😀", "größer", "Ist die 猫"])
def test_words_with_characters_of_several_tokens(words):
    question = "Ist die 猫 größer als 犬 😀 hier?"
    prompt = model().prepare(sample({"group": "noun", "text": words}, question=question))
    own = prompt.input_ids[[g == "noun" for g in prompt.groups]].tolist()
    assert model().text(own).strip() == words


def test_words_items_positions_and_which_label_goes_first():
    prompt = model().prepare(
        sample(
            {"group": "subject", "text": "color"},
            {"group": "frame", "of": "video", "items": [1, 2]},
            {"group": "spot", "tokens": [45, 46], "item": 7},
            {"group": "late", "of": "video", "items": 2},
        )
    )
    subject = prompt.input_ids[[g == "subject" for g in prompt.groups]]
    assert model().text(subject.tolist()).strip() == "color"
    assert {item for item, _ in places(prompt, "frame")} == {1} and {item for item, _ in places(prompt, "late")} == {2}
    assert [prompt.items[at] for at, g in enumerate(prompt.groups) if g == "spot"] == [7, 7]
    assert "1 tokens of question_text are subject, by its labels" in prompt.media["notes"]
    assert "12 tokens of video are late, by its labels" in prompt.media["notes"]


def test_a_label_without_a_token_is_noted():
    prompt = model().prepare(sample({"group": "later", "of": "video", "start": 60.0}))
    assert "later" not in prompt.groups and "holds no token" in prompt.media["notes"][0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"group": "object"}, "says of no token"),
        ({"box": [0, 0, 1, 1]}, "has no group"),
        ({"group": "video+audio", "items": 1}, "letters, digits and underscores"),
        ({"group": "media", "items": 1}, "alias"),
        ({"group": "o", "box": [10, 20, 30, 40]}, "shares of width and height"),
        ({"group": "o", "box": [0.5, 0, 0.4, 1]}, "x1 lies right of x0"),
        ({"group": "o", "box": [0.5, 0]}, "x0, y0, x1, y1"),
        ({"group": "o", "start": 3, "end": 2}, "end 2 s is not after start 3 s"),
        ({"group": "o", "start": -1}, "seconds, 0 or more"),
        ({"group": "o", "tokens": []}, "at least one"),
        ({"group": "o", "frames": [1]}, "has no 'frames'"),
        ({"group": "o", "text": " "}, "text is empty"),
        ("object", "a label is 'object'"),
    ],
)
def test_labels_that_make_no_sense(label, message):
    with pytest.raises(InputError, match=message):
        sample(label)


def test_what_a_prompt_cannot_place():
    plain = text_prompt(64)
    cases = (({"start": 1}, "has a time"), ({"box": [0, 0, 1, 1]}, "no grid"), ({"tokens": 10**6}, "0 .. 38"))
    for label, message in cases:
        with pytest.raises(InputError, match=message):
            relabel(plain, [Label("o", **label)], model().groups, model().text)


def test_labels_of_a_sample_survive_its_file():
    one = sample({"group": "object", "box": [0, 0, 0.5, 1], "start": 1})
    line = json.loads(one.to_json())
    assert line["labels"] == [{"group": "object", "start": 1.0, "box": [0.0, 0.0, 0.5, 1.0]}]
    assert avflow.Sample(**line) == one


def by_function(prompt, sample):
    return [
        "object" if g == "video" and item == 1 else None for g, item in zip(prompt.groups, prompt.items, strict=True)
    ]


def by_labels(prompt, sample):
    return [{"group": "object", "of": "video", "items": [1]}]


def by_positions(prompt, sample):
    return {"object": [at for at, item in enumerate(prompt.items) if item == 1 and prompt.groups[at] == "video"]}


PATHS = ["object->question", "video->object", "video+object->last", "cross:video"]


@pytest.mark.parametrize("function", [by_function, by_labels, by_positions])
def test_a_function_equals_groups_given_by_hand_and_the_oracle(omni, function, recwarn):
    omni.groups.add("object")
    prompt = av_prompt(seconds=3)
    names = ["object" if g == "video" and i == 1 else g for g, i in zip(prompt.groups, prompt.items, strict=True)]
    by_hand = dataclasses.replace(prompt, groups=names)
    asked = dict(knockouts=PATHS, window=2, select="all")
    wanted = avflow.sweep(omni, by_hand, **asked).table
    found = avflow.sweep(omni, prompt, **asked, labels=avflow.Labels(function, ["object"]))
    assert found.table.equals(wanted)
    assert oracle.check_rows(omni.hf, by_hand, as_knockouts(PATHS), found.table.to_pylist(), window=2) > 1e-3


def test_a_preset_that_means_less_warns_once(omni):
    omni.warned.clear()
    hook = avflow.Labels(by_function, ["object"])
    with pytest.warns(AvflowWarning, match=r"'video' no longer holds .* object .*: write video\+object") as seen:
        avflow.sweep(omni, [av_prompt(), av_prompt(id="1")], "video->last", window=1, select="all", labels=hook)
    assert len(seen) == 1


def test_a_function_that_breaks_its_word(omni):
    prompt = av_prompt()
    for answer, message in (
        (lambda p, s: ["object"], "is not among|1 names"),
        (lambda p, s: {"nobody": [1]}, "'nobody', which is not among"),
        (lambda p, s: 7, "give a name or None for every token"),
        (lambda p, s: 1 / 0, "failed with ZeroDivisionError"),
        (lambda p, s: ["video"] * len(p), "last"),
        (lambda p, s: p.groups.__setitem__(3, "object"), "changed the prompt's own groups or items"),
        (lambda p, s: p.items.append(0) or ["object"] + [None] * (len(p) - 1), "changed the prompt's own"),
    ):
        with pytest.raises(InputError, match=message):
            avflow.attention_share(omni, prompt, labels=avflow.Labels(answer, ["object"]))
    assert prompt.groups == av_prompt().groups and prompt.items == av_prompt().items  # as before the function
    with pytest.raises(InputError, match="does not say which groups it gives"):
        avflow.attention_share(omni, prompt, labels=by_labels)
    with pytest.raises(InputError, match="file.py:function"):
        avflow.attention_share(omni, prompt, labels="marks.txt:marks")


def test_a_function_from_a_file_is_pickled_by_its_place(tmp_path):
    (tmp_path / "marks.py").write_text(FILE)
    one = avflow.Labels.of(f"{tmp_path}/marks.py:marks")
    again = pickle.loads(pickle.dumps(one))
    assert again.groups == ("object", "rest_of_it") and again.source == one.source
    for name, message in (("none", "has no function 'none'"), ("GROUPS", "has no function")):
        with pytest.raises(InputError, match=message):
            avflow.Labels.of(f"{tmp_path}/marks.py:{name}")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(InputError, match="fails with ZeroDivisionError"):
        avflow.Labels.of(f"{tmp_path}/broken.py:marks")


def job(folder, **options) -> SweepJob:
    made = demo()
    paths = options.pop("knockouts", ["object->last", "video+object->question"])
    asked = dict(window=1, layers=[0, 1], select="all", labels=f"{folder}/marks.py:marks", limit=2)
    return SweepJob(str(made["checkpoint"]), made["samples"], paths, **(asked | options))


def test_a_run_with_a_file_of_labels_is_resumed_and_knows_its_content(tmp_path):
    (tmp_path / "marks.py").write_text(FILE)
    first = run(job(tmp_path), tmp_path / "run", quiet=True)
    assert first.counts["ok"] == 2 and set(first.table["status"].to_pylist()) == {"ok"}
    assert run(job(tmp_path), tmp_path / "run", quiet=True).skipped == 2
    asked = job(tmp_path)
    samples = asked.read_samples()
    worker = SampleWorker(pickle.dumps(asked), 1, "cpu", 1)  # as another process has it
    worker.ready()
    rows = [row for one in samples for row in worker.record(one)["rows"]]
    assert np.allclose([row["logp_knockout"] for row in rows], first.table["logp_knockout"].to_numpy(), atol=1e-5)
    assert "tokens of video are object" in (tmp_path / "run" / "samples.jsonl").read_text()
    (tmp_path / "marks.py").write_text(FILE.replace("[:5]", "[:4]"))
    with pytest.raises(InputError, match="labels"):
        run(job(tmp_path), tmp_path / "run", quiet=True)


def test_unknown_groups_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "marks.py").write_text(FILE)
    monkeypatch.setattr("avflow.models.load", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(InputError, match="'nobody'"):
        run(job(tmp_path, knockouts=["nobody->last"]), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="'object'"):
        run(job(tmp_path, labels=None), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_every_experiment_takes_labels(omni):
    prompt = av_prompt(seconds=2)
    top = int(avflow.sweep(omni, prompt, "video->last", layers=[0], select="all").table["top_clean"][0].as_py())
    prompt, hook = av_prompt(seconds=2, answer_ids=(top,)), avflow.Labels(by_labels, ["object"])
    own = {"labels": hook}
    shares = avflow.attention_share(omni, prompt, layers=[0], **own).table
    assert "object" in shares["group"].to_pylist()
    text = avflow.sweep_text(omni, prompt, "object->text", layers=[0], max_new_tokens=1, **own).table
    assert text["status"].to_pylist() == ["ok"]
    assert set(avflow.sinks(omni, prompt, among="object", times=1.001, **own).table["group"].to_pylist()) == {"object"}
    assert avflow.pathways(omni, prompt, {"object->all": None}, random=0, **own).table.num_rows == 2
    assert avflow.attention_map(omni, prompt, layers=[0], bins=4, **own).prompt == prompt.id
    assert avflow.estimate(omni, prompt, avflow.SweepRequest("object->last"), **own)["status"] == {"object->last": "ok"}
    found = avflow.plan_eviction(omni, [prompt], ["object"], max_accuracy_drop=0.99, layers=[1], **own)
    assert found.plan.table["group"].to_pylist() == ["object"]
