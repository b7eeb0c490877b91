"""The models that come with the package: they load everywhere, see and hear, and need what a task is about."""

import json
import sys
from pathlib import Path

import pytest
import torch

import avflow
from avflow.demo.flow import run_demo
from avflow.demo.questions import held_out
from avflow.errors import InputError
from avflow.report.collect import collect, kind_of
from avflow.report.words import summary
from avflow.synthetic import LINEUP_TASKS, TASKS, make_items, write_items
from avflow.weights import NAMES, folder

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))
from export import accuracy  # noqa: E402


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return avflow.load(request.param)


@pytest.fixture(scope="module")
def omni():
    return avflow.load("tiny-omni")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Six fresh held-out clips per task, as files."""
    return write_items(make_items("heldout", 6 * len(TASKS), seed=2024), tmp_path_factory.mktemp("heldout"))


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_small_and_says_what_it_is(name):
    assert sum(f.stat().st_size for f in folder(name).iterdir()) < 8e6
    card = (folder(name) / "MODEL_CARD.md").read_text(encoding="utf-8")
    tasks = [*TASKS, *LINEUP_TASKS] if name == "tiny-omni" else TASKS
    assert all(f"| {task} |" in card for task in tasks) and f"# {name}\n" in card and "What it is not" in card


def test_it_is_deep_enough_for_windows(model):
    assert model.n_layers >= 12 and model.text_model.config.rope_parameters["rope_theta"] == 100.0


def test_plain_transformers_loads_tiny_omni_too(omni, samples):
    from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

    sample = avflow.Sample.read_jsonl(samples)[0]
    prompt = omni.prepare(sample)
    plain = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder("tiny-omni"), dtype=torch.float32).eval()
    with torch.no_grad():
        ours, theirs = (m(**prompt.model_inputs).logits for m in (omni.hf, plain))
    assert torch.equal(ours, theirs)
    text = AutoTokenizer.from_pretrained(folder("tiny-omni")).decode(prompt.input_ids)
    assert "You see and hear." in text and sample.question in text


def test_it_answers_fresh_held_out_clips(model, samples):
    found = accuracy(model, samples)
    letters, words = (sum(found[t][kind] for t in TASKS) / len(TASKS) for kind in (0, 1))
    assert letters >= 0.95 and words >= 0.95, found


def test_tiny_omni_answers_fresh_interleaved_items(omni, tmp_path):
    found = accuracy(omni, write_items(make_items("heldout", 40, seed=2024, tasks=list(LINEUP_TASKS)), tmp_path))
    assert set(found) == set(LINEUP_TASKS) and min(share for (share,) in found.values()) >= 0.85, found
    assert sum(share for (share,) in found.values()) / len(found) >= 0.95, found


def test_it_generates_the_answer(model, samples):
    sample = avflow.Sample.read_jsonl(samples)[0]
    prompt = model.prepare(sample)
    out = model.hf.generate(**prompt.model_inputs, max_new_tokens=1, do_sample=False)
    assert model.text([int(out[0, -1])]) == sample.answer


def test_the_demo_has_items_for_models_that_read_them_and_a_list_of_models(tmp_path):
    made = held_out(tmp_path, each=1, tasks=("color",), model="tiny-salmonn")
    assert made["checkpoint"] == "tiny-salmonn" and "items" not in made and Path(made["samples"]).exists()
    with pytest.raises(InputError, match="model 'tiny': avflow-models has tiny-omni and tiny-salmonn"):
        held_out(tmp_path, model="tiny")


@pytest.mark.slow
def test_the_demo_leaves_out_what_a_trained_model_answers_wrongly(tmp_path, monkeypatch):
    """One such sample, of a probability near 0, changes by thousands of percent and would be all that a mean shows."""
    monkeypatch.setattr(avflow.demo.flow, "show_samples", lambda *_: None)
    made = held_out(tmp_path, each=2, tasks=("color",), model="tiny-salmonn")
    lines = [json.loads(line) for line in Path(made["samples"]).read_text(encoding="utf-8").splitlines()]
    lines[0]["answer"] = "ABC"["ABC".index(lines[0]["answer"]) - 1]
    Path(made["samples"]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    demo = run_demo(made, tmp_path, lambda _: None)
    assert demo.outcomes[0].counts == {"ok": 1, "selected_out": 1, "failed": 0}
    assert set(demo.outcomes[0].results.table["correct"].to_pylist()) == {True}


@pytest.mark.slow
def test_the_demo_sweeps_clips_and_interleaved_items(tmp_path):
    made = held_out(tmp_path, each=2, tasks=("color", "pitch"), item_tasks=("find_image", "find_sound"))
    told: list[str] = []
    demo = run_demo(made, tmp_path, told.append)
    assert [outcome.counts["ok"] for outcome in demo.outcomes] == [4, 8] and not demo.missing
    assert [kind_of(folder) for folder in demo.folders] == ["sweep", "sweep", "share", "lens", "plan", "samples"]
    found = collect(demo.folders)
    assert [sample["task"] for sample in found["samples"]["samples"]] == ["color", "pitch", "find_image", "find_sound"]
    assert ["answers" in sample for sample in found["samples"]["samples"]] == [True, True, False, False]
    titles = {part["title"]: part["lines"] for part in summary(found)}
    assert any(line.startswith("find_image (4 samples") for line in titles["Information flow, interleaved"])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["video", "audio"])
def test_cutting_a_medium_hurts_the_tasks_about_it_and_no_others(model, samples, source):
    """Edges medium -> all other tokens, in every layer: the tasks that need it fall, those about the other stay."""
    lost = {"visual": [], "audio": [], "both": []}
    other = "audio" if source == "video" else "video"
    everything = f"{source}->{other}+text"  # the medium itself may still mix within itself
    for sample in avflow.Sample.read_jsonl(samples):
        prompt = model.prepare(sample)
        with torch.no_grad():
            clean = model.hf(**prompt.model_inputs).logits[0, -1].softmax(-1)[prompt.answer_ids[0]]
            with avflow.knockout(model, everything, layers=range(model.n_layers)):
                cut = model.hf(**prompt.model_inputs).logits[0, -1].softmax(-1)[prompt.answer_ids[0]]
        lost[TASKS[sample.task].needs].append(float(clean - cut))
    mean = {k: sum(v) / len(v) for k, v in lost.items()}
    own, foreign = ("visual", "audio") if source == "video" else ("audio", "visual")
    assert mean[own] > 0.3 and mean["both"] > 0.2 and abs(mean[foreign]) < 0.1, mean
