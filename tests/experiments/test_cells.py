"""Single cells of a sweep, and the rule by which an answer counts as correct."""

import pytest
import torch
from tiny import av_prompt, decoder, text_prompt, thinker
from tiny_job import TinyJob, write

import avflow
from avflow.errors import InputError
from avflow.prompts.correct import says_answer
from avflow.runs.loop import run

CELLS = [
    ("video->question", 3),
    ("question->last", 0),
    ("cross:video", 2),
    ("question->last", 3),
    ("video->question", 1),
]
ASKED = dict(window=[1, 2], select="all")


def test_cells_are_those_of_the_whole_sweep_at_their_own_price():
    model, prompts = avflow.wrap(thinker()), [av_prompt(seconds=2), av_prompt("question_first", seconds=2, id="1")]
    paths = ["video->question", "question->last", "cross:video"]
    whole = avflow.sweep(model, prompts, paths, **ASKED)
    some = avflow.sweep(model, prompts, cells=CELLS, **ASKED)
    named = {(row["prompt"], row["knockout"], row["layer"], row["window"]): row for row in whole.table.to_pylist()}
    rows = some.table.to_pylist()
    assert len(rows) == 2 * 2 * len(CELLS)
    for row in rows:
        want = named[row["prompt"], row["knockout"], row["layer"], row["window"]]
        assert row["logp_knockout"] == pytest.approx(want["logp_knockout"], abs=1e-5)
        assert {k: v for k, v in row.items() if "logp" not in k and "p_" not in k and k != "change_percent"} == {
            k: v for k, v in want.items() if "logp" not in k and "p_" not in k and k != "change_percent"
        }
    assert {(row["knockout"], row["layer"]) for row in rows} == set(CELLS)
    assert some.meta["cells"] == [list(cell) for cell in CELLS]
    request = avflow.SweepRequest(cells=CELLS, **ASKED)
    ratio, all_of_them = (
        avflow.estimate(model, prompts, asked)["ratio"] for asked in (request, avflow.SweepRequest(paths, **ASKED))
    )
    assert ratio < all_of_them / 1.5


def test_a_run_of_cells_is_resumed_and_is_another_run(tmp_path):
    samples = write(tmp_path / "samples.jsonl", ["a", "b", "c"])
    asked = dict(window=1, select="all", cells=[("video->last", 1), ("audio->last", 0)])
    first = run(TinyJob("tiny", samples, **asked), tmp_path / "run")
    assert [(r["knockout"], r["layer"]) for r in first.table.to_pylist()][:2] == asked["cells"]
    again = run(TinyJob("tiny", samples, **asked), tmp_path / "run")
    assert again.skipped == 3 and again.table.equals(first.table)
    with pytest.raises(InputError, match="cells"):
        run(TinyJob("tiny", samples, **{**asked, "cells": asked["cells"][:1]}), tmp_path / "run")
    with pytest.raises(InputError, match="correct_by"):
        run(TinyJob("tiny", samples, **asked, correct_by="vocabulary"), tmp_path / "run")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(cells=[]), r"cells = \[\]"),
        (dict(cells="video->last"), "cells"),
        (dict(cells=[("video->last",)]), "pairs such as"),
        (dict(cells=[("video->last", 1, 2)]), "pairs such as"),
        (dict(cells=[("av_video", 1)]), "'av_video' is a preset"),
        (dict(cells=[("video->last", 1.5)]), "1.5"),
        (dict(cells=[("video->last", 1), ("video->last", 1)]), "given twice"),
        (dict(cells=[("video->last", 1), ("video -> last", 1)]), "given twice"),
        (dict(cells=[(avflow.Knockout(g, "last", name="a"), 1) for g in ("video", "audio")]), "given twice"),
        (dict(cells=[(avflow.Knockout(g, "last", name="a"), len(g)) for g in ("video", "text")]), "are called 'a'"),
        (dict(cells=[("video->last", 1)], layers=[1]), "layers and cells"),
        (dict(cells=[("video->last", 1)], knockouts="audio->last"), "knockouts and cells"),
        (dict(cells=[("video->last", 99)]), r"layers \[99\]"),
        (dict(cells=[("nothing->last", 1)]), "nothing"),
        (dict(correct_by="key"), "'key'"),
    ],
)
def test_what_makes_no_sense(asked, message):
    with pytest.raises(InputError, match=message):
        avflow.sweep(avflow.wrap(decoder()), text_prompt(decoder().config.hidden_size), **asked)


def test_the_studies_select_by_the_whole_vocabulary():
    """Against the model's own forward, rendered anew: the letters alone, or all tokens there are."""
    model = avflow.wrap(thinker())
    prompts, leads, says = [], [], []
    for seed in range(12):
        made = av_prompt(seconds=2, seed=seed, id=str(seed), option_ids=[7, 9], answer_ids=(7,))
        with torch.no_grad():
            logits = model.hf(**made.model_inputs).logits[0, -1]
        if seed % 3 == 0:  # of random weights, what they would say is the answer only where it is made so
            own = int(logits.argmax())
            made = av_prompt(seconds=2, seed=seed, id=str(seed), option_ids=[own, 9], answer_ids=(own,))
        prompts.append(made)
        leads.append(bool(logits[list(made.option_ids)].max() <= logits[made.answer_ids[0]]))
        says.append(int(logits.argmax()) == made.answer_ids[0])
    asked = dict(knockouts="video->last", layers=[1], window=1, select="correct")
    for rule, want in (("options", leads), ("vocabulary", says)):
        found = avflow.sweep(model, prompts, correct_by=rule, **asked)
        assert [one["correct"] for one in found.meta["prompts"]] == want
        assert found.table["prompt"].to_pylist() == [p.id for p, right in zip(prompts, want, strict=True) if right]
    assert leads != says and sum(says) == 4 and not all(leads)


def test_case_and_spaces_of_an_answer():
    words = {5: " Two", 6: "two", 7: "B", 8: " dogs"}
    text = lambda ids: "".join(words[i] for i in ids)  # noqa: E731
    prompt = avflow.Prompt(input_ids=[1, 2], groups=["question_text", "last"], answer_ids=[6], answer="two")
    assert says_answer(prompt, [5], text) and says_answer(prompt, [6], text) and not says_answer(prompt, [7], text)
    both = avflow.Prompt(input_ids=[1, 2], groups=["question_text", "last"], answer_ids=[6, 8])
    assert says_answer(both, [5, 8], text) and not says_answer(both, [5, 7], text)
